"""Photos for the network: decoded upright, with their masks and turns, in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..feature.extraction import Masked, Prepared, prepare, resized_shape
from ..feature.options import ExtractOptions
from ..files import images, provenance
from ..files.masks import Masks
from ..files.orientation import to_upright, turned
from ..parallel.workers import Workers
from ..progress import tqdm


@dataclass(frozen=True)
class DecodedPhoto:
    """A decoded image, upright, its width and height so, how it is stored, and the hash of its
    file. pixels: (H, W, 3) uint8, with a mask, or at the size of the network's input already."""

    name: str
    pixels: np.ndarray | Masked | Prepared
    size: tuple[int, int]
    orientation: int
    stored_size: tuple[int, int]  # width, height
    source: str


@dataclass(frozen=True)
class StoredPhotos:
    """Where images and their masks are, and by how many quarters they are turned."""

    image_dir: Path
    masks: Masks | None
    turns: Mapping[str, int]

    def source(self, name: str) -> str:
        """What stands for an image, its mask and its turn: other features are made of others."""
        quarters = self.turns.get(name, 0)
        source = source_of(self.image_dir, name, self.masks)
        return f"{source} turn {90 * quarters}" if quarters else source

    def read(self, name: str, options: ExtractOptions | None = None) -> DecodedPhoto:
        """Decode a photo; with options bring it to the network's size too."""
        source = self.source(name)  # first: it also brings the file into memory
        stored, orientation = images.read_photo(self.image_dir / name)
        orientation = turned(orientation, self.turns.get(name, 0))
        stored_size = (stored.shape[1], stored.shape[0])
        upright = to_upright(stored, orientation) if orientation != 1 else stored
        size = (upright.shape[1], upright.shape[0])
        mask = None if self.masks is None else self.masks.read(name, stored_size)
        image = upright if mask is None else Masked(upright, to_upright(mask, orientation))
        pixels = image if options is None else prepare(image, options)
        return DecodedPhoto(name, pixels, size, orientation, stored_size, source)


def source_of(image_dir: Path, name: str, masks: Masks | None) -> str:
    """What stands for an image and its mask: a hash of their files."""
    return provenance.file_hash(image_dir / name) + (masks.source(name) if masks else "")


def batches_of_a_size(
    image_dir: Path, names: Sequence[str], options: ExtractOptions, batch_size: int
) -> list[list[str]]:
    """Images that are equally large once resized, together.

    Batches depend on the whole list alone, not on what is done: the network's rounding can depend
    on the batch, and a resumed run has to give what an uninterrupted one gives.
    """
    open_batches: dict[tuple[int, int], list[str]] = {}
    batches = []
    for name in tqdm(names, desc="image sizes", delay=2, leave=False):
        width, height = images.image_size(image_dir / name)
        shape = resized_shape(height, width, options)
        if shape not in open_batches:
            open_batches[shape] = []
            batches.append(open_batches[shape])
        open_batches[shape].append(name)
        if len(open_batches[shape]) == batch_size:
            del open_batches[shape]
    return batches


def decoded(
    read: Callable[[str], DecodedPhoto], batches: Sequence[Sequence[str]], workers: int, ahead: int
) -> Iterator[list[DecodedPhoto]]:
    """Batches of photos, decoded by threads so many photos ahead."""
    with Workers(workers, "decoding") as pool:
        names = (name for batch in batches for name in batch)
        photos = pool.map(read, names, name=str, ahead=ahead)
        for batch in batches:
            yield list(islice(photos, len(batch)))
