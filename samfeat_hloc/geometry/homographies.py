"""Random homographies, and the views of photos that they give.

A view is described by the 3x3 matrix that takes its pixels to the photo's (both with the centre of
the top-left pixel at (0, 0)). All functions are batched and run on the tensors' device.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel.devices import to_device

# torch loads its solvers for a GPU when the first is called, and fails where two threads call it.
_SOLVING = threading.Lock()


@dataclass
class HomographyOptions:
    """How far apart the two views of a photo are.

    rotation: largest angle between the views, degrees. scale: largest ratio of their scales.
    perspective: how far a corner moves, as a share of the view's side. shift: how far apart their
    centres are, likewise. zoom: smallest and largest photo pixels to a view pixel, before `scale`.
    """

    rotation: float = 35.0
    scale: float = 2.0
    perspective: float = 0.17
    shift: float = 0.15
    zoom: list[float] = field(default_factory=lambda: [0.7, 1.2])


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform random numbers in [low, high), drawn on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def sample_views(
    sizes: Tensor, side: int, options: HomographyOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two views of each photo.

    Arguments:
        sizes: (B, 2) width and height of the photos, float.
        side: width and height of the views, in pixels.

    Returns:
        Two (B, 3, 3) float32 matrices from view pixels to photo pixels.
    """
    batch = len(sizes)
    device = sizes.device
    ratio = options.scale ** uniform((batch,), -1, 1, generator)
    zoom = uniform((batch,), options.zoom[0], options.zoom[1], generator)
    # A view much larger than its photo would be mostly empty.
    largest = 1.15 * sizes.amin(dim=1) / side
    centre = sizes * uniform((batch, 2), 0.1, 0.9, generator)
    turn = torch.deg2rad(uniform((batch,), -options.rotation, options.rotation, generator))
    half = side / 2
    square = torch.tensor([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])
    corners = half * to_device(square, device)
    source = (corners + half - 0.5).expand(batch, 4, 2)
    views = []
    for sign in (0.5, -0.5):
        scale = torch.minimum(zoom * ratio**sign, largest)[:, None, None]
        cos, sin = torch.cos(turn * sign), torch.sin(turn * sign)
        rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
        moved = corners + uniform((batch, 4, 2), -1, 1, generator) * options.perspective * half
        away = uniform((batch, 1, 2), -1, 1, generator) * options.shift * half
        # Keep the view's middle so far inside that most of it is photo.
        reach = torch.minimum(scale * half * 0.8, sizes[:, None] / 2)
        middle = torch.maximum(torch.minimum(centre[:, None], sizes[:, None] - reach), reach)
        views.append(
            homography_from_points(source, middle + (moved @ rotation + away) * scale - 0.5)
        )
    return views[0], views[1]


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of ``matrix @ x = right``, float32; of batches of small matrices.

    Computed in float64, on the CPU for a device that has none (Apple's); on others nothing waits.
    """
    there = torch.device("cpu") if matrix.device.type == "mps" else matrix.device
    with _SOLVING:
        found, _ = torch.linalg.solve_ex(matrix.to(there).double(), right.to(there).double())
    return found.float().to(matrix.device)


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of homographies (B, 3, 3); see :func:`solved`."""
    return solved(matrix, torch.eye(3, device=matrix.device).expand_as(matrix))


def homography_from_points(source: Tensor, target: Tensor) -> Tensor:
    """The homographies (B, 3, 3) that take four points (B, 4, 2) to four others."""
    there = torch.device("cpu") if source.device.type == "mps" else source.device
    x, y = source.to(there).double().unbind(-1)
    u, v = target.to(there).double().unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    system = torch.cat([rows_u, rows_v], dim=1)
    solution = solved(system, torch.cat([u, v], dim=1)).to(source.device)
    matrix = torch.cat([solution, torch.ones_like(solution[:, :1])], dim=1)
    return matrix.view(-1, 3, 3)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply homographies (B, 3, 3) to points (B, N, 2)."""
    moved = points @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 2]
    depth = points @ matrix[:, 2:, :2].transpose(1, 2) + matrix[:, None, 2:, 2]
    # A point behind the camera plane must not come back as a plausible one.
    depth = torch.where(depth > 1e-6, depth, torch.full_like(depth, 1e-6))
    return moved / depth


def pixel_grid(
    height: int, width: int, step: float = 1.0, *, device: torch.device | None = None
) -> Tensor:
    """Pixel centres (height * width, 2) xy; ``step`` 0.5 gives those of a grid twice as fine."""
    y = (torch.arange(int(height / step), device=device) + 0.5) * step - 0.5
    x = (torch.arange(int(width / step), device=device) + 0.5) * step - 0.5
    return torch.stack([g.flatten() for g in torch.meshgrid(x, y, indexing="xy")], dim=1)


def warp(photos: Tensor, sizes: Tensor, matrix: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Look at photos through homographies.

    Every view pixel is the mean of 2x2 samples, so that views half as sharp as the photo do not
    alias.

    Arguments:
        photos: (B, 3, H, W) float, each in the top-left corner of its canvas.
        sizes: (B, 2) their true width and height.
        matrix: (B, 3, 3) from view pixels to photo pixels.
        side: width and height of the views.

    Returns:
        views (B, 3, side, side), and (B, side, side) of 0 and 1: where there is photo.
    """
    batch, _, height, width = photos.shape
    fine = pixel_grid(side, side, 0.5, device=matrix.device).to(matrix).expand(batch, -1, 2)
    at = transform(matrix, fine)
    x, y = at.unbind(-1)
    wide, high = (sizes - 1)[:, :, None].unbind(1)
    inside = (x >= 0) & (y >= 0) & (x <= wide) & (y <= high)
    # Outside the photo its border goes on; the canvas beyond is empty.
    at = torch.minimum(at.clamp(min=0), sizes[:, None] - 1)
    x, y = at.unbind(-1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    views = F.grid_sample(photos, grid.view(batch, 2 * side, 2 * side, 2), align_corners=False)
    inside = inside.view(batch, side, 2, side, 2)
    inside = (inside[:, :, 0] & inside[:, :, 1]).all(dim=-1)
    return F.avg_pool2d(views, 2), inside.to(views.dtype)
