"""Keypoint labels without a labelled set: corners that both views of a pair show."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..feature.detection import clear_border, local_maximum, refine
from ..geometry.blur import blur
from ..geometry.homographies import pixel_grid


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur (B, C, H, W) with a Gaussian of ``sigma`` pixels."""
    radius = max(1, round(3 * sigma))
    reach = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    line = torch.exp(-(reach**2) / (2 * sigma**2))
    return blur(x, (line / line.sum()).expand(len(x), -1))


def corner_response(images: Tensor) -> Tensor:
    """Shi-Tomasi: the square root of the structure tensor's smaller eigenvalue, (B, 1, H, W).

    Arguments:
        images: (B, 3, H, W) in [0, 1].
    """
    grey = gaussian_blur(images.mean(dim=1, keepdim=True), 0.8)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    tensor = gaussian_blur(torch.cat([dx * dx, dy * dy, dx * dy], dim=1), 1.2)
    xx, yy, xy = tensor[:, 0:1], tensor[:, 1:2], tensor[:, 2:3]
    smaller = (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).clamp(min=0).sqrt()
    return smaller.clamp(min=0).sqrt()


def common_corners(
    view0: Tensor, view1: Tensor, move01: Callable[[Tensor], Tensor], valid0: Tensor, *,
    limit: int, radius: int = 3, least: float = 0.01,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Corners of view 0 that are corners of view 1 as well.

    The response is the geometric mean of both views' responses at the same place, so what only one
    of them resolves is not asked for.

    Arguments:
        view0, view1: (B, 3, S, S) in [0, 1], not yet relit.
        move01: takes points (B, N, 2) of view 0 to view 1.
        valid0: (B, S, S), 1 where view 0's pixel is photo and lies in view 1's photo.
        limit: at most so many a pair.

    Returns:
        points of view 0 (B, limit, 2) float32 sub-pixel, and (B, limit) of 0 and 1: which of them
        are there.
    """
    batch, _, side, _ = view0.shape
    there = move01(pixel_grid(side, side, device=view0.device).to(view0).expand(batch, -1, 2))
    to_view1 = ((2 * there + 1) / side - 1).view(batch, side, side, 2)
    response1 = F.grid_sample(corner_response(view1), to_view1, align_corners=False)
    response = (corner_response(view0) * response1).clamp(min=0).sqrt() * valid0[:, None]

    kept = (response >= local_maximum(response, radius)) & (response > least)
    kept = clear_border(kept, 4, width=side, height=side)
    ranked = torch.where(kept, response, -1.0).flatten(1)
    values, order = ranked.topk(limit, dim=1)
    whole = torch.stack([order % side, order // side], dim=-1)
    return refine(response[:, 0], whole), (values > 0).to(response.dtype)


def corners_within(
    views: Tensor, mask: Tensor, limit: int, *, radius: int = 3, least: float = 0.01
) -> Tensor:
    """The strongest corners of views (B, 3, S, S) where a mask (B, S, S) is 1.

    Returns:
        (B, limit, 3): whole pixels xy, and 1 where there is such a corner, else 0.
    """
    side = views.shape[-1]
    response = corner_response(views)
    kept = (response >= local_maximum(response, radius)) & (response > least)
    kept = clear_border(kept & (mask[:, None] > 0), 4, width=side, height=side)
    values, order = torch.where(kept, response, -1.0).flatten(1).topk(limit, dim=1)
    return torch.stack([order % side, order // side, values > 0], dim=-1).to(views.dtype)


def splat(points: Tensor, present: Tensor, side: int) -> Tensor:
    """Labels (B, side, side) in [0, 1]: each point shared among its four pixels.

    A whole-pixel label would teach positions rounded to a pixel; the shares keep the fraction,
    which sub-pixel refinement then reads back from the heatmap.
    """
    labels = points.new_zeros(len(points), side * side)
    base = points.floor()
    fraction = points - base
    for dy in (0, 1):
        for dx in (0, 1):
            share = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                fraction[..., 1] if dy else 1 - fraction[..., 1]
            )
            x, y = (base[..., 0] + dx).long(), (base[..., 1] + dy).long()
            inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
            index = (y.clamp(0, side - 1) * side + x.clamp(0, side - 1)).long()
            labels.scatter_add_(1, index, share * present * inside)
    return labels.clamp(max=1).view(-1, side, side)
