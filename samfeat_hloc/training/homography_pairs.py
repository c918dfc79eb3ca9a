"""Pairs of views of photos under random homographies."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from ..errors import SamfeatError
from ..geometry.homographies import (
    HomographyOptions,
    inverse,
    sample_views,
    solved,
    transform,
    warp,
)
from ..parallel.devices import to_device
from ..teachers.cache import Taught, TeacherCache
from .keypoint_labels import KeypointLabels, labels_in_views
from .pairs import PairBatch, PairOptions, complete_pairs, seen_by
from .photos import Photos
from .taught import warp_taught

READERS = min(8, os.cpu_count() or 1)  # threads that unpack what the teacher says


def make_pairs(
    photos: Photos,
    count: int,
    options: PairOptions,
    homographies: HomographyOptions,
    generator: torch.Generator,
    *,
    teacher: TeacherCache | None = None,
    labels: KeypointLabels | None = None,
) -> PairBatch:
    """A batch of ``count`` random pairs, computed on the generator's device.

    Arguments:
        teacher: what it says of the photos that it has seen goes with the pairs.
        labels: keypoint labels of all photos; None takes the corners that both views show.
    """
    device = generator.device
    side = options.crop
    drawn = torch.randint(len(photos), (count,), generator=generator, device=device)
    chosen: list[int] = drawn.tolist()
    pixels, wide_high = photos.read(chosen)
    canvases = to_device(pixels, device).float() / 255
    sizes = to_device(wide_high, device).float()

    to_photo0, to_photo1 = sample_views(sizes, side, homographies, generator)
    view0, inside0 = warp(canvases, sizes, to_photo0, side)
    view1, inside1 = warp(canvases, sizes, to_photo1, side)
    matrix01 = solved(to_photo1, to_photo0)
    matrix10 = inverse(matrix01)
    move01 = partial(transform, matrix01)
    seen0 = inside0 * seen_by(inside1, move01)
    seen1 = inside1 * seen_by(inside0, partial(transform, matrix10))

    asked = teacher is not None or labels is not None
    names = [photos.names[index] for index in chosen] if asked else []
    labelled = taught = None
    if labels is not None:
        found = [labels.read(name) for name in names]
        labelled = labels_in_views(found, sizes, to_photo0, seen0, options.keypoints)
    if teacher is not None:
        with ThreadPoolExecutor(READERS, thread_name_prefix="teacher") as readers:
            entries = list(readers.map(partial(_taught_if_known, teacher), names))
        taught = (
            warp_taught(entries, sizes, to_photo0, side),
            warp_taught(entries, sizes, to_photo1, side),
        )
    return complete_pairs(
        view0, view1, seen0, seen1, move01, options, generator,
        labelled=labelled, taught=taught, matrix01=matrix01, shown=(inside0, inside1),
    )  # fmt: skip


def _taught_if_known(teacher: TeacherCache, name: str) -> Taught | None:
    return teacher.read(name) if name in teacher else None


@dataclass(frozen=True)
class HomographySource:
    """Pairs of views of photos under random homographies.

    Raises:
        SamfeatError: the labels lack a photo; a pair of it would teach that there are no keypoints.
    """

    photos: Photos
    homographies: HomographyOptions
    teacher: TeacherCache | None = None
    labels: KeypointLabels | None = None

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        missing = [name for name in self.photos.names if name not in self.labels]
        if missing:
            raise SamfeatError(
                self.labels.path,
                f"has no labels of {len(missing)} photos ({missing[0]}, ...)",
                "run `samfeat label` on their folder",
            )

    @property
    def num_pairs(self) -> int:
        """One of each photo."""
        return len(self.photos)

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device."""
        return make_pairs(self.photos, count, options, self.homographies, generator,
                          teacher=self.teacher, labels=self.labels)  # fmt: skip
