"""The pairs of a recipe: its sources opened and mixed, and the pairs held back for validation.

Everything is opened before the first step, so what is missing is found then.
"""

from __future__ import annotations

import logging
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
from .scene_pairs import SceneSource
from .sources import MixedSource
from .synthetic_pairs import SyntheticSource
from .validation import PlanarPairs, Validation

logger = logging.getLogger(__name__)

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
    if data.images and (mix.homographies or mix.taught or mix.scenes or held_back is None):
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
    if data.images and (mix.homographies or mix.taught or mix.scenes):
        # Last, as packing takes longest, but the first among the sources.
        sources[:0] = _of_photos(recipe, device, photos, teacher, labels)
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


def _of_photos(
    recipe: Recipe, device: torch.device, photos: PhotoFolder, teacher: TeacherCache | None,
    labels: KeypointLabels | None,
) -> list[tuple[PairSource, float]]:  # fmt: skip
    """The sources of the recipe's photos with their weights, their pixels packed: homographies of
    all photos, or of those that the teacher knows and of the others; scenes whose walls they are.
    """
    mix, known = recipe.data.mix, photos.names
    if teacher is not None:
        known = tuple(name for name in photos.names if name in teacher)
        if not known:
            raise SamfeatError(
                recipe.data.teacher,
                f"has no entry for any photo in {photos.folder}",
                "run `samfeat teach` on that folder",
            )
        if mix.taught is None and len(known) < len(photos.names):
            logger.warning(
                "%s: it knows %d of %d photos; the others are trained on without a teacher",
                recipe.data.teacher, len(known), len(photos.names),
            )  # fmt: skip
    drawn = [(photos.names, mix.homographies)]
    if mix.taught is not None:
        others = tuple(name for name in photos.names if name not in set(known))
        drawn = [(n, w) for n, w in ((known, mix.taught), (others, mix.homographies)) if w]
        if not all(names for names, _ in drawn):
            raise SamfeatError(
                recipe.data.teacher,
                f"has entries for all photos in {photos.folder}",
                "set data.mix.homographies=0, or leave data.mix.taught out",
            )
    HomographySource(photos, recipe.homographies, teacher, labels)  # refused before packing
    path = recipe.data.packed or recipe.output / PACKED
    with processes.first_alone():
        pack(photos.folder, path)
    sources: list[tuple[PairSource, float]] = [
        (HomographySource(PackedPhotos(path, names), recipe.homographies, teacher, labels), weight)
        for names, weight in drawn
        if weight
    ]
    if mix.scenes:
        walls = [name for names, weight in drawn if weight for name in names] or photos.names
        scenes = SceneSource(
            PackedPhotos(path, walls), recipe.posed, processes=processes.beside(device)
        )
        sources.append((scenes, mix.scenes))
    return sources
