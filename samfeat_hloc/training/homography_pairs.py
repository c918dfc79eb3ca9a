"""Pairs of views of photos under random homographies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import SamfeatError
from ..images import list_images, read_image
from ..teachers.cache import TeacherCache
from .homographies import HomographyOptions, sample_views, transform, warp
from .keypoint_labels import KeypointLabels, labels_in_views
from .pairs import PairBatch, PairOptions, complete_pairs, seen_by
from .taught import warp_taught

HELD_BACK_EVERY = 25  # each 25th photo is for validation


@dataclass(frozen=True)
class PhotoSet:
    """Photos in memory, each in the top-left corner of an equally large canvas.

    canvases: (P, 3, S, S) uint8; sizes: (P, 2) int64 width and height. names: P names relative to
    the photos' folder; empty where nobody asks for them.
    """

    canvases: Tensor
    sizes: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    def split(self) -> tuple[PhotoSet, PhotoSet]:
        """Photos to train on, and those held back for validation."""
        held_back = torch.arange(len(self)) % HELD_BACK_EVERY == HELD_BACK_EVERY - 1
        return self._only(~held_back), self._only(held_back)

    def _only(self, chosen: Tensor) -> PhotoSet:
        names = tuple(n for n, keep in zip(self.names, chosen.tolist(), strict=False) if keep)
        return PhotoSet(self.canvases[chosen], self.sizes[chosen], names)


def load_photos(folder: Path, longest: int = 480) -> PhotoSet:
    """Read a folder of photos into memory, the longer side at most ``longest`` pixels.

    Raises:
        SamfeatError: no photos there, fewer than two validation folds, or one cannot be read.
    """
    names = list_images(folder)
    if len(names) < HELD_BACK_EVERY:
        raise SamfeatError(
            f"{folder}: holds {len(names)} photos; give a folder with at least {HELD_BACK_EVERY}"
        )
    canvases = np.zeros((len(names), longest, longest, 3), np.uint8)
    sizes = np.zeros((len(names), 2), np.int64)
    for index, name in enumerate(tqdm(names, desc="photos", unit="photo")):
        image = read_image(folder / name)
        scale = min(1.0, longest / max(image.shape[:2]))
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        canvases[index, : image.shape[0], : image.shape[1]] = image
        sizes[index] = image.shape[1::-1]
    return PhotoSet(
        torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.from_numpy(sizes), tuple(names)
    )


def make_pairs(
    photos: PhotoSet,
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
    chosen = torch.randint(len(photos), (count,), generator=generator, device=device).cpu()
    canvases = photos.canvases[chosen].to(device).float() / 255
    sizes = photos.sizes[chosen].to(device).float()

    to_photo0, to_photo1 = sample_views(sizes, side, homographies, generator)
    view0, inside0 = warp(canvases, sizes, to_photo0, side)
    view1, inside1 = warp(canvases, sizes, to_photo1, side)
    matrix01 = torch.linalg.solve(to_photo1.double(), to_photo0.double()).float()
    matrix10 = torch.linalg.inv(matrix01.double()).float()
    move01 = partial(transform, matrix01)
    seen0 = inside0 * seen_by(inside1, move01)
    seen1 = inside1 * seen_by(inside0, partial(transform, matrix10))

    asked = teacher is not None or labels is not None
    names = [photos.names[index] for index in chosen.tolist()] if asked else []
    labelled = taught = None
    if labels is not None:
        found = [labels.read(name) for name in names]
        labelled = labels_in_views(found, sizes, to_photo0, seen0, options.keypoints)
    if teacher is not None:
        entries = [teacher.read(name) if name in teacher else None for name in names]
        taught = (
            warp_taught(entries, sizes, to_photo0, side),
            warp_taught(entries, sizes, to_photo1, side),
        )
    return complete_pairs(
        view0, view1, seen0, seen1, move01, options, generator,
        labelled=labelled, taught=taught, matrix01=matrix01,
    )  # fmt: skip


@dataclass(frozen=True)
class HomographySource:
    """Pairs of views of photos under random homographies.

    Raises:
        SamfeatError: the labels lack a photo; a pair of it would teach that there are no keypoints.
    """

    photos: PhotoSet
    homographies: HomographyOptions
    teacher: TeacherCache | None = None
    labels: KeypointLabels | None = None

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        missing = [name for name in self.photos.names if name not in self.labels]
        if missing:
            raise SamfeatError(
                f"{self.labels.path}: has no labels of {len(missing)} photos ({missing[0]}, ...);"
                " run `samfeat label` on their folder"
            )

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device."""
        return make_pairs(self.photos, count, options, self.homographies, generator,
                          teacher=self.teacher, labels=self.labels)  # fmt: skip
