"""From maps to points: non-maximum suppression, top-k, sub-pixel peaks, descriptor sampling.

Pure tensor functions, on any device, without a loop over points. Coordinates are xy in pixels with
the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_maximum(x: Tensor, radius: int) -> Tensor:
    """Maximum over squares of side 2 * radius + 1 (B, 1, H, W), as two passes of lines.

    Windows are doubled until they are as wide as that: thirty times as fast as max-pooling, which
    uses one core for a map of one channel.
    """
    side = 2 * radius + 1
    x = F.pad(x, (radius,) * 4, value=-torch.inf)
    for axis in (-1, -2):
        width = 1
        while width < side:
            step = min(width, side - width)
            length = x.shape[axis] - step
            x = torch.maximum(x.narrow(axis, 0, length), x.narrow(axis, step, length))
            width += step
    return x


def suppress(scores: Tensor, radius: int, threshold: float, *, exact: bool = False) -> Tensor:
    """Non-maximum suppression of a score map.

    Arguments:
        scores: (B, 1, H, W).
        radius: no two points within this Chebyshev distance of each other, in pixels.
        threshold: points below it are dropped.
        exact: suppress as the greedy algorithm does, best point first. A round keeps every point
            that is the maximum of what is left around it, and removes its neighbourhood; a few
            rounds (not one for each point) give the greedy result. Without it the first round is
            the result: peaks of the map only, not the shoulders beside them.

    Returns:
        (B, 1, H, W) bool, True at the points kept.
    """
    left = torch.where(scores >= threshold, scores, scores.new_tensor(-torch.inf))
    kept = torch.zeros_like(scores, dtype=torch.bool)
    while True:
        peaks = torch.isfinite(left) & (left == local_maximum(left, radius))
        peaks = first_of_equals(peaks, radius)
        kept |= peaks
        if not exact or not bool(peaks.any()):
            return kept
        near = local_maximum(peaks.to(left.dtype), radius) > 0
        left = left.masked_fill(near, -torch.inf)


def first_of_equals(peaks: Tensor, radius: int) -> Tensor:
    """Of peaks (B, 1, H, W) on one plateau, within ``radius`` of each other, keep the first."""
    pixels = peaks.shape[-2] * peaks.shape[-1]
    # Ranks have to be exact numbers: float32 holds whole ones up to 2^24.
    dtype = torch.float32 if pixels < 2**24 else torch.float64
    rank = torch.arange(pixels, 0, -1, device=peaks.device, dtype=dtype).view(peaks.shape[-2:])
    rank = torch.where(peaks, rank, rank.new_tensor(0.0))
    return peaks & (rank == local_maximum(rank, radius))


def clear_border(kept: Tensor, border: int, *, width: int, height: int) -> Tensor:
    """Drop points closer than ``border`` pixels to the edge of the (width, height) image.

    ``kept`` (B, 1, H, W) bool may be larger than the image, padded at its right and bottom.
    """
    inside = torch.zeros_like(kept)
    inside[..., border : max(height - border, border), border : max(width - border, border)] = True
    return kept & inside


def best_points(scores: Tensor, kept: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """The points of one image, best first.

    Arguments:
        scores: (H, W); kept: (H, W) bool; limit: at most so many, None for all.

    Returns:
        xy (N, 2) int64 and their scores (N,).
    """
    flat = torch.nonzero(kept.flatten()).squeeze(1)
    values = scores.flatten()[flat]
    if limit is not None and len(flat) > limit:
        values, order = torch.topk(values, limit)
        flat = flat[order]
    else:
        values, order = torch.sort(values, descending=True, stable=True)
        flat = flat[order]
    columns = scores.shape[-1]
    xy = torch.stack([flat % columns, torch.div(flat, columns, rounding_mode="floor")], dim=1)
    return xy, values


def refine(logits: Tensor, xy: Tensor) -> Tensor:
    """Sub-pixel positions: the peak of the quadratic through the 3x3 neighbourhood.

    Arguments:
        logits: (H, W); xy: (N, 2) integer positions.

    Returns:
        (N, 2) float32, moved by at most half a pixel on each axis; points at the image's edge and
        neighbourhoods without a peak stay where they are.
    """
    height, width = logits.shape
    inside = (xy[:, 0] > 0) & (xy[:, 0] < width - 1) & (xy[:, 1] > 0) & (xy[:, 1] < height - 1)
    x, y = xy[:, 0].clamp(1, max(width - 2, 1)), xy[:, 1].clamp(1, max(height - 2, 1))
    if height < 3 or width < 3:
        return xy.float()
    around = torch.stack(
        [torch.stack([logits[y + i, x + j] for j in (-1, 0, 1)], 1) for i in (-1, 0, 1)], 1
    ).float()
    dx = (around[:, 1, 2] - around[:, 1, 0]) / 2
    dy = (around[:, 2, 1] - around[:, 0, 1]) / 2
    dxx = around[:, 1, 2] + around[:, 1, 0] - 2 * around[:, 1, 1]
    dyy = around[:, 2, 1] + around[:, 0, 1] - 2 * around[:, 1, 1]
    dxy = (around[:, 2, 2] - around[:, 2, 0] - around[:, 0, 2] + around[:, 0, 0]) / 4
    determinant = dxx * dyy - dxy * dxy
    peak = inside & (determinant > 1e-6) & (dxx < 0) & (dyy < 0)
    safe = torch.where(peak, determinant, torch.ones_like(determinant))
    step = torch.stack([(dxy * dy - dyy * dx) / safe, (dxy * dx - dxx * dy) / safe], dim=1)
    step = torch.where(peak[:, None], step, torch.zeros_like(step))
    return xy.float() + step.clamp(-0.5, 0.5)


def peak_neighbourhoods(logits: Tensor, xy: Tensor, radius: int) -> Tensor:
    """The squares of a map around whole-pixel positions, row by row.

    Arguments:
        logits: (B, H, W); xy: (B, N, 2) int64. Pixels beyond the map repeat its border.

    Returns:
        (B, N, (2 * radius + 1)^2).
    """
    height, width = logits.shape[-2:]
    reach = torch.arange(-radius, radius + 1, device=xy.device)
    y, x = (g.flatten() for g in torch.meshgrid(reach, reach, indexing="ij"))
    columns = (xy[..., 0:1] + x).clamp(0, width - 1)
    rows = (xy[..., 1:2] + y).clamp(0, height - 1)
    index = rows * width + columns
    return logits.flatten(1).gather(1, index.flatten(1)).view(index.shape)


def soft_argmax(neighbourhoods: Tensor, radius: int) -> Tensor:
    """Mean offset (..., 2) xy from the centre, pixels, of the softmax of logits (..., side^2)."""
    reach = torch.arange(-radius, radius + 1, device=neighbourhoods.device).float()
    side = 2 * radius + 1
    weights = torch.softmax(neighbourhoods.float(), dim=-1).unflatten(-1, (side, side))
    return torch.stack([weights.sum(-2) @ reach, weights.sum(-1) @ reach], dim=-1)


def sample(maps: Tensor, xy: Tensor, width: int, height: int, *, release: bool = False) -> Tensor:
    """Bilinear samples of maps that cover images of (width, height) pixels.

    Arguments:
        maps: (B, C, h, w), any scale of the images.
        xy: (B, N, 2) float, in the images' pixels.
        width, height: the size that the maps cover, padding included.
        release: the public release's positions instead of the true ones: it normalises by
            (size - 1) but samples with ``align_corners=False``.

    Returns:
        (B, N, C) float32.
    """
    size = xy.new_tensor([width, height])
    grid = 2 * xy / (size - 1) - 1 if release else (2 * xy + 1) / size - 1
    padding = "zeros" if release else "border"
    found = F.grid_sample(
        maps.float(), grid[:, None], mode="bilinear", padding_mode=padding, align_corners=False
    )
    return found[:, :, 0].transpose(1, 2)
