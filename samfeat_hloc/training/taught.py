"""What a teacher says of views: its maps of the photos, looked at through the same homographies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.homographies import pixel_grid, transform
from ..teachers.cache import Taught
from .pairs import TeacherViews

CELL = 8  # view pixels to a cell of the student's distillation map


def warp_taught(
    entries: Sequence[Taught | None], sizes: Tensor, to_photo: Tensor, side: int
) -> TeacherViews:
    """Look at teachers' maps of photos through homographies.

    The maps may have any resolution, and each photo its own: they cover exactly the photo.
    Embeddings and edges are means of 2x2 bilinear samples, groups the nearest pixel's. Outside the
    photo there is no group and no edge, and the border's embedding goes on.

    Arguments:
        entries: B of them; None where the teacher has not seen the photo.
        sizes: (B, 2) width and height of the photos in the pixels that ``to_photo`` leads to.
        to_photo: (B, 3, 3) from view pixels to photo pixels.
        side: of the views, in pixels; a multiple of 8.

    Returns:
        On the device of ``to_photo``: the embedding (B, C, side / 8, side / 8) with as many
        channels as the richest entry has (zeros for the others, which cosines do not see), groups
        and edges at the views' size.
    """
    known = [entry for entry in entries if entry is not None]
    depth = max((entry.embedding.shape[0] for entry in known), default=1)
    batch = len(entries)
    embedding = _warped(
        [None if e is None else e.embedding for e in entries], depth, sizes, to_photo, side, CELL
    )
    edges = _warped(
        [None if e is None else e.edges[None] for e in entries], 1, sizes, to_photo, side, 1
    )[:, 0]
    groups, inside = _nearest([None if e is None else e.groups for e in entries], sizes, to_photo,
                              side)  # fmt: skip
    there = torch.tensor([float(entry is not None) for entry in entries], device=to_photo.device)
    inside = inside & (there > 0).view(batch, 1, 1)
    return TeacherViews(
        embedding,
        torch.where(inside, groups, torch.full_like(groups, -1)),
        edges * inside,
        there,
    )


def _warped(
    maps: Sequence[np.ndarray | None], depth: int, sizes: Tensor, to_photo: Tensor, side: int,
    cell: int,
) -> Tensor:  # fmt: skip
    """Maps (c, h, w) seen in the views, a value for each ``cell`` pixels of a side."""
    canvases, shapes = _canvases(maps, depth, np.float32, to_photo.device)
    cells = side // cell
    at = _relative(sizes, to_photo, side, cell / 2) * shapes[:, None] - 0.5
    at = torch.minimum(at.clamp(min=0), shapes[:, None] - 1)
    grid = (2 * at + 1) / at.new_tensor(canvases.shape[:1:-1]) - 1
    grid = grid.view(len(grid), 2 * cells, 2 * cells, 2)
    return F.avg_pool2d(F.grid_sample(canvases, grid, align_corners=False), 2)


def _nearest(
    maps: Sequence[np.ndarray | None], sizes: Tensor, to_photo: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """The group at each pixel (B, S, S) int64, and whether the pixel lies on the photo."""
    planes = [None if m is None else m[None] for m in maps]
    canvases, shapes = _canvases(planes, 1, np.int32, to_photo.device)
    relative = _relative(sizes, to_photo, side, 1.0)
    inside = ((relative >= 0) & (relative <= 1)).all(-1)
    at = (relative * shapes[:, None]).floor().clamp(min=0)
    at = torch.minimum(at, shapes[:, None] - 1).long()
    index = at[..., 1] * canvases.shape[-1] + at[..., 0]
    groups = canvases.flatten(1).long().gather(1, index)
    return groups.view(-1, side, side), inside.view(-1, side, side)


def _relative(sizes: Tensor, to_photo: Tensor, side: int, step: float) -> Tensor:
    """Where view points lie on their photos, from 0 to 1: (B, (side / step)^2, 2)."""
    points = (
        pixel_grid(side, side, step, device=to_photo.device)
        .to(to_photo)
        .expand(len(to_photo), -1, 2)
    )
    return (transform(to_photo, points) + 0.5) / sizes[:, None].to(to_photo)


def _canvases(
    maps: Sequence[np.ndarray | None], depth: int, dtype: type, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Maps (c, h, w) in the corners of one array (B, depth, H, W), and their (B, 2) sizes."""
    shapes = np.array([(1, 1) if m is None else m.shape[:0:-1] for m in maps])
    widest, highest = (int(side) for side in shapes.max(axis=0))
    canvases: np.ndarray = np.zeros((len(maps), depth, highest, widest), dtype)
    for canvas, found in zip(canvases, maps, strict=True):
        if found is not None:
            canvas[: found.shape[0], : found.shape[1], : found.shape[2]] = found
    return (
        torch.from_numpy(canvases).to(device),
        torch.from_numpy(shapes.astype(np.float32)).to(device),
    )
