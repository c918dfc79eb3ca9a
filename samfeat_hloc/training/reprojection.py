"""From one view of a scene to another by depth: what posed photos and rendered scenes share.

Views are pinhole pictures: homogeneous pixel = calibration @ camera coordinates, with the centre of
the top-left pixel at (0, 0) and (0, 0, 1) as the calibration's last row. Depth is kept inverse: in
a picture of a plane it is linear in the pixel, so its bilinear samples are exact there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.homographies import pixel_grid

NOWHERE = -1e4
"""Where points without a known depth go: outside every view, and still a number."""

SMOOTH = 0.05
"""Neighbouring pixels whose inverse depths differ by more than this share are not one surface."""


@dataclass(frozen=True)
class Reprojection:
    """Takes points of B views to B others.

    inverse_depth: (B, S, S) of the first views, 0 where unknown. matrix: (B, 3, 3) and offset:
    (B, 3): a pixel (x, y, 1) of inverse depth w goes to matrix @ (x, y, 1) + offset * w.
    slope: (B, S, S, 2), how the inverse depth of what a pixel shows changes a pixel to the right
    and down, where that is known: points between pixels then have the exact depth of what the
    pixel nearest to them shows. Without, depth is interpolated.
    """

    inverse_depth: Tensor
    matrix: Tensor
    offset: Tensor
    slope: Tensor | None = None

    def __call__(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) in the other view; ``NOWHERE`` where depth is unknown."""
        return self.project(points)[0]

    def __getitem__(self, keep: Tensor) -> Reprojection:
        """Of some of the views."""
        slope = None if self.slope is None else self.slope[keep]
        return Reprojection(self.inverse_depth[keep], self.matrix[keep], self.offset[keep], slope)

    def sample(self, points: Tensor) -> Tensor:
        """Inverse depth (B, N) of the first views at points (B, N, 2); 0 outside and unknown."""
        if self.slope is None:
            return sample_inverse_depth(self.inverse_depth, points)
        height, width = self.inverse_depth.shape[-2:]
        near = points.round()
        inside = ((near >= 0) & (near <= near.new_tensor([width - 1, height - 1]))).all(-1)
        near = torch.where(inside[..., None], near, 0.0)
        index = (near[..., 1] * width + near[..., 0]).long()
        at = self.inverse_depth.flatten(1).gather(1, index)
        slope = self.slope.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 2))
        known = inside & (at > 0)
        return torch.where(known, at + (slope * (points - near)).sum(-1), 0.0)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, N, 2) in the other view, and their inverse depth there (B, N), 0 unknown."""
        inverse = self.sample(points)
        moved = points @ self.matrix[:, :, :2].transpose(1, 2) + self.matrix[:, None, :, 2]
        moved = moved + self.offset[:, None] * inverse[..., None]
        ahead = (inverse > 0) & (moved[..., 2] > 1e-6)
        depth_ratio = torch.where(ahead, moved[..., 2], torch.ones_like(inverse))
        there = moved[..., :2] / depth_ratio[..., None]
        there = torch.where(ahead[..., None], there, torch.full_like(there, NOWHERE))
        return there.clamp(NOWHERE, -NOWHERE), torch.where(ahead, inverse / depth_ratio, 0.0)


def sample_inverse_depth(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (B, N) of maps (B, H, W) at points (B, N, 2).

    0 outside, and where a pixel that counts is unknown (0) or on another surface (``SMOOTH``).
    """
    height, width = maps.shape[-2:]
    size = points.new_tensor([width, height])
    inside = ((points >= 0) & (points <= size - 1)).all(-1)
    points = torch.minimum(points.clamp(min=0), size - 1)
    base = torch.minimum(points.floor(), size - 2)
    right, down = (points - base).unbind(-1)
    index = (base[..., 1] * width + base[..., 0]).long()
    flat = maps.flatten(1)
    total = torch.zeros_like(right)
    least, most = torch.full_like(right, torch.inf), torch.zeros_like(right)
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            value = flat.gather(1, index + dy * width + dx)
            weight = share_x * share_y
            counts = weight > 1e-4
            total = total + weight * value
            least = torch.where(counts, torch.minimum(least, value), least)
            most = torch.where(counts, torch.maximum(most, value), most)
    known = inside & (least > 0) & (most - least < SMOOTH * most)
    return torch.where(known, total, 0.0)


def mutually_seen(
    there: Reprojection, back: Reprojection, *, tolerance: float = 0.05, most_error: float = 1.5
) -> Tensor:
    """Pixels of the first views whose content the second views show too.

    Arguments:
        tolerance: the depth in the second view may differ by this share from the expected one;
            what lies behind is hidden.
        most_error: taken back by the second view's own depth, a pixel must land this near.

    Returns:
        (B, S, S) of 0 and 1.
    """
    batch, side, _ = there.inverse_depth.shape
    pixels = (
        pixel_grid(side, side, device=there.matrix.device).to(there.matrix).expand(batch, -1, 2)
    )
    moved, expected = there.project(pixels)
    returned, _ = back.project(moved)
    found = back.sample(moved)
    same = (expected > 0) & (found > 0) & ((found - expected).abs() < tolerance * expected)
    same &= (returned - pixels).norm(dim=-1) < most_error
    return same.view(batch, side, side).float()
