"""The pairs of a recipe: its sources opened and mixed, and the pairs held back for validation.

Everything is opened before the first step, so what is missing is found then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import SamfeatError
from ..teachers.cache import TeacherCache
from .homography_pairs import HomographySource, PhotoSet, load_photos, make_pairs
from .keypoint_labels import KeypointLabels
from .megadepth import MegadepthSource
from .mtldesc import MtldescSource
from .pairs import PairBatch, PairSource
from .posed_pairs import PosedSource
from .recipe import Recipe
from .sources import MixedSource
from .synthetic_pairs import SyntheticSource

VALIDATION_PAIRS = 32
NO_TEACHER = "none (corners as keypoint labels, image gradients as edges)"


@dataclass(frozen=True)
class TrainingData:
    """source: of the batches. validation: fixed homography pairs of photos that are not trained on,
    None where the recipe has no photos. teacher: its name, for the checkpoint."""

    source: PairSource
    validation: PairBatch | None
    teacher: str


def open_data(recipe: Recipe, device: torch.device) -> TrainingData:
    """Open what the recipe names.

    Raises:
        SamfeatError: a file or folder that is missing, empty or cannot be read, or a teacher's
            cache that knows none of the photos.
    """
    data, mix = recipe.data, recipe.data.mix
    teacher = TeacherCache(data.teacher) if data.teacher else None
    taught_by = [teacher.teacher] if teacher else []
    sources: list[tuple[PairSource, float]] = []
    held_back: PhotoSet | None = load_photos(data.validation) if data.validation else None
    if data.images and (mix.homographies or held_back is None):
        photos = load_photos(data.images)
        if held_back is None:
            photos, held_back = photos.split()
        if teacher is not None and not any(name in teacher for name in photos.names):
            raise SamfeatError(
                f"{data.teacher}: knows none of the photos in {data.images}; run samfeat teach on"
                " that folder"
            )
        labels = KeypointLabels(data.labels) if data.labels else None
        source = HomographySource(photos, recipe.homographies, teacher, labels)
        sources.append((source, mix.homographies))
    if data.model and data.images:
        sources.append((PosedSource.open(data.model, data.images, data.depth, teacher), mix.model))
    if data.megadepth:
        sources.append((MegadepthSource.open(data.megadepth, teacher=teacher), mix.megadepth))
    if data.mtldesc:
        sources.append((MtldescSource.open(data.mtldesc), mix.mtldesc))
        taught_by.append("sam, from the release's files")
    if data.synthetic:
        sources.append((SyntheticSource.open(data.synthetic, recipe.train.seed), mix.synthetic))
        taught_by.append("the generated scenes' geometry")
    used = [(source, weight) for source, weight in sources if weight > 0]
    if not used:
        raise SamfeatError("data.mix: no source of pairs is left; give one a weight above 0")
    validation = None
    if held_back is not None:
        fixed = torch.Generator(device).manual_seed(2024)
        validation = make_pairs(
            held_back, VALIDATION_PAIRS, recipe.pairs, recipe.homographies, fixed
        )
    named = "; ".join(taught_by) or NO_TEACHER
    return TrainingData(used[0][0] if len(used) == 1 else MixedSource(used), validation, named)
