"""Cached features to evaluate: files of hloc's format, files of D2-Net's protocol, and RootSIFT."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import SamfeatError, in_one_line
from ..feature.local_features import FeatureArrays
from ..files import provenance
from ..files.h5arrays import open_hdf5
from ..files.h5store import Group, SegmentWriter
from ..files.images import read_image
from ..files.orientation import keypoints_to_stored, to_upright
from ..progress import tqdm
from .matching import CachedFeatures

logger = logging.getLogger(__name__)

_ORIENTATION_OF_TURNS = {0: 1, 1: 8, 2: 3, 3: 6}  # quarter turns counter-clockwise, EXIF's numbers


class Predictions(Protocol):
    """Features of images by name, whoever made them."""

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> CachedFeatures: ...


class FeatureFile:
    """A feature file of hloc's format, open for reading; a context manager.

    Arguments:
        path: the file.
        max_keypoints: keep the best so many of each image (the file then needs scores).
        folder: look for "FOLDER/name" where there is no "name".

    Raises:
        SamfeatError: no such file, or not HDF5.
    """

    def __init__(self, path: Path, *, max_keypoints: int | None = None, folder: str = "") -> None:
        self.path = Path(path)
        self.max_keypoints = max_keypoints
        self.folder = folder
        self._file = open_hdf5(self.path)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, name: str) -> bool:
        """Whether the file has features of this image."""
        return self._group(name) is not None

    def read(self, name: str) -> CachedFeatures:
        """Features of an image.

        Raises:
            SamfeatError: it has none, or arrays that do not belong together.
        """
        group = self._group(name)
        if group is None:
            raise SamfeatError(self.path, f"no features of {name}", "extract them first")
        try:
            group = self._file[group]
            arrays = {key: np.asarray(group[key][()]) for key in group}
        except (OSError, KeyError, TypeError) as error:
            why = in_one_line(error)
            raise SamfeatError(
                self.path, f"features of {name} cannot be read ({why})", "extract them again"
            ) from None
        scores = arrays.get("keypoint_scores", arrays.get("scores"))
        size = arrays.get("image_size")
        return _checked(
            arrays.get("keypoints"), arrays.get("descriptors"), scores, size,
            self.max_keypoints, f"{self.path}: features of {name}",
        )  # fmt: skip

    def _group(self, name: str) -> str | None:
        for group in (name, f"{self.folder}/{name}"):
            if f"{group}/keypoints" in self._file:
                return group
        return None


class NpzFiles:
    """Files of D2-Net's protocol beside the images: ``1.ppm.NAME``, written by ``np.savez``.

    They hold ``keypoints`` (N, 2 or more), ``descriptors`` (N, D) and ``scores`` (N,).
    """

    def __init__(self, root: Path, name: str, *, max_keypoints: int | None = None) -> None:
        self.root, self.name, self.max_keypoints = Path(root), name, max_keypoints

    def has(self, name: str) -> bool:
        """Whether there is a file for this image."""
        return self._path(name).is_file()

    def read(self, name: str) -> CachedFeatures:
        """Features of an image.

        Raises:
            SamfeatError: no such file, not such a file, or arrays that do not belong together.
        """
        path = self._path(name)
        if not path.is_file():
            raise SamfeatError(path, "no such file", f"extract the features of {name} first")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key]) for key in file.files}
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
            raise SamfeatError(
                path, "not an .npz file of plain arrays", f"extract the features of {name} again"
            ) from None
        descriptors = arrays.get("descriptors")
        if descriptors is not None and descriptors.ndim == 2:
            descriptors = descriptors.T
        return _checked(
            arrays.get("keypoints"), descriptors, arrays.get("scores"), None,
            self.max_keypoints, str(path),
        )  # fmt: skip

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.{self.name}"


def _checked(
    keypoints: np.ndarray | None, descriptors: np.ndarray | None, scores: np.ndarray | None,
    size: np.ndarray | None, limit: int | None, where: str,
) -> CachedFeatures:  # fmt: skip
    """Arrays of a file as features, the best ``limit`` of them."""
    if keypoints is None or descriptors is None:
        raise SamfeatError(where, "keypoints or descriptors are missing", "extract them again")
    if keypoints.ndim != 2 or keypoints.shape[1] < 2:
        if keypoints.size:
            raise SamfeatError(
                where, f"keypoints of shape {keypoints.shape}", "they have to be (N, 2)"
            )
        keypoints = np.zeros((0, 2))
    if descriptors.ndim != 2 or descriptors.shape[1] != len(keypoints):
        if len(keypoints):
            raise SamfeatError(
                where,
                f"{len(keypoints)} keypoints, but descriptors of shape {descriptors.shape}",
                "there has to be one for each keypoint",
            )
        descriptors = np.zeros((1, 0))
    xy = keypoints[:, :2].astype(np.float64)
    descriptors = descriptors.astype(np.float32)
    if not (np.isfinite(xy).all() and np.isfinite(descriptors).all()):
        raise SamfeatError(where, "NaN or infinity in them", "extract them again")
    if limit is not None and len(xy) > limit:
        if scores is None or scores.reshape(-1).shape[0] != len(xy):
            raise SamfeatError(
                where,
                f"no score for each keypoint, so the best {limit} cannot be chosen",
                "give --max-keypoints 0 for all",
            )
        best = np.argsort(-scores.reshape(-1), kind="stable")[:limit]
        xy, descriptors = xy[best], descriptors[:, best]
    wh = None if size is None else (int(size.reshape(-1)[0]), int(size.reshape(-1)[1]))
    return CachedFeatures(xy, descriptors, wh)


def make_features(
    root: Path,
    names: Sequence[str],
    output: Path,
    extract: Callable[[np.ndarray], FeatureArrays],
    config: Mapping[str, Any],
    *,
    turns: Mapping[str, int] | None = None,
    weights_sha256: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Features of images below ``root``, by any function, in a file of hloc's format.

    What the file has already is kept when it was made so from the same images.

    Arguments:
        extract: from an RGB uint8 image to the arrays of its group.
        config: all that decides what ``extract`` finds.
        turns: quarter turns counter-clockwise that stand an image upright before extraction;
            keypoints are turned back to the image as it is stored.
        weights_sha256: of the network that ``extract`` runs, if any.

    Raises:
        SamfeatError: an image that cannot be read, or a file that was made otherwise.
    """
    turns = turns or {}
    record = provenance.made_by("features-to-evaluate", config, {}, weights_sha256)
    sources = {
        name: f"{_size_of(root / name)} bytes, turned {turns.get(name, 0)}"
        for name in dict.fromkeys(names)
    }
    with SegmentWriter(output, record, overwrite=overwrite, compare_inputs=False) as writer:
        if writer.is_finished(sources):
            return output
        left = [name for name, source in sources.items() if writer.done.get(name) != source]
        for name in tqdm(left, desc="features", unit="image", delay=2):
            stored = read_image(root / name)
            size = (stored.shape[1], stored.shape[0])
            orientation = _ORIENTATION_OF_TURNS[turns.get(name, 0)]
            found = extract(to_upright(stored, orientation))
            datasets = {
                "keypoints": keypoints_to_stored(found["keypoints"], orientation, size),
                "keypoint_scores": found["keypoint_scores"],
                "descriptors": found["descriptors"],
                "image_size": np.array(size, dtype=np.int64),
            }
            writer.add({name: Group(datasets, {}, sources[name])})
        everything = [f"{name} {source}" for name, source in writer.done.items()]
        return writer.finish(
            made_by={**record, "inputs": {"images": provenance.names_hash(everything)}}
        )


def _size_of(path: Path) -> int:
    if not path.is_file():
        raise SamfeatError(path, "no such image", "complete the folder")
    return path.stat().st_size
