"""The images of a saved map and the points that they see, as folders of arrays.

`saved_map` says what the files hold. Nothing in them can carry code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.cameras import CAMERA_MODELS, Camera
from ..colmap.poses import Pose, pose_json
from ..files.atomic import write_whole
from ..files.textlines import read_text

SEGMENT_ARRAYS = ("counts", "keypoints", "descriptors", "global")
POINT_ARRAYS = ("xyz", "ids", "seen")


@dataclass(frozen=True, eq=False)
class FrozenImage:
    """A database image and what it sees of the map.

    Attributes:
        pose: cam_from_world.
        keypoints: (N, 2) float32 pixels, the corner of the image at (0, 0).
        descriptors: (N, D) float16.
        points: (N,) int32, rows of the map's points, -1 for none.
        global_descriptor: (K * D,) float32.
        added: whether it came to a map that was there.
    """

    name: str
    camera: Camera
    pose: Pose
    keypoints: np.ndarray
    descriptors: np.ndarray
    points: np.ndarray
    global_descriptor: np.ndarray
    added: bool = False


def write_segment(folder: Path, images: Sequence[FrozenImage]) -> None:
    folder.mkdir()
    listed = [
        {
            "name": image.name,
            "camera": [image.camera.model, image.camera.width, image.camera.height,
                       *image.camera.params],
            **pose_json(image.pose),
            "added": image.added,
        }
        for image in images
    ]  # fmt: skip
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    write_whole(folder / "images.json", f"[\n{lines}\n]\n")
    counts = np.array([len(image.keypoints) for image in images], dtype=np.int64)
    write_array(folder / "counts.npy", counts)
    for name, dtype, arrays in (
        ("keypoints", np.float32, [image.keypoints for image in images]),
        ("descriptors", np.float16, [image.descriptors for image in images]),
    ):
        write_array(folder / f"{name}.npy", np.concatenate(arrays).astype(dtype, copy=False))
    stacked = np.stack([image.global_descriptor for image in images]).astype(np.float32, copy=False)
    write_array(folder / "global.npy", stacked)


def write_points(
    folder: Path, xyz: np.ndarray, ids: np.ndarray, images: Sequence[FrozenImage]
) -> None:
    folder.mkdir()
    seen = np.concatenate([image.points for image in images]).astype(np.int32, copy=False)
    for name, array in zip(POINT_ARRAYS, (xyz, ids, seen), strict=True):
        write_array(folder / f"{name}.npy", array)


def names_in(folder: Path) -> list[str]:
    return [entry["name"] for entry in json.loads(read_text(folder / "images.json"))]


def read_segment(folder: Path) -> tuple[list[FrozenImage], np.ndarray]:
    """The images, points left out, and their global descriptors, which are views of one matrix."""
    listed = json.loads(read_text(folder / "images.json"))
    counts, keypoints, descriptors, matrix = (
        read_array(folder / f"{name}.npy") for name in SEGMENT_ARRAYS
    )
    ends = np.cumsum(counts)
    if not len(listed) == len(counts) == len(matrix) or any(
        len(array) != counts.sum() for array in (keypoints, descriptors)
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
                points=np.zeros(0, dtype=np.int32),
                global_descriptor=matrix[row],
                added=bool(entry.get("added", False)),
            )
        )
    return images, matrix


def read_points(
    folder: Path, images: Sequence[FrozenImage]
) -> tuple[np.ndarray, np.ndarray, list[FrozenImage]]:
    """The points, their ids, and the images with the points that they see."""
    xyz, ids, seen = (read_array(folder / f"{name}.npy") for name in POINT_ARRAYS)
    ends = np.cumsum([len(image.keypoints) for image in images])
    if len(seen) != ends[-1] or len(ids) != len(xyz):
        raise ValueError(f"the arrays of {folder.name} do not fit the images")
    if seen.size and not -1 <= seen.min() <= seen.max() < len(xyz):
        raise ValueError("an image sees points that are not there")
    parts = np.split(seen, ends[:-1])
    return xyz, ids, [replace(i, points=part) for i, part in zip(images, parts, strict=True)]


def _camera(values: list[Any]) -> Camera:
    model, width, height, *params = values
    if model not in CAMERA_MODELS or len(params) != CAMERA_MODELS[model][1]:
        raise ValueError(f"camera {values!r}")
    return Camera(model, int(width), int(height), tuple(float(value) for value in params))


def read_array(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
