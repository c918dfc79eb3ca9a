"""The teacher `labels`: label maps that somebody drew or another program wrote.

A label map is an image beside none of the photos but in a folder of its own, under the photo's name
with any image extension ("a/b.jpg" and "a/b.png"), of any size that covers the photo. Grey (8 or 16
bits) and palette images hold label numbers, the largest value (255 or 65535) where there is none;
colour images hold a label a colour, black where there is none.

A photo may have several, such as those of several people, numbered from 0 ("a/b_0.png",
"a/b_1.png", ...). Their numbers are then segments of that one map, not classes that photos share;
what they say together is in :mod:`.agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..errors import SamfeatError, in_one_line
from ..files.images import EXTENSIONS
from .agreement import TOLERANCE, taught_by_several
from .cache import Taught
from .maps import borders, cells_of, soft_edges
from .registry import Photo, TeacherOptions

CELL = 8  # pixels of a map whose longer side has 480
DIMENSIONS = 64
_SMOOTH = 6.0  # pixels of such a map: how far a label reaches across its border
_LONGEST = 480


def load(options: TeacherOptions, device: str) -> Labels:
    """The teacher; it computes on the processor whatever the device.

    Raises:
        SamfeatError: no folder of label maps.
    """
    if options.label_dir is None:
        raise SamfeatError("teacher labels", "give the folder of the label maps with --label-maps")
    if not options.label_dir.is_dir():
        raise SamfeatError(options.label_dir, "no such folder", "give that of the label maps")
    return Labels(options.label_dir)


class Labels:
    """See the module."""

    name = "labels"
    weights_sha256: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config: Mapping[str, Any] = {
            "cell": CELL, "dimensions": DIMENSIONS, "smooth": _SMOOTH, "longest": _LONGEST,
            "tolerance": TOLERANCE,
        }  # fmt: skip

    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What the label maps say of each photo.

        Raises:
            SamfeatError: a photo has no label map, or one that cannot be read.
        """
        return [self._teach(photo.name) for photo in photos]

    def knows(self, name: str) -> bool:
        """Whether there is a label map of a photo."""
        return bool(find_label_map(self._folder, name) or _numbered(self._folder, name))

    def _teach(self, name: str) -> Taught:
        if find_label_map(self._folder, name) is None and (
            several := _numbered(self._folder, name)
        ):
            maps = [read_label_map(path) for path in several]
            size = _working_size(maps[0])
            return taught_by_several([_resized(labels, size) for labels in maps], CELL)
        return taught_by(read_label_map(label_map(self._folder, name)))


def taught_by(labels: np.ndarray) -> Taught:
    """What a label map (H, W) says: itself, its borders, and each label's own direction.

    A label's direction is a fixed random one of :data:`DIMENSIONS`, drawn for its number: the same
    in all photos and nearly orthogonal to the others. Directions blend into each other at borders.
    """
    labels = _resized(labels, _working_size(labels))
    numbers, index = np.unique(labels, return_inverse=True)
    directions = np.stack([_direction(int(number)) for number in numbers])
    image = directions[index.reshape(labels.shape)]
    smooth = np.stack([cv2.GaussianBlur(image[..., d], (0, 0), _SMOOTH) for d in range(DIMENSIONS)],
                      axis=2)  # fmt: skip
    return Taught(cells_of(smooth, CELL), labels, soft_edges(borders(labels)))


def label_map(folder: Path, name: str) -> Path:
    """The label map of a photo.

    Raises:
        SamfeatError: there is none.
    """
    if (path := find_label_map(folder, name)) is None:
        raise SamfeatError(
            folder,
            f"has no label map of {name}",
            f"add {Path(name).with_suffix('.png')}, or leave such photos out: --skip-unlabelled",
        )
    return path


def find_label_map(folder: Path, name: str) -> Path | None:
    """The label map of a photo; None where there is none."""
    places = (folder / Path(name).with_suffix(ending) for ending in
              sorted(EXTENSIONS, key=lambda e: (e != ".png", e)))  # fmt: skip
    return next((path for path in places if path.is_file()), None)


def read_label_map(path: Path) -> np.ndarray:
    """Label numbers (H, W) int32, -1 where there is none.

    Raises:
        SamfeatError: the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("L", "P", "1", "I", "I;16", "I;16B"):
                values = np.asarray(image).astype(np.int32)
                largest = 65535 if image.mode.startswith("I") else 255
                return np.where(values == largest, -1, values)
            colours = np.asarray(image.convert("RGB")).astype(np.int32)
    except (OSError, ValueError, SyntaxError) as error:
        why = in_one_line(error)
        raise SamfeatError(path, f"cannot be read as a label map ({why})") from None
    numbers = (colours[..., 0] << 16) + (colours[..., 1] << 8) + colours[..., 2]
    return np.where(numbers == 0, -1, numbers).astype(np.int32)


def _numbered(folder: Path, name: str) -> list[Path]:
    """The label maps under a photo's name with 0, 1, 2, ... behind it; none where 0 is missing."""
    stem = Path(name).with_suffix("")
    paths: list[Path] = []
    while (path := find_label_map(folder, f"{stem}_{len(paths)}.png")) is not None:
        paths.append(path)
    return paths


def _working_size(labels: np.ndarray) -> tuple[int, int]:
    scale = min(1.0, _LONGEST / max(labels.shape))
    height, width = labels.shape
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)


def _direction(number: int) -> np.ndarray:
    """The unit vector (D,) float32 of a label; zero where there is none."""
    if number < 0:
        return np.zeros(DIMENSIONS, np.float32)
    drawn = np.random.default_rng(number).standard_normal(DIMENSIONS)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)
