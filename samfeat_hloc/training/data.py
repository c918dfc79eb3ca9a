"""The pairs of a recipe: its sources opened and mixed, and the pairs held back for validation.

Everything is opened before the first step, so what is missing is found then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import SamfeatError
from .homography_pairs import HomographySource, load_photos, make_pairs
from .pairs import PairBatch, PairSource
from .recipe import Recipe

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
            cache that does not know the photos.
    """
    data = recipe.data
    sources: list[tuple[PairSource, float]] = []
    validation = None
    held_back = None
    if data.validation:
        held_back = load_photos(data.validation)
    if data.images and (data.mix.homographies or not data.validation):
        photos = load_photos(data.images)
        if held_back is None:
            photos, held_back = photos.split()
        if data.mix.homographies:
            sources.append((HomographySource(photos, recipe.homographies), data.mix.homographies))
    if not sources:
        raise SamfeatError("data.mix: no source of pairs is left; give one a weight")
    if held_back is not None:
        fixed = torch.Generator(device).manual_seed(2024)
        validation = make_pairs(
            held_back, VALIDATION_PAIRS, recipe.pairs, recipe.homographies, fixed
        )
    return TrainingData(sources[0][0], validation, NO_TEACHER)
