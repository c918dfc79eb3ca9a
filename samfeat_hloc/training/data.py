"""The pairs of a recipe: its sources opened and mixed, and the pairs held back for validation.

Everything is opened before the first step, so what is missing is found then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import SamfeatError
from ..teachers.cache import TeacherCache
from . import processes
from .homography_pairs import HomographySource, make_pairs
from .keypoint_labels import KeypointLabels
from .megadepth import MegadepthSource
from .mtldesc import MtldescSource
from .pairs import PairSource
from .photos import PackedPhotos, PhotoFolder, Photos, pack
from .posed_pairs import PosedSource
from .recipe import Recipe
from .sources import MixedSource
from .synthetic_pairs import SyntheticSource
from .validation import PlanarPairs, Validation

PACKED = "photos.pack"  # in the output, where the recipe names no other file
VALIDATION_PAIRS = 32
NO_TEACHER = "none (corners as keypoint labels, image gradients as edges)"


@dataclass(frozen=True)
class TrainingData:
    """source: of the batches. validation: fixed pairs that are not trained on; None where the
    recipe has none. teacher: its name, for the checkpoint."""

    source: PairSource
    validation: Validation | None
    teacher: str


def open_data(recipe: Recipe, device: torch.device) -> TrainingData:
    """Open what the recipe names.

    Raises:
        SamfeatError: a file or folder that is missing, empty or cannot be read, a teacher's cache
            or labels that do not know the photos, or photos whose pixels cannot be packed.
    """
    data, mix = recipe.data, recipe.data.mix
    teacher = TeacherCache(data.teacher) if data.teacher else None
    labels = KeypointLabels(data.labels) if data.labels else None
    planar = PlanarPairs.open(data.validation_pairs) if data.validation_pairs else None
    taught_by = [teacher.teacher] if teacher else []
    sources: list[tuple[PairSource, float]] = []
    held_back: Photos | None = PhotoFolder.open(data.validation) if data.validation else None
    if data.images and (mix.homographies or held_back is None):
        photos = PhotoFolder.open(data.images)
        if held_back is None:
            photos, held_back = photos.split()
    if data.model and data.images and mix.model:
        posed = PosedSource.open(
            data.model, data.images, data.depth, teacher, recipe.posed, labels=labels
        )
        sources.append((posed, mix.model))
    if data.megadepth and mix.megadepth:
        scenes = MegadepthSource.open(
            data.megadepth, teacher=teacher, options=recipe.posed, labels=labels
        )
        sources.append((scenes, mix.megadepth))
    if data.mtldesc and mix.mtldesc:
        sources.append((MtldescSource.open(data.mtldesc), mix.mtldesc))
        taught_by.append("sam, from the release's files")
    if data.synthetic and mix.synthetic:
        made = SyntheticSource.open(data.synthetic, recipe.train.seed, options=recipe.posed)
        sources.append((made, mix.synthetic))
        taught_by.append("the generated scenes' geometry")
    if data.images and mix.homographies:
        # Last, as packing takes longest, but the first among the sources.
        source = _homographies(recipe, photos, teacher, labels)
        sources.insert(0, (source, mix.homographies))
    if not sources:
        raise SamfeatError("data.mix", "no source of pairs is left", "give one a weight above 0")
    fixed = None
    if held_back is not None:
        generator = torch.Generator(device).manual_seed(2024)
        fixed = make_pairs(
            held_back, VALIDATION_PAIRS, recipe.pairs, recipe.homographies, generator
        )
    validation = Validation(fixed, planar) if fixed or planar else None
    named = "; ".join(taught_by) or NO_TEACHER
    return TrainingData(
        sources[0][0] if len(sources) == 1 else MixedSource(sources), validation, named
    )


def _homographies(
    recipe: Recipe, photos: PhotoFolder, teacher: TeacherCache | None, labels: KeypointLabels | None
) -> HomographySource:
    """The source of the recipe's photos under homographies, their pixels packed."""
    if teacher is not None and not any(name in teacher for name in photos.names):
        raise SamfeatError(
            recipe.data.teacher,
            f"has no entry for any photo in {photos.folder}",
            "run `samfeat teach` on that folder",
        )
    HomographySource(photos, recipe.homographies, teacher, labels)  # refused before packing
    path = recipe.data.packed or recipe.output / PACKED
    with processes.first_alone():
        pack(photos.folder, path)
    packed = PackedPhotos(path, photos.names)
    return HomographySource(packed, recipe.homographies, teacher, labels)
