"""From maps to points: non-maximum suppression, top-k, sub-pixel peaks, descriptor sampling.

Pure tensor functions, on any device, without a loop over points. Coordinates are xy in pixels with
the centre of the top-left pixel at (0, 0).

On a processor only the points that are there are worked on. Elsewhere to know their number means to
wait until the device has done all it was given, so every image of a batch has room for as many as
are asked for, and what is not a point is marked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def counts_first(device: torch.device) -> bool:
    """Whether it costs nothing there to look how many points there are."""
    return device.type == "cpu"


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """A few numbers (N,) with the type and device of ``like``, made there.

    To copy them from the host would wait for the device.
    """
    return torch.stack(
        [torch.full((), value, dtype=like.dtype, device=like.device) for value in values]
    )


def local_maximum(x: Tensor, radius: int) -> Tensor:
    """Maximum over squares of side 2 * radius + 1 (B, 1, H, W), as two passes of lines.

    Windows are doubled until they are as wide as that: thirty times as fast as max-pooling, which
    uses one core for a map of one channel.
    """
    side = 2 * radius + 1
    least = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    x = F.pad(x, (radius,) * 4, value=least)
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
    left = torch.where(scores >= threshold, scores, -torch.inf)
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
    dtype = torch.float32 if pixels < 2**24 else torch.int64
    rank = torch.arange(pixels, 0, -1, device=peaks.device, dtype=dtype).view(peaks.shape[-2:])
    rank = torch.where(peaks, rank, 0)
    return peaks & (rank == local_maximum(rank, radius))


def clear_border(kept: Tensor, border: int, *, width: int, height: int) -> Tensor:
    """Drop points closer than ``border`` pixels to the edge of the (width, height) image.

    ``kept`` (B, 1, H, W) bool may be larger than the image, padded at its right and bottom.
    """
    inside = torch.zeros_like(kept)
    inside[..., border : max(height - border, border), border : max(width - border, border)] = True
    return kept & inside


def best_points(scores: Tensor, kept: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """The points of each image, best first.

    Arguments:
        scores: (B, H, W); kept: (B, H, W) bool; limit: at most so many of each, None for all.

    Returns:
        xy (B, N, 2) int64 and their scores (B, N), minus infinity behind the last point of an
        image that has fewer than N.
    """
    columns = scores.shape[-1]
    flat, kept = scores.flatten(1), kept.flatten(1)
    if counts_first(scores.device):
        found = [
            _best_of(s, torch.nonzero(k)[:, 0], limit) for s, k in zip(flat, kept, strict=True)
        ]
        values = _padded([value for value, _ in found], -torch.inf)
        index = _padded([index for _, index in found], 0)
    else:
        if limit is None:  # the only look at a number, one for the batch
            limit = int(kept.sum(1).amax())
        flat = flat.masked_fill(~kept, -torch.inf)
        _, index = flat.topk(min(limit, flat.shape[1]), sorted=False)
        # Of equal scores the first point comes first, whatever order `topk` has them in. (Which
        # of those equal to the last that fits are left out is its choice, here and above.)
        index = index.sort().values
        values, order = flat.gather(1, index).sort(descending=True, stable=True)
        index = index.gather(1, order)
    xy = torch.stack([index % columns, torch.div(index, columns, rounding_mode="floor")], dim=-1)
    return xy, values


def _best_of(scores: Tensor, points: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """Of an image's scores (P,) those at points (N,), best first, and the points in that order."""
    values = scores[points]
    if limit is not None and len(points) > limit:
        values, order = torch.topk(values, limit)
    else:
        values, order = torch.sort(values, descending=True, stable=True)
    return values, points[order]


def _padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Rows of any lengths as one tensor (B, N)."""
    longest = max(map(len, rows))
    return torch.stack([F.pad(row, (0, longest - len(row)), value=value) for row in rows])


def refine(logits: Tensor, xy: Tensor) -> Tensor:
    """Sub-pixel positions: the peak of the quadratic through the 3x3 neighbourhood.

    Arguments:
        logits: (H, W) or a batch (B, H, W); xy: (N, 2) or (B, N, 2) integer positions.

    Returns:
        float32 of the shape of ``xy``, moved by at most half a pixel on each axis; points at the
        image's edge and neighbourhoods without a peak stay where they are.
    """
    if logits.ndim == 2:
        return refine(logits[None], xy[None])[0]
    height, width = logits.shape[-2:]
    x, y = xy.unbind(-1)
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    around = peak_neighbourhoods(logits, xy, 1).unflatten(-1, (3, 3)).float()
    dx = (around[..., 1, 2] - around[..., 1, 0]) / 2
    dy = (around[..., 2, 1] - around[..., 0, 1]) / 2
    dxx = around[..., 1, 2] + around[..., 1, 0] - 2 * around[..., 1, 1]
    dyy = around[..., 2, 1] + around[..., 0, 1] - 2 * around[..., 1, 1]
    dxy = (around[..., 2, 2] - around[..., 2, 0] - around[..., 0, 2] + around[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy * dxy
    peak = inside & (determinant > 1e-6) & (dxx < 0) & (dyy < 0)
    safe = torch.where(peak, determinant, 1)
    step = torch.stack([(dxy * dy - dyy * dx) / safe, (dxy * dx - dxx * dy) / safe], dim=-1)
    step = torch.where(peak[..., None], step, 0)
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
    size = constants([width, height], xy)
    if release:
        grid = 2 * xy / (size - 1) - 1
    else:
        # At the border the outermost values go on: not every device has that padding.
        last = constants([1 - 1 / maps.shape[-1], 1 - 1 / maps.shape[-2]], xy)
        grid = torch.minimum(torch.maximum((2 * xy + 1) / size - 1, -last), last)
    found = F.grid_sample(
        maps.float(), grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return found[:, :, 0].transpose(1, 2)
