"""A saved map: one folder with all that localizing a photo needs, and nothing else.

::

    manifest.json                what it is, which files belong to it, and their SHA-256
    points.npy                   (P, 3) float64, the points' places in the world
    point_ids.npy                (P,) int64, their ids in the COLMAP model, ascending
    vocabulary.npy               (K, D) float32, words of the retrieval's VLAD
    images-0000/images.json      the images' names, cameras and poses
    images-0000/counts.npy       (M,) int64, observations of each image
    images-0000/keypoints.npy    (sum, 2) float32, corner of the image at (0, 0)
    images-0000/descriptors.npy  (sum, D) float16
    images-0000/points.npy       (sum,) int32, rows of points.npy
    images-0000/global.npy       (M, K * D) float32, for retrieval

Keypoints without a point are not kept. Images that are added later make a folder of their own
(``images-0001``); those that are removed make their folder anew without them. The manifest is
written last and in one step: until then the map is the old one. Nothing in a map can carry code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..extract import ExtractOptions
from .dataset import Camera
from .file_lock import FileLock
from .poses import Pose
from .reference_model import CAMERA_MODELS
from .textlines import read_text, write_atomically

FORMAT = "samfeat map"
VERSION = 1
MANIFEST = "manifest.json"
_ROOT_ARRAYS = ("points", "point_ids", "vocabulary")
_SEGMENT_ARRAYS = ("counts", "keypoints", "descriptors", "points", "global")
_MEND = "copy the map again or build it anew"


@dataclass(frozen=True, eq=False)
class FrozenImage:
    """A database image and what it sees of the map.

    Attributes:
        pose: cam_from_world.
        keypoints: (N, 2) float32 pixels, the corner of the image at (0, 0).
        descriptors: (N, D) float16.
        points: (N,) int32, rows of the map's points.
        global_descriptor: (K * D,) float32.
    """

    name: str
    camera: Camera
    pose: Pose
    keypoints: np.ndarray
    descriptors: np.ndarray
    points: np.ndarray
    global_descriptor: np.ndarray


@dataclass(frozen=True, eq=False)
class FrozenMap:
    """A map in memory; nothing changes it.

    Attributes:
        extraction: how its images were extracted, and queries are by default.
        weights_sha256: of the network that did.
        images: in the order in which they came.
        global_descriptors: (M, K * D) float32, a row an image.
        vocabulary: (K, D) float32.
        xyz: (P, 3) float64; point_ids: (P,) int64.
    """

    extraction: ExtractOptions
    weights_sha256: str
    images: list[FrozenImage]
    global_descriptors: np.ndarray
    vocabulary: np.ndarray
    xyz: np.ndarray
    point_ids: np.ndarray

    @property
    def num_observations(self) -> int:
        return sum(len(image.points) for image in self.images)


def read(folder: Path) -> FrozenMap:
    """Read a saved map; every file is compared with its hash in the manifest.

    Raises:
        SamfeatError: no map, one of another version, a file that is missing or has changed.
    """
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise SamfeatError(f"{path}: this file of the map is missing; {_MEND}")
        if _sha256(path) != digest:
            raise SamfeatError(f"{path}: not as the map's manifest says; {_MEND}")
    try:
        xyz, point_ids, vocabulary = (_array(folder / f"{name}.npy") for name in _ROOT_ARRAYS)
        segments = [_read_segment(folder / name) for name in manifest["segments"]]
        images = [image for segment, _ in segments for image in segment]
        if any(len(i.points) and i.points.max() >= len(xyz) for i in images):
            raise ValueError("an image sees points that are not there")
        return FrozenMap(
            extraction=ExtractOptions(**manifest["extraction"]),
            weights_sha256=manifest["weights_sha256"],
            images=images,
            global_descriptors=segments[0][1]
            if len(segments) == 1
            else np.concatenate([matrix for _, matrix in segments]),
            vocabulary=vocabulary,
            xyz=xyz,
            point_ids=point_ids,
        )
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        why = " ".join(str(error).split())
        raise SamfeatError(f"{folder}: not a map of version {VERSION} ({why}); {_MEND}") from error


def create(folder: Path, frozen: FrozenMap) -> Path:
    """Write a map into a folder that exists and is empty."""
    roots = (frozen.xyz, frozen.point_ids, frozen.vocabulary)
    for name, array in zip(_ROOT_ARRAYS, roots, strict=True):
        _save(folder / f"{name}.npy", array)
    _write_segment(folder / "images-0000", frozen.images)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "weights_sha256": frozen.weights_sha256,
        "extraction": frozen.extraction.asdict(),
        "segments": ["images-0000"],
        "files": _hashes(folder, [*_ROOT_ARRAYS], ["images-0000"]),
    }
    _write_manifest(folder, manifest)
    return folder


def append(folder: Path, images: Sequence[FrozenImage]) -> None:
    """Add images to a saved map; no file of it is changed but the manifest.

    Raises:
        SamfeatError: another process changes the map, or the folder cannot be written.
    """
    with _changing(folder) as manifest:
        name = _next_segment(manifest)
        _write_segment(folder / name, images)
        manifest["segments"].append(name)
        manifest["files"].update(_hashes(folder, [], [name]))
        _write_manifest(folder, manifest)


def drop(folder: Path, names: Sequence[str]) -> None:
    """Remove images from a saved map: their poses, keypoints and descriptors. Points stay.

    Raises:
        SamfeatError: a name that the map does not have, or all of them; another process changes
            the map, or the folder cannot be written.
    """
    unwanted = set(names)
    with _changing(folder) as manifest:
        kept: dict[str, list[FrozenImage]] = {}
        for segment in manifest["segments"]:
            kept[segment], _ = _read_segment(folder / segment)
        known = {image.name for images in kept.values() for image in images}
        missing = sorted(unwanted - known)
        if missing:
            raise SamfeatError(f"{folder}: no image {missing[0]} in this map; check the name")
        if unwanted == known:
            raise SamfeatError(f"{folder}: these are all its images; delete the folder instead")
        replaced: list[str] = []
        for segment, images in kept.items():
            left = [image for image in images if image.name not in unwanted]
            if len(left) == len(images):
                continue
            at = manifest["segments"].index(segment)
            manifest["segments"][at : at + 1] = []
            if left:
                name = _next_segment(manifest, [*replaced, segment])
                _write_segment(folder / name, left)
                manifest["segments"].insert(at, name)
                manifest["files"].update(_hashes(folder, [], [name]))
            manifest["files"] = {
                file: digest
                for file, digest in manifest["files"].items()
                if not file.startswith(f"{segment}/")
            }
            replaced.append(segment)
        _write_manifest(folder, manifest)
        for segment in replaced:
            shutil.rmtree(folder / segment, ignore_errors=True)


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest, while no other process changes the map; leftovers of a kill are removed."""
    _manifest(folder)  # a folder that is no map gets no lock file
    lock = FileLock(folder / ".lock", folder)
    try:
        manifest = _manifest(folder)
        for path in folder.glob("images-*"):
            if path.name not in manifest["segments"]:
                shutil.rmtree(path, ignore_errors=True)
        yield manifest
    except OSError as error:
        raise SamfeatError(
            f"{folder}: cannot be written ({error.strerror}); check the folder and the free space"
        ) from None
    finally:
        lock.release()


def _next_segment(manifest: dict[str, Any], replaced: Sequence[str] = ()) -> str:
    numbers = [int(name.rpartition("-")[2]) for name in [*manifest["segments"], *replaced]]
    return f"images-{max(numbers, default=-1) + 1:04d}"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise SamfeatError(f"{folder}: no map here; make one with `samfeat map build`")
    try:
        manifest = json.loads(read_text(path))
        found = (manifest["format"], manifest["version"])
        files, segments = manifest["files"], manifest["segments"]
        whole = {
            *(f"{name}.npy" for name in _ROOT_ARRAYS),
            *(f"{s}/{name}.npy" for s in segments for name in _SEGMENT_ARRAYS),
            *(f"{segment}/images.json" for segment in segments),
        }
        if not segments or not all(Path(s).name == s for s in segments) or set(files) != whole:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise SamfeatError(f"{path}: not the manifest of a map; {_MEND}") from None
    if found != (FORMAT, VERSION):
        raise SamfeatError(
            f"{path}: {found[0]} of version {found[1]}, but this program reads version {VERSION};"
            " build the map anew"
        )
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _hashes(folder: Path, roots: Sequence[str], segments: Sequence[str]) -> dict[str, str]:
    names = [f"{name}.npy" for name in roots]
    for segment in segments:
        names += [f"{segment}/{name}.npy" for name in _SEGMENT_ARRAYS] + [f"{segment}/images.json"]
    return {name: _sha256(folder / name) for name in names}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_segment(folder: Path, images: Sequence[FrozenImage]) -> None:
    folder.mkdir()
    listed = [
        {
            "name": image.name,
            "camera": [image.camera.model, image.camera.width, image.camera.height,
                       *image.camera.params],
            "qvec": image.pose.qvec.tolist(),
            "tvec": image.pose.tvec.tolist(),
        }
        for image in images
    ]  # fmt: skip
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    write_atomically(folder / "images.json", f"[\n{lines}\n]\n")
    counts = np.array([len(image.points) for image in images], dtype=np.int64)
    _save(folder / "counts.npy", counts)
    for name, dtype, arrays in (
        ("keypoints", np.float32, [image.keypoints for image in images]),
        ("descriptors", np.float16, [image.descriptors for image in images]),
        ("points", np.int32, [image.points for image in images]),
    ):
        _save(folder / f"{name}.npy", np.concatenate(arrays).astype(dtype, copy=False))
    stacked = np.stack([image.global_descriptor for image in images]).astype(np.float32, copy=False)
    _save(folder / "global.npy", stacked)


def _read_segment(folder: Path) -> tuple[list[FrozenImage], np.ndarray]:
    """The images of a segment and their global descriptors, which are views of one matrix."""
    listed = json.loads(read_text(folder / "images.json"))
    counts, keypoints, descriptors, points, matrix = (
        _array(folder / f"{name}.npy") for name in _SEGMENT_ARRAYS
    )
    ends = np.cumsum(counts)
    if not len(listed) == len(counts) == len(matrix) or any(
        len(array) != counts.sum() for array in (keypoints, descriptors, points)
    ):
        raise ValueError(f"the arrays of {folder.name} differ in length")
    images = []
    for row, (entry, count, end) in enumerate(zip(listed, counts, ends, strict=True)):
        part = slice(end - count, end)
        images.append(
            FrozenImage(
                name=entry["name"],
                camera=_camera(entry["camera"]),
                pose=Pose(np.array(entry["qvec"]), np.array(entry["tvec"])),
                keypoints=keypoints[part],
                descriptors=descriptors[part],
                points=points[part],
                global_descriptor=matrix[row],
            )
        )
    return images, matrix


def _camera(values: list[Any]) -> Camera:
    model, width, height, *params = values
    if model not in CAMERA_MODELS or len(params) != CAMERA_MODELS[model][1]:
        raise ValueError(f"camera {values!r}")
    return Camera(model, int(width), int(height), tuple(float(value) for value in params))


def _array(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
