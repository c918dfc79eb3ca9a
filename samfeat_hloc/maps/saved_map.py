"""A saved map: one folder with all that localizing a photo needs, and nothing else.

::

    manifest.json                what it is, which files belong to it, and their SHA-256; the id
                                 from which on points came with added images
    vocabulary.npy               (K, D) float32, words of the retrieval's VLAD
    images-0000/images.json      the images' names, cameras and poses, and which were added
    images-0000/counts.npy       (M,) int64, keypoints of each image
    images-0000/keypoints.npy    (sum, 2) float32, corner of the image at (0, 0)
    images-0000/descriptors.npy  (sum, D) float16
    images-0000/global.npy       (M, K * D) float32, for retrieval
    points-0000/xyz.npy          (P, 3) float64, the points' places in the world
    points-0000/ids.npy          (P,) int64, their ids, ascending; the COLMAP model's first
    points-0000/seen.npy         (sum of all images,) int32, each keypoint's row in xyz or -1

Images that are added later make a folder of their own (``images-0001``); those that are removed
make their folder anew without them. What keypoints see is written anew in both cases, to another
folder (``points-0001``). The manifest is written last and in one step: until then the map is the
old one. Nothing in a map can carry code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError, in_one_line, writing
from ..feature.options import ExtractOptions
from ..files.atomic import write_whole
from ..files.locks import locked
from ..files.provenance import file_sha256
from ..files.textlines import read_text
from .map_arrays import (
    POINT_ARRAYS,
    SEGMENT_ARRAYS,
    FrozenImage,
    names_in,
    read_array,
    read_points,
    read_segment,
    write_array,
    write_points,
    write_segment,
)

FORMAT = "samfeat map"
VERSION = 2
MANIFEST = "manifest.json"
_VOCABULARY = "vocabulary.npy"
_MEND = "copy the map again, or build it again"


@dataclass(frozen=True, eq=False)
class FrozenMap:
    """A map in memory; nothing changes it.

    Attributes:
        extraction: how its images were extracted, and queries are by default.
        weights_sha256: of the network that did.
        images: in the order in which they came.
        global_descriptors: (M, K * D) float32, a row an image.
        vocabulary: (K, D) float32.
        xyz: (P, 3) float64; point_ids: (P,) int64, ascending.
        first_added_id: ids from here on are of points that came with added images.
        saved_as: the hashes of the files that it was read from; empty for a map in memory alone.
    """

    extraction: ExtractOptions
    weights_sha256: str
    images: list[FrozenImage]
    global_descriptors: np.ndarray
    vocabulary: np.ndarray
    xyz: np.ndarray
    point_ids: np.ndarray
    first_added_id: int
    saved_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_observations(self) -> int:
        return sum(int(np.count_nonzero(image.points >= 0)) for image in self.images)


def read(folder: Path) -> FrozenMap:
    """Read a saved map; every file is compared with its hash in the manifest.

    Raises:
        SamfeatError: no map, one of another version, a file that is missing or has changed.
    """
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise SamfeatError(path, "this file of the saved map is missing", _MEND)
        if file_sha256(path) != digest:
            raise SamfeatError(path, "differs from the map's manifest", _MEND)
    try:
        segments = [read_segment(folder / name) for name in manifest["segments"]]
        xyz, point_ids, images = read_points(
            folder / manifest["points"], [image for segment, _ in segments for image in segment]
        )
        return FrozenMap(
            extraction=ExtractOptions(**manifest["extraction"]),
            weights_sha256=manifest["weights_sha256"],
            images=images,
            global_descriptors=segments[0][1]
            if len(segments) == 1
            else np.concatenate([matrix for _, matrix in segments]),
            vocabulary=read_array(folder / _VOCABULARY),
            xyz=xyz,
            point_ids=point_ids,
            first_added_id=int(manifest.get("first_added_id", next_id(point_ids))),
            saved_as=manifest["files"],
        )
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        why = in_one_line(error)
        raise SamfeatError(folder, f"not a map of version {VERSION} ({why})", _MEND) from error


def create(folder: Path, frozen: FrozenMap) -> Path:
    """Write a map into a folder that exists and is empty."""
    write_array(folder / _VOCABULARY, frozen.vocabulary)
    write_segment(folder / "images-0000", frozen.images)
    write_points(folder / "points-0000", frozen.xyz, frozen.point_ids, frozen.images)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "weights_sha256": frozen.weights_sha256,
        "extraction": frozen.extraction.asdict(),
        "segments": ["images-0000"],
        "points": "points-0000",
        "first_added_id": frozen.first_added_id,
    }
    _write_manifest(folder, manifest, {})
    return folder


def extend(folder: Path, frozen: FrozenMap) -> None:
    """Bring a saved map to what ``frozen`` is: the saved map's images and more, and more points.

    Of the images that are there only what their keypoints see may differ.

    Raises:
        SamfeatError: the saved map is not what ``frozen`` was read from any more, another process
            changes it, or the folder cannot be written.
    """
    with _changing(folder) as manifest:
        if frozen.saved_as != manifest["files"]:
            raise SamfeatError(folder, "the map was changed meanwhile", "run this again")
        there = [name for segment in manifest["segments"] for name in names_in(folder / segment)]
        known = dict(manifest["files"])
        segment = _next(manifest["segments"])
        write_segment(folder / segment, frozen.images[len(there) :])
        manifest["segments"].append(segment)
        manifest["points"] = _next([manifest["points"]])
        manifest["first_added_id"] = frozen.first_added_id
        write_points(folder / manifest["points"], frozen.xyz, frozen.point_ids, frozen.images)
        _write_manifest(folder, manifest, known)


def drop(folder: Path, names: Sequence[str]) -> None:
    """Remove images from a saved map: their poses, keypoints and descriptors.

    As in COLMAP, points that are left with fewer than two observations go too; so do those that
    came with added images, where none of these is left to see them. An image that joins and leaves
    again leaves the map as it was.

    Raises:
        SamfeatError: a name that the map does not have, or all of them; another process changes
            the map, or the folder cannot be written.
    """
    unwanted = set(names)
    with _changing(folder) as manifest:
        frozen = read(folder)
        known = {image.name for image in frozen.images}
        missing = sorted(unwanted - known)
        if missing:
            raise SamfeatError(folder, f"no image {missing[0]} in this map", "check the name")
        if unwanted == known:
            raise SamfeatError(folder, "these are all its images", "delete the folder instead")
        files = dict(manifest["files"])
        segments: list[str] = []
        by_name = {image.name: image for image in frozen.images}
        for segment in manifest["segments"]:
            held = names_in(folder / segment)
            left = [by_name[name] for name in held if name not in unwanted]
            if len(left) == len(held):
                segments.append(segment)
            elif left:
                segments.append(_next([*manifest["segments"], *segments]))
                write_segment(folder / segments[-1], left)
        manifest["segments"] = segments
        manifest["points"] = _next([manifest["points"]])
        manifest["first_added_id"] = frozen.first_added_id
        write_points(folder / manifest["points"], *_without(frozen, unwanted))
        _write_manifest(folder, manifest, files)


def _without(
    frozen: FrozenMap, names: set[str]
) -> tuple[np.ndarray, np.ndarray, list[FrozenImage]]:
    """Points, ids and images of a map without some images, and without the points that were there
    for their sake alone."""
    images = [image for image in frozen.images if image.name not in names]
    observations = _observations(images, len(frozen.xyz))
    by_added = _observations([image for image in images if image.added], len(frozen.xyz))
    kept = (observations >= 2) & ((frozen.point_ids < frozen.first_added_id) | (by_added > 0))
    row = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1).astype(np.int32)  # -1 stays -1
    left = [replace(image, points=row[image.points]) for image in images]
    return frozen.xyz[kept], frozen.point_ids[kept], left


def _observations(images: Sequence[FrozenImage], num_points: int) -> np.ndarray:
    """(P,) int64, how many of the images see each point."""
    seen = np.concatenate([image.points for image in images] or [np.zeros(0, dtype=np.int32)])
    return np.bincount(seen[seen >= 0], minlength=num_points)


def next_id(point_ids: np.ndarray) -> int:
    """The first id after those of some points."""
    return int(point_ids.max(initial=-1)) + 1


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest, while no other process changes the map; leftovers of a kill are removed."""
    _manifest(folder)  # a folder that is no map gets no lock file
    with locked(folder / ".lock", folder), writing(folder):
        manifest = _manifest(folder)
        _tidy(folder, manifest)
        yield manifest
        _tidy(folder, _manifest(folder))


def _tidy(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove folders that the manifest does not name."""
    for path in [*folder.glob("images-*"), *folder.glob("points-*")]:
        if path.name not in (*manifest["segments"], manifest["points"]):
            shutil.rmtree(path, ignore_errors=True)


def _next(names: Sequence[str]) -> str:
    """A folder's name with the number after the highest."""
    number = max(int(name.rpartition("-")[2]) for name in names) + 1
    return f"{names[0].rpartition('-')[0]}-{number:04d}"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise SamfeatError(folder, "no saved map here", "make one with `samfeat map build`")
    try:
        manifest = json.loads(read_text(path))
        found = (manifest["format"], manifest["version"])
        files, segments = manifest["files"], manifest["segments"]
        folders = [*segments, manifest["points"]] if found == (FORMAT, VERSION) else []
        if folders and not (
            segments
            and all(Path(name).name == name for name in folders)
            and set(files) == set(_files(manifest))
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise SamfeatError(path, "not the manifest of a map", _MEND) from None
    if found != (FORMAT, VERSION):
        raise SamfeatError(
            path,
            (f"{found[0]} of version {found[1]}, but this program reads version {VERSION}"),
            "build the map again",
        )
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any], known: dict[str, str]) -> None:
    """Write it with the hashes of its files; those of folders that have not changed are known."""
    manifest["files"] = {
        name: known.get(name) or file_sha256(folder / name) for name in _files(manifest)
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _files(manifest: dict[str, Any]) -> list[str]:
    return [
        _VOCABULARY,
        *(f"{s}/{name}.npy" for s in manifest["segments"] for name in SEGMENT_ARRAYS),
        *(f"{s}/images.json" for s in manifest["segments"]),
        *(f"{manifest['points']}/{name}.npy" for name in POINT_ARRAYS),
    ]
