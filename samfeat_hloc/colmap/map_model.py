"""A map (a binary COLMAP model) as arrays: what localization, pictures and statistics need.

`pycolmap.Reconstruction` answers one Python call per keypoint; a city has tens of millions. Here
`images.bin` and `points3D.bin` are read with a few NumPy calls an image, and damaged files end in
an error (pycolmap 4.2 loops forever on a truncated `points3D.bin`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SamfeatError
from .cameras import CAMERA_MODELS, Camera
from .poses import Pose

_CAMERA_HEAD = struct.Struct("<Ii2Q")  # camera id, model id, width, height
_IMAGE_HEAD = struct.Struct("<I7dI")  # image id, qvec wxyz, tvec, camera id
_POINT_HEAD = struct.Struct("<Q3d3BdQ")  # id, xyz, rgb, reprojection error, track length
_OBSERVATION = np.dtype([("xy", "<f8", (2,)), ("point3D_id", "<i8")])
_POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", (3,)), ("rgb", "u1", (3,)), ("error", "<f8"), ("track", "<u8")]
)


@dataclass(frozen=True)
class MapImage:
    """One registered image. `points` (N,) int32: keypoint -> row of the map's points, -1 none."""

    image_id: int
    camera_id: int
    name: str
    pose: Pose
    points: np.ndarray


@dataclass(frozen=True)
class MapModel:
    """Images by name, and the points as arrays of the same length P, sorted by id."""

    images: dict[str, MapImage]
    point_ids: np.ndarray  # (P,) int64
    xyz: np.ndarray  # (P, 3) float64
    colors: np.ndarray  # (P, 3) uint8
    errors: np.ndarray  # (P,) float64, mean reprojection error in pixels
    track_lengths: np.ndarray  # (P,) int64

    @property
    def num_observations(self) -> int:
        return int(self.track_lengths.sum())

    @property
    def mean_track_length(self) -> float:
        return float(self.track_lengths.mean()) if len(self.track_lengths) else 0.0

    @property
    def mean_reprojection_error(self) -> float:
        """Pixels; COLMAP's mean over points."""
        return float(self.errors.mean()) if len(self.errors) else 0.0


def is_model(path: Path) -> bool:
    """Whether the folder holds the files of a COLMAP model, binary or text."""
    return any(
        all((path / f"{part}.{ending}").is_file() for part in ("cameras", "images", "points3D"))
        for ending in ("bin", "txt")
    )


def _read_points(path: Path) -> np.ndarray:
    data = path.read_bytes()
    (count,) = struct.unpack_from("<Q", data, 0)
    # the records differ in length (their tracks do), so their places have to be walked ...
    starts = np.empty(min(count, len(data) // _POINT_HEAD.size), dtype=np.int64)
    offset = 8
    track_at = _POINT_HEAD.size - 8
    read_length = struct.Struct("<Q").unpack_from
    if count > len(starts):
        raise struct.error
    for i in range(count):
        starts[i] = offset
        offset += _POINT_HEAD.size + 8 * read_length(data, offset + track_at)[0]
    if offset != len(data):
        raise struct.error
    # ... and the heads are then taken out in one go
    heads = np.empty((count, _POINT.itemsize), dtype=np.uint8)
    raw = np.frombuffer(data, dtype=np.uint8)
    for column in range(_POINT.itemsize):
        heads[:, column] = raw[starts + column]
    points = heads.reshape(-1).view(_POINT)
    return points[np.argsort(points["id"], kind="stable")]


def _read_images(path: Path, point_ids: np.ndarray) -> dict[str, MapImage]:
    data = path.read_bytes()
    (count,) = struct.unpack_from("<Q", data, 0)
    offset = 8
    images: dict[str, MapImage] = {}
    for _ in range(count):
        image_id, *pose, camera_id = _IMAGE_HEAD.unpack_from(data, offset)
        offset += _IMAGE_HEAD.size
        end = data.index(b"\0", offset)
        name = data[offset:end].decode()
        (size,) = struct.unpack_from("<Q", data, end + 1)
        seen = np.frombuffer(data, dtype=_OBSERVATION, count=size, offset=end + 9)["point3D_id"]
        offset = end + 9 + size * _OBSERVATION.itemsize
        points = np.full(size, -1, dtype=np.int32)
        valid = seen >= 0
        if valid.any():
            rows = np.searchsorted(point_ids, seen[valid])
            if (point_ids[np.minimum(rows, len(point_ids) - 1)] != seen[valid]).any():
                raise ValueError("observes a point that points3D.bin does not have")
            points[valid] = rows
        images[name] = MapImage(
            image_id, camera_id, name, Pose(np.array(pose[:4]), np.array(pose[4:])), points
        )
    if offset != len(data):
        raise struct.error
    return images


def read_cameras(path: Path) -> dict[int, Camera]:
    """Read `cameras.bin` of the map in the folder `path`: intrinsics by camera id.

    Raises SamfeatError where it is missing or damaged.
    """
    file = path / "cameras.bin"
    if not file.is_file():
        raise SamfeatError(path, "no cameras.bin in it", "make the map first")
    models = {number: (name, params) for name, (number, params, _) in CAMERA_MODELS.items()}
    cameras: dict[int, Camera] = {}
    data = file.read_bytes()
    try:
        (count,) = struct.unpack_from("<Q", data, 0)
        offset = 8
        for _ in range(count):
            camera_id, number, width, height = _CAMERA_HEAD.unpack_from(data, offset)
            name, num_params = models[number]
            params = struct.unpack_from(f"<{num_params}d", data, offset + _CAMERA_HEAD.size)
            cameras[camera_id] = Camera(name, width, height, params)
            offset += _CAMERA_HEAD.size + 8 * num_params
    except (struct.error, KeyError):
        raise SamfeatError(file, "damaged or not a COLMAP file", "make the map again") from None
    return cameras


def read_map(path: Path) -> MapModel:
    """Read `images.bin` and `points3D.bin` of the map in the folder `path`.

    Raises SamfeatError where a file is missing or damaged.
    """
    for part in ("cameras.bin", "images.bin", "points3D.bin"):
        if not (path / part).is_file():
            raise SamfeatError(path, f"no {part} in it", "make the map first")
    file = path / "points3D.bin"
    try:
        points = _read_points(file)
        point_ids = points["id"].astype(np.int64)
        file = path / "images.bin"
        images = _read_images(file, point_ids)
    except (struct.error, ValueError, OverflowError, MemoryError, IndexError) as error:
        raise SamfeatError(file, "damaged or not a COLMAP file", "make the map again") from error
    return MapModel(
        images=images,
        point_ids=point_ids,
        xyz=np.ascontiguousarray(points["xyz"]),
        colors=np.ascontiguousarray(points["rgb"]),
        errors=points["error"].copy(),
        track_lengths=points["track"].astype(np.int64),
    )
