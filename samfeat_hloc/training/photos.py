"""Photos to train on: in memory, in their folder, or packed into one file of pixels.

Training reads the same photos again and again. :func:`pack` decodes and reduces each of them once
and leaves their pixels in a file, from which any photo is one short read: however many there are,
memory holds those of a batch, and no processor time goes to decoding.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError, writing
from ..files.atomic import making_file
from ..files.image_folders import list_images
from ..files.images import read_image
from ..parallel.image_checks import refuse_broken
from ..parallel.workers import Workers
from ..progress import tqdm

HELD_BACK_EVERY = 25  # each 25th photo is for validation
LONGEST = 480  # pixels of a photo's longer side; larger ones are reduced
FORMAT = b"samfeat_hloc photos 1\n"

_AHEAD = 4  # photos a thread that are decoded before they are written


class Photos(Protocol):
    """Photos that can be drawn from. names: relative to their folder; empty where unknown."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def read(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some of the photos, each in the top-left corner of an equally large canvas.

        Returns:
            canvases (B, 3, S, S) uint8, zero beyond the photos, and sizes (B, 2) int64, width and
            height.
        """
        ...


@dataclass(frozen=True)
class PhotoSet:
    """Photos in memory. canvases: (P, 3, S, S) uint8; sizes: (P, 2) int64 width and height."""

    canvases: Tensor
    sizes: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Photos`."""
        index = torch.tensor(chosen, dtype=torch.long)
        return self.canvases[index], self.sizes[index]


@dataclass(frozen=True)
class PhotoFolder:
    """Photos as they lie in a folder, decoded when they are read."""

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> PhotoFolder:
        """All photos below a folder.

        Raises:
            SamfeatError: no such folder, no photos in it, or some that are broken.
        """
        names = list_images(folder, for_lists=False)
        refuse_broken(Path(folder), names)
        return cls(Path(folder), tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Photos`.

        Raises:
            SamfeatError: a photo that cannot be read.
        """
        return _on_canvases([_reduced(self.folder / self.names[index]) for index in chosen])

    def split(self) -> tuple[PhotoFolder, PhotoFolder]:
        """Photos to train on, and those held back for validation.

        Raises:
            SamfeatError: too few to hold any back.
        """
        if len(self) < HELD_BACK_EVERY:
            raise SamfeatError(
                self.folder,
                f"holds {len(self)} photos",
                (
                    f"give a folder with at least {HELD_BACK_EVERY}, or photos to validate on "
                    "(data.validation=FOLDER)"
                ),
            )
        last = HELD_BACK_EVERY - 1
        trained = tuple(n for i, n in enumerate(self.names) if i % HELD_BACK_EVERY != last)
        return PhotoFolder(self.folder, trained), PhotoFolder(
            self.folder, self.names[last::HELD_BACK_EVERY]
        )


class PackedPhotos:
    """Photos of a file that :func:`pack` has written; threads may share one.

    The file: :data:`FORMAT`; the photos' pixels, RGB uint8 row by row, one photo after the other;
    the index as JSON (``longest``, and for each photo its name, width, height and ``source``, what
    stood for it in its folder); the index's length in bytes, 8 bytes, little-endian.

    Raises:
        SamfeatError: not such a file, or a damaged one.
    """

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        """
        Arguments:
            names: those of its photos that are drawn from, in this order; None for all.
        """
        self.path = Path(path)
        index = _read_index(self.path)
        if index is None:
            raise SamfeatError(
                path,
                "is not a whole file of packed photos",
                "copy it again, or give another data.packed",
            )
        places, start = {}, len(FORMAT)
        for name, width, height, _ in index["photos"]:
            places[name] = (start, width, height)
            start += 3 * width * height
        self.names = tuple(places if names is None else names)
        self._places = np.array([places[name] for name in self.names], np.int64)
        self._stream = self.path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedPhotos, (self.path, self.names)  # a copy opens the file anew

    def __len__(self) -> int:
        return len(self.names)

    def read(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See :class:`Photos`."""
        photos = []
        for start, width, height in self._places[list(chosen)].tolist():
            pixels = np.empty((height, width, 3), np.uint8)
            with self._lock:
                self._stream.seek(start)
                count = self._stream.readinto(pixels.data.cast("B"))
            if count != pixels.nbytes:
                raise SamfeatError(self.path, "was cut off while it was in use", "start again")
            photos.append(pixels)
        return _on_canvases(photos)


def pack(folder: Path, path: Path) -> PackedPhotos:
    """The photos of a folder as a file of pixels, which is written where it is not there yet.

    The file holds all photos of the folder, some 0.5 MB each. One that is there is taken where
    the folder has the same photos, by name, size and time of change; else it is written anew.

    Raises:
        SamfeatError: no photos, one that cannot be read, a file of something else at ``path``, one
            that another process is writing, or a disk that is full.
    """
    names = list_images(folder, for_lists=False)
    sources = [_source(folder / name) for name in names]
    if not _holds(path, names, sources):
        refuse_broken(folder, names)
        with making_file(path) as place:
            _write(folder, names, sources, place)
    return PackedPhotos(path)


def _write(folder: Path, names: Sequence[str], sources: Sequence[str], path: Path) -> None:
    entries = []
    with path.open("wb") as stream:
        stream.write(FORMAT)
        decoded = _decoded([folder / name for name in names])
        bar = tqdm(decoded, total=len(names), desc="photos", unit="photo")
        for name, source, pixels in zip(names, sources, bar, strict=True):
            stream.write(pixels.data)
            entries.append([name, pixels.shape[1], pixels.shape[0], source])
        index = json.dumps({"longest": LONGEST, "photos": entries}).encode()
        stream.write(index + len(index).to_bytes(8, "little"))


def _decoded(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """The photos in their order, reduced, decoded by threads a few ahead."""
    workers = min(16, os.cpu_count() or 1)
    with Workers(workers, "decoding") as pool:
        yield from pool.map(_reduced, paths, name=str, ahead=_AHEAD * workers)


def _reduced(path: Path) -> np.ndarray:
    """A photo, RGB uint8 (H, W, 3), its longer side at most :data:`LONGEST` pixels."""
    image = read_image(path)
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def _on_canvases(photos: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    canvases = np.zeros((len(photos), LONGEST, LONGEST, 3), np.uint8)
    for canvas, photo in zip(canvases, photos, strict=True):
        canvas[: photo.shape[0], : photo.shape[1]] = photo
    sizes = np.array([photo.shape[1::-1] for photo in photos], np.int64)
    return torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.from_numpy(sizes)


def _source(path: Path) -> str:
    """What stands for a photo, so that a changed one is noticed."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _holds(path: Path, names: Sequence[str], sources: Sequence[str]) -> bool:
    """Whether a whole file of these very photos is there.

    Raises:
        SamfeatError: what is there is no file of packed photos, and not ours to replace.
    """
    if not path.exists():
        return False
    with writing(path), path.open("rb") as stream:
        if stream.read(len(FORMAT)) != FORMAT:
            raise SamfeatError(
                path, "exists and is not a file of packed photos", "give another data.packed"
            )
    index = _read_index(path)
    return (
        index is not None
        and index["longest"] == LONGEST
        and [[entry[0], entry[3]] for entry in index["photos"]]
        == [[name, source] for name, source in zip(names, sources, strict=True)]
    )


def _read_index(path: Path) -> dict[str, Any] | None:
    """The index of a file of packed photos; None where the file is not whole."""
    try:
        with path.open("rb") as stream:
            whole = stream.read(len(FORMAT)) == FORMAT
            end = stream.seek(-8, os.SEEK_END)
            length = int.from_bytes(stream.read(8), "little")
            stream.seek(end - length)
            index: dict[str, Any] = json.loads(stream.read(length))
        pixels = sum(3 * width * height for _, width, height, _ in index["photos"])
        return index if whole and len(FORMAT) + pixels == end - length else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
