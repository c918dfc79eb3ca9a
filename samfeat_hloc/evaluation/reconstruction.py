"""How good a reconstruction is: the figures of the ETH local-feature benchmark.

Schoenberger et al., "Comparative Evaluation of Hand-Crafted and Learned Local Features", 2017:
registered images, points, observations, track length, reprojection error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..colmap.model import is_model, models_below, open_in_pycolmap
from ..errors import SamfeatError
from .tables import aligned


@dataclass(frozen=True)
class ReconstructionFigures:
    """Figures of the largest model of a reconstruction.

    Attributes:
        name: of the method or folder, for the table.
        num_models: models that the photos fell into.
        registered_images: images with a pose.
        points: sparse points.
        observations: keypoints with a point; each belongs to one track.
        mean_track_length: observations of a point.
        observations_per_image: of a registered image.
        mean_reprojection_error: pixels; the mean over points of the mean over their tracks.
    """

    name: str
    num_models: int
    registered_images: int
    points: int
    observations: int
    mean_track_length: float
    observations_per_image: float
    mean_reprojection_error: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def find_models(folder: Path) -> list[Path]:
    """The COLMAP models in a folder: itself, or its sub folders, or those of its `sparse`.

    Raises:
        SamfeatError: there is none.
    """
    if is_model(folder):
        return [folder]
    for parent in (folder, folder / "sparse"):
        if found := models_below(parent):
            return found
    raise SamfeatError(
        folder,
        "no COLMAP model in it",
        "name the folder of a model, or what `samfeat reconstruct` has written",
    )


def evaluate(folder: Path, name: str | None = None) -> ReconstructionFigures:
    """The figures of a reconstruction, of its largest model where there are several.

    Reprojection errors are computed anew: files may hold old ones, or none.

    Args:
        folder: a model, or the outputs folder of `samfeat reconstruct`.
        name: for the table; None for the folder's.

    Raises:
        SamfeatError: no model, or a damaged one.
    """
    folder = Path(folder)
    paths = find_models(folder)
    opened = [open_in_pycolmap(path) for path in paths]
    largest = max(opened, key=lambda model: (model.num_reg_images(), model.num_points3D()))
    largest.update_point_3d_errors()
    return ReconstructionFigures(
        name=name or folder.resolve().name,
        num_models=len(opened),
        registered_images=largest.num_reg_images(),
        points=largest.num_points3D(),
        observations=largest.compute_num_observations(),
        mean_track_length=largest.compute_mean_track_length(),
        observations_per_image=largest.compute_mean_observations_per_reg_image(),
        mean_reprojection_error=largest.compute_mean_reprojection_error(),
    )


def table(rows: Sequence[ReconstructionFigures]) -> str:
    """Aligned text, a row a reconstruction."""
    header = ("", "models", "images", "points", "observations", "track length",
              "observations/image", "reprojection px")  # fmt: skip
    cells = [
        (
            row.name,
            str(row.num_models),
            str(row.registered_images),
            str(row.points),
            str(row.observations),
            f"{row.mean_track_length:.2f}",
            f"{row.observations_per_image:.0f}",
            f"{row.mean_reprojection_error:.3f}",
        )
        for row in rows
    ]
    return aligned(header, cells)
