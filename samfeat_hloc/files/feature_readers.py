"""Read single images and pairs out of hloc's feature and match files, opened once."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ..errors import SamfeatError, some_of
from .h5arrays import open_hdf5, read_array, read_dataset, read_plain, reading_hdf5

_HELD = {"matches0": "match", "keypoints": "feature", "global_descriptor": "retrieval"}


def check_kind(file: h5py.File, path: Path, wanted: str) -> None:
    """Refuse one of hloc's files in the place of another: "feature", "match" or "retrieval".

    Raises:
        SamfeatError: says what the first of its groups has.
    """
    place: h5py.Group | h5py.Dataset = file
    with reading_hdf5(path):
        while isinstance(place, h5py.Group) and len(place):
            held = next((kind for key, kind in _HELD.items() if key in place), None)
            if held is not None and held != wanted:
                raise SamfeatError(
                    path, f"it has {held} data in it, no {wanted} data", "check which file is which"
                )
            if held is not None:
                return
            place = place[next(iter(place))]


class _File:
    def __init__(self, path: Path, what: str, mend: str) -> None:
        self.path = path
        self._what = what
        if not path.is_file():
            raise SamfeatError(path, f"no such {what} file", mend)
        self._file = open_hdf5(path)

    def __enter__(self):  # type: ignore[no-untyped-def]  # typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _lacks(self, problem: str, mend: str) -> SamfeatError:
        """What to say where something is not in the file."""
        check_kind(self._file, self.path, self._what)
        return SamfeatError(self.path, problem, mend)

    def _find(self, key: str) -> h5py.Group | h5py.Dataset | None:
        """What the file has under that name, None where there is nothing.

        It is looked up once; to ask first whether it is there takes as long again.
        """
        with reading_hdf5(self.path):
            try:
                return self._file[key]
            except KeyError:
                if key in self._file:  # there, and damaged
                    raise
                return None

    def _numbers(self, key: str) -> np.ndarray | None:
        """The array of that name, None where there is nothing.

        Raises:
            SamfeatError: it cannot be read, or is none of numbers.
        """
        if (plain := read_plain(self._file, key)) is not None:
            return plain
        found = self._find(key)
        return None if found is None else read_dataset(found, self.path)


def read_descriptors(file: h5py.File, name: str, path: Path) -> np.ndarray:
    """Descriptors (N, D) of an image, float16 or float32 as the file has them, however it is made.

    Raises:
        SamfeatError: not there, not floats (D, N), or not finite.
    """
    with reading_hdf5(path):
        group = file[name]
    values = read_array(group, "descriptors", path)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise SamfeatError(
            path,
            (
                f"descriptors of {name} are {values.dtype} of shape {values.shape} where "
                "floats (D, N) are expected"
            ),
            "extract its features again",
        )
    if not _finite(values):
        raise SamfeatError(
            path, f"descriptors of {name} are not finite", "extract its features again"
        )
    return values.T


def _finite(values: np.ndarray) -> bool:
    """Whether all are numbers. Those of float16 by their bits, as numpy looks at each for 1 ns."""
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    exponent = np.uint16(0x7C00)  # all of its bits: infinity or not a number
    return not bool(((values.view(np.uint16) & exponent) == exponent).any())


class FeatureReader(_File):
    """Keypoints, their noise and the image size of a feature file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "feature", "extract the features first")

    def has(self, name: str) -> bool:
        with reading_hdf5(self.path):
            return f"{name}/keypoints" in self._file

    def missing(self, names: list[str]) -> list[str]:
        return [name for name in names if not self.has(name)]

    def require(self, names: list[str], mend: str) -> None:
        """Refuse a file without features of all these images.

        Raises:
            SamfeatError: names some of them; ``mend`` is what to do about it.
        """
        if missing := self.missing(names):
            raise self._lacks(f"no features of {some_of(missing)}", mend)

    def count(self, name: str) -> int:
        """The number of keypoints of an image; they are not read."""
        found = self._stored_keypoints(name)
        shape = found.shape if isinstance(found, h5py.Dataset) else None
        return int(shape[0]) if shape else 0

    def keypoints(self, name: str) -> np.ndarray:
        """(N, 2) float64 xy with the centre of the top-left pixel at (0.5, 0.5), as in COLMAP."""
        if (keypoints := self._numbers(f"{name}/keypoints")) is None:
            raise self._without(name)
        if keypoints.ndim != 2 or keypoints.shape[1] < 2 or not np.isfinite(keypoints).all():
            raise SamfeatError(
                self.path,
                (
                    f"keypoints of {name} are not finite numbers (N, 2), but of shape "
                    f"{keypoints.shape}"
                ),
                "extract its features again",
            )
        return keypoints[:, :2].astype(np.float64) + 0.5

    def descriptors(self, name: str) -> np.ndarray:
        """See `read_descriptors`."""
        self._stored_keypoints(name)
        return read_descriptors(self._file, name, self.path)

    def uncertainty(self, name: str) -> float:
        """Detection noise in pixels of the original image; 1 where the file does not say."""
        try:
            noise = float(self._stored_keypoints(name).attrs.get("uncertainty", 1.0))
        except (TypeError, ValueError, OSError, KeyError, RuntimeError):
            noise = np.nan
        if not 0 < noise < np.inf:
            raise SamfeatError(
                self.path,
                f"the uncertainty of {name}'s keypoints is not a positive number",
                "extract its features again",
            )
        return noise

    def image_size(self, name: str) -> tuple[int, int] | None:
        """Width and height of the image that the features were extracted from."""
        if (found := self._numbers(f"{name}/image_size")) is None:
            self._stored_keypoints(name)
            return None
        size = found.reshape(-1)
        if len(size) < 2 or not np.isfinite(size).all():
            raise SamfeatError(
                self.path,
                f"the image size of {name} is not width and height",
                "extract its features again",
            )
        return int(size[0]), int(size[1])

    def check_size(self, name: str, camera_size: tuple[int, int], mend: str) -> None:
        """Refuse features of an image of another size than its camera takes, (width, height).

        Args:
            mend: what to do about it where the image is not just turned.

        Raises:
            SamfeatError: the sizes differ.
        """
        size = self.image_size(name)
        if size is not None:
            check_size(self.path, name, size, camera_size, mend)

    def _stored_keypoints(self, name: str) -> h5py.Group | h5py.Dataset:
        """What the file has as the keypoints of an image; a SamfeatError where it has none."""
        if (found := self._find(f"{name}/keypoints")) is None:
            raise self._without(name)
        return found

    def _without(self, name: str) -> SamfeatError:
        return self._lacks(f"no features of {name}", "extract them first")


def check_size(
    subject: Path, name: str, size: tuple[int, int], camera_size: tuple[int, int], mend: str
) -> None:
    """Refuse an image of another size than its camera takes; both (width, height).

    Args:
        subject: of the error.
        mend: what to do about it where the image is not just turned.

    Raises:
        SamfeatError: the sizes differ.
    """
    if size == camera_size:
        return
    if size == camera_size[::-1]:
        mend = (
            "the photo is stored rotated: save it upright, without an EXIF orientation, or "
            "give the camera of the photo as it is stored"
        )
    raise SamfeatError(
        subject,
        f"{name} is {size[0]}x{size[1]} but its camera is {camera_size[0]}x{camera_size[1]}",
        mend,
    )


class MatchReader(_File):
    """Matches of a pair of images, whichever way round the file has it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "match", "match the pairs first")

    def has(self, name0: str, name1: str) -> bool:
        """Whether the file has the pair, either way round."""
        keys = pair_name(name0, name1), pair_name(name1, name0)
        with reading_hdf5(self.path):
            return any(f"{key}/matches0" in self._file for key in keys)

    def matches(
        self, name0: str, name1: str, counts: tuple[int | None, int | None] = (None, None)
    ) -> np.ndarray:
        """(K, 2) int64: index of the keypoint in image 0, in image 1.

        Arguments:
            counts: of the keypoints of image 0 and of image 1, where they are known.

        Raises:
            SamfeatError: no such pair, or what is stored is not of that many keypoints.
        """
        direct, reverse = pair_name(name0, name1), pair_name(name1, name0)
        for key, flipped in ((direct, False), (reverse, True)):
            if (matches0 := self._numbers(f"{key}/matches0")) is not None:
                if matches0.ndim != 1 or matches0.dtype.kind not in "iu":
                    raise SamfeatError(
                        self.path,
                        (
                            f"matches of {name0} {name1} are {matches0.dtype} of shape "
                            f"{matches0.shape} where integers (N,) are expected"
                        ),
                        "match them again",
                    )
                matches0 = matches0.astype(np.int64)
                pair_counts = counts[::-1] if flipped else counts
                self._check_counts(name0, name1, matches0, *pair_counts)
                index = np.flatnonzero(matches0 >= 0)
                pair = (index, matches0[index])
                return np.stack(pair[::-1] if flipped else pair, axis=1)
        raise self._lacks(
            f"no matches of the pair {name0} {name1}", "match this list of pairs first"
        )

    def _check_counts(
        self, name0: str, name1: str, matches0: np.ndarray, first: int | None, second: int | None
    ) -> None:
        """Refuse matches of other keypoints than the images have."""
        wrong = ""
        if first is not None and len(matches0) != first:
            wrong = f"{len(matches0)} keypoints were matched of an image that has {first}"
        elif second is not None and len(matches0) and matches0.max() >= second:
            wrong = (
                f"there are matches with keypoint {matches0.max()} of an image that has {second}"
            )
        if wrong:
            raise SamfeatError(
                self.path, f"the pair {name0} {name1}: {wrong}", "match these features again"
            )


def pair_name(name0: str, name1: str) -> str:
    """The group of a pair in hloc's match files."""
    return f"{name0.replace('/', '-')}/{name1.replace('/', '-')}"
