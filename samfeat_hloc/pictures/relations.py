"""What the teacher and the student find alike in a photo: relation matrices and one cell's map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from ..errors import SamfeatError
from ..feature.network import SAMFeat
from ..teachers.cache import TeacherCache
from ..teachers.reduction import relations

CELL = 8  # pixels of the student's input to a cell of its distillation map
MATRIX_CELLS = 20  # along the longer side, in the picture of the whole matrix


def name_in(cache: TeacherCache, image: Path, name: str | None) -> str:
    """The name under which a cache knows a photo.

    Raises:
        SamfeatError: it does not, or several photos may be meant.
    """
    if name is not None:
        if name not in cache:
            raise SamfeatError(cache.path, f"has no {name}", "run `samfeat teach` on its folder")
        return name
    path = image.resolve().as_posix()
    known = [n for n in cache.names if path == n or path.endswith(f"/{n}")]
    if len(known) != 1:
        which = f"may be {', '.join(known[:3])}" if known else "is not among its photos"
        raise SamfeatError(
            cache.path, f"{image.name} {which}", "give its name in the cache with --name"
        )
    return known[0]


@torch.inference_mode()
def student_embedding(model: SAMFeat, image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The student's distillation map (256, h, w) with as many cells as asked for.

    Arguments:
        image: RGB uint8 (H, W, 3). shape: h and w.
    """
    size = shape[1] * CELL, shape[0] * CELL
    shrinks = size[0] < image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    device = next(model.parameters()).device
    batch = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
    return np.asarray(model(batch).distillation[0].float().cpu().numpy())


def relations_figure(
    image: np.ndarray, teacher: np.ndarray, model: SAMFeat, at: tuple[float, float] | None,
    teacher_name: str, title: str,
) -> Figure:  # fmt: skip
    """Teacher above, student below: the relation matrix, and the relations of one cell.

    Arguments:
        image: RGB uint8 (H, W, 3).
        teacher: its embedding (C, h, w), which covers the photo.
        at: x and y of the chosen cell in pixels of the photo; None for the middle.

    Raises:
        SamfeatError: ``at`` is not on the photo.
    """
    height, width = image.shape[:2]
    x, y = at or (width / 2, height / 2)
    if not (0 <= x < width and 0 <= y < height):
        raise SamfeatError(
            f"--at {x:g} {y:g}", f"is outside the photo of {width} x {height} pixels"
        )
    shape = (teacher.shape[1], teacher.shape[2])
    student = student_embedding(model, image, shape)
    row, column = int(y / height * shape[0]), int(x / width * shape[1])
    figure = Figure(figsize=(8.2, 7.4), layout="constrained")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    pooled = []
    for index, (name, embedding) in enumerate(((teacher_name, teacher), ("student", student))):
        matrix = relations(_coarse(embedding))
        pooled.append(matrix)
        axes = figure.add_subplot(2, 2, 2 * index + 1)
        drawn = axes.imshow(matrix, cmap="cividis", vmin=-1, vmax=1)
        axes.set_xlabel("cell, row by row")
        axes.set_ylabel("cell")
        axes.set_title(f"{name}: cosines between {len(matrix)} cells", fontsize=9)
        figure.colorbar(drawn, ax=axes, shrink=0.8)

        axes = figure.add_subplot(2, 2, 2 * index + 2)
        whole = relations(embedding)[row * shape[1] + column].reshape(shape)
        axes.imshow(image, extent=extent)
        drawn = axes.imshow(whole, extent=extent, cmap="cividis", alpha=0.7, vmin=-1, vmax=1)
        axes.plot([x], [y], marker="+", markersize=14, markeredgewidth=3, color="white")
        axes.plot([x], [y], marker="+", markersize=12, markeredgewidth=1.4, color="black")
        axes.set_xlim(extent[:2])
        axes.set_ylim(extent[2:])
        axes.set_axis_off()
        axes.set_title(f"{name}: like the marked cell", fontsize=9)
    difference = float(np.abs(pooled[0] - pooled[1]).mean())
    figure.suptitle(f"{title}: mean absolute difference {difference:.3f}", fontsize=10)
    return figure


def _coarse(embedding: np.ndarray) -> Any:
    """The map (C, h, w) with at most :data:`MATRIX_CELLS` cells along its longer side."""
    _, height, width = embedding.shape
    scale = min(1.0, MATRIX_CELLS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(c, size, interpolation=cv2.INTER_AREA) for c in embedding])
