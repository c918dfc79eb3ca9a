"""Masks of photos, in COLMAP's convention: what is black in a mask is left out.

The mask of the photo ``a/b.jpg`` is ``a/b.jpg.png`` in the folder of masks, or ``a/b.png``. It has
the photo's pixels as they are stored: where EXIF turns the photo, the mask is turned with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from ..errors import SamfeatError, some_of
from ..progress import tqdm
from . import provenance
from .images import image_size, read_levels

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MaskLike: TypeAlias = "str | Path | np.ndarray | Image.Image | Tensor"
"""A path; a Pillow image; an array or a tensor (H, W), of any numbers or bool. 0 is left out."""


@dataclass(frozen=True)
class Masks:
    """A folder of masks; a photo without one is used whole."""

    folder: Path

    def path(self, name: str) -> Path | None:
        """The file of a photo's mask; None where it has none."""
        for path in (self.folder / f"{name}.png", (self.folder / name).with_suffix(".png")):
            if path.is_file():
                return path
        return None

    def read(self, name: str, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool of a photo of this width and height, False where it is left out.

        Raises:
            SamfeatError: as `as_mask`.
        """
        path = self.path(name)
        return None if path is None else as_mask(path, size)

    def source(self, name: str) -> str:
        """What stands for a photo's mask beside its own hash; "" where it has none."""
        path = self.path(name)
        return "" if path is None else f" mask {provenance.file_sha256(path)}"

    def check(self, photos: Mapping[str, Path]) -> None:
        """Refuse masks that fit none of these photos; say once how many of them have one, and which
        files of the folder are no mask of any.

        Arguments:
            photos: their files, by name.

        Raises:
            SamfeatError: no such folder, no photo with a mask, photos in place of masks, or masks
                of another size.
        """
        if not self.folder.is_dir():
            raise SamfeatError(self.folder, "no such folder of masks", "check the path")
        found = {name: path for name in photos if (path := self.path(name)) is not None}
        if not found:
            first = next(iter(photos))
            which = "the photo" if len(photos) == 1 else f"any of the {len(photos)} photos"
            there = self._without(())
            raise SamfeatError(
                self.folder,
                f"no mask of {which} in it" + (f", but {some_of(there)}" if there else ""),
                f"name masks after the photos, as {first}.png for {first}",
            )
        for name, path in found.items():
            if path.samefile(photos[name]):
                raise SamfeatError(
                    self.folder, f"{name} in it is the photo itself", "give the folder of the masks"
                )
        wrong = {}
        for name, path in tqdm(found.items(), desc="masks", unit="mask", delay=2, leave=False):
            size, wanted = image_size(path), image_size(photos[name])
            if size != wanted:
                wrong[f"{name}.png"] = _of_another_size(path, size, wanted)
        if wrong:
            error, problem = next(iter(wrong.values())), ""
            if len(wrong) > 1:
                problem = f"; {len(wrong)} of {len(found)} masks do not fit: {some_of(list(wrong))}"
            raise SamfeatError(error.subject, error.problem + problem, error.mend)
        logger.info("masks: %d of %d photos have one", len(found), len(photos))
        if others := self._without(found.values()):
            logger.info(
                "masks without a photo here, not used: %d in %s (%s)",
                len(others), self.folder, some_of(others),
            )  # fmt: skip

    def _without(self, used: Iterable[Path]) -> list[str]:
        """The files of the folder but these, and but hidden ones."""
        there = {path for path in self.folder.rglob("*") if path.is_file()} - set(used)
        names = sorted(path.relative_to(self.folder).as_posix() for path in there)
        return [name for name in names if not name.rpartition("/")[2].startswith(".")]


def as_mask(mask: MaskLike, size: tuple[int, int]) -> np.ndarray:
    """A mask in any form as (H, W) bool, False where it is left out.

    Arguments:
        size: width and height that it has to have, those of the photo as it is stored.

    Raises:
        SamfeatError: a file that is no image, another type or number of dimensions, another size.
    """
    subject = str(mask) if isinstance(mask, (str, Path)) else "mask"
    if isinstance(mask, (str, Path)):
        levels = read_levels(Path(mask))
    elif isinstance(mask, Image.Image):
        levels = np.asarray(mask.convert("RGB") if mask.mode in ("P", "RGBA", "LA") else mask)
    else:
        levels = mask if isinstance(mask, np.ndarray) else _of_tensor(mask)
    if levels.ndim == 3 and levels.shape[2] in (1, 3):
        levels = np.asarray(levels.any(axis=2))
    if levels.ndim != 2 or not (levels.dtype == bool or np.issubdtype(levels.dtype, np.number)):
        raise SamfeatError(
            subject,
            f"an array of shape {levels.shape} and type {levels.dtype} was given",
            "give (H, W), 0 where the photo is left out",
        )
    found = (levels.shape[1], levels.shape[0])
    if found != size:
        raise _of_another_size(subject, found, size)
    return np.asarray(levels != 0)


def _of_tensor(mask: Tensor) -> np.ndarray:
    try:
        return np.asarray(mask.detach().cpu())
    except AttributeError:
        raise SamfeatError(
            "mask",
            f"a {type(mask).__name__} was given",
            "give a path, a NumPy array, a Pillow image or a torch tensor",
        ) from None


def _of_another_size(
    subject: object, found: tuple[int, int], size: tuple[int, int]
) -> SamfeatError:
    sizes = f"it is {found[0]}x{found[1]}, but its photo {size[0]}x{size[1]}"
    if found == size[::-1] and found != size:
        sizes += " as it is stored"
        return SamfeatError(
            subject, sizes, "make masks of the stored pixels: EXIF does not turn them"
        )
    return SamfeatError(subject, sizes, "make it anew, in the size of the photo")
