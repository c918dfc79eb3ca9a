"""What the 3-D view draws: a part of the map's points, and cameras, upright around the origin."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..colmap.cameras import CAMERA_MODELS, Camera
from ..colmap.model import Model
from ..colmap.poses import Pose
from ..errors import SamfeatError

POSE_COLUMNS = 14  # centre, right, down, forward (3 each), tangents of half the field of view
_DEFAULT_TANGENTS = (0.5, 0.375)
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters


@dataclass(frozen=True)
class MapFrame:
    """The scene's coordinates: `rotation` (3, 3) @ (world - `origin` (3,)), z up."""

    origin: np.ndarray
    rotation: np.ndarray

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """(N, 3) float32 scene coordinates; small numbers, so that float32 is enough."""
        moved = (np.asarray(xyz, dtype=np.float64).reshape(-1, 3) - self.origin) @ self.rotation.T
        return moved.astype(np.float32)

    def poses(
        self, poses: Sequence[Pose | None], tangents: Sequence[tuple[float, float]]
    ) -> np.ndarray:
        """(N, POSE_COLUMNS) float32; NaN where there is no pose."""
        rows = np.full((len(poses), POSE_COLUMNS), np.nan, dtype=np.float32)
        for row, pose, tangent in zip(rows, poses, tangents, strict=True):
            if pose is not None:
                row[:3] = self.points(pose.centre)[0]
                # the camera's axes are the rows of cam_from_world
                row[3:12] = (pose.rotation @ self.rotation.T).ravel()
                row[12:] = tangent
        return rows


def upright_frame(map_model: Model) -> MapFrame:
    """Up is the mean of the database cameras' upward directions, the origin amid the cameras."""
    cameras = [image.pose for image in map_model.images.values()]
    up = -np.mean([pose.rotation[1] for pose in cameras], axis=0)
    norm = float(np.linalg.norm(up))
    up = up / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])
    east = np.eye(3)[np.argmin(np.abs(up))]
    east = east - up * (east @ up)
    east /= np.linalg.norm(east)
    origin = np.median([pose.centre for pose in cameras], axis=0)
    return MapFrame(origin, np.stack([east, np.cross(up, east), up]))


def extent(points: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of what the view shows at first: far outliers do not count.

    Args:
        points: (N, 3) scene coordinates.
        cameras: (M, 3) centres of the database cameras.
    """
    low = np.minimum(np.percentile(points, 3, axis=0), np.percentile(cameras, 2, axis=0))
    high = np.maximum(np.percentile(points, 97, axis=0), np.percentile(cameras, 98, axis=0))
    return (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-3)


def camera_size(cameras: np.ndarray, radius: float) -> float:
    """How large to draw a camera: half the distance to the next one, within reason.

    Args:
        cameras: (M, 3) centres.
        radius: of the scene.
    """
    sample = cameras[np.linspace(0, len(cameras) - 1, min(len(cameras), 200)).astype(int)]
    nearest = [
        away[away > 0].min(initial=np.inf)
        for away in (np.linalg.norm(cameras - centre, axis=1) for centre in sample)
    ]
    return float(np.clip(0.5 * np.median(nearest), 0.002 * radius, 0.03 * radius))


def choose_points(num_points: int, wanted: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Rows of the points to show, ascending.

    Args:
        num_points: of the map.
        wanted: rows that the queries' inliers lie on, a list for each query; they may fill half
            of the places, each query's in turn.
        most: how many points to choose, the rest of them at random.
    """
    if num_points <= most:
        return np.arange(num_points)
    rng = np.random.default_rng(0)
    rows = np.zeros(0, dtype=np.int64)
    for share in (16, 64, 256):  # few of every query before many of one
        some = [of_query[:: max(1, len(of_query) // share)] for of_query in wanted]
        more = np.unique(np.concatenate([rows, *some]))
        if len(more) > most // 2:
            if not len(rows):
                rows = rng.choice(more, most // 2, replace=False)
            break
        rows = more
    chosen = np.zeros(num_points, dtype=bool)
    chosen[rows] = True
    others = rng.choice(np.flatnonzero(~chosen), most - len(rows), replace=False)
    return np.sort(np.concatenate([rows, others]))


def tangents(camera: Camera | None) -> tuple[float, float]:
    """Tangents of half the horizontal and vertical field of view, as without distortion."""
    if camera is None or not camera.params or not camera.params[0] > 0:
        return _DEFAULT_TANGENTS
    return camera.width / 2 / camera.params[0], camera.height / 2 / camera.params[0]


def map_tangents(map_dir: Path) -> Mapping[int, tuple[float, float]]:
    """`tangents` of the map's cameras by their ids.

    Raises:
        SamfeatError: cameras.bin is missing or damaged.
    """
    path = map_dir / "cameras.bin"
    numbers = {number: (name, size) for name, (number, size, _) in CAMERA_MODELS.items()}
    found: dict[int, tuple[float, float]] = {}
    try:
        data = path.read_bytes()
        (count,) = struct.unpack_from("<Q", data, 0)
        offset = 8
        for _ in range(count):
            camera_id, model, width, height = _CAMERA.unpack_from(data, offset)
            name, size = numbers[model]
            params = struct.unpack_from(f"<{size}d", data, offset + _CAMERA.size)
            offset += _CAMERA.size + 8 * size
            ok = all(math.isfinite(value) for value in params)
            found[camera_id] = tangents(Camera(name, width, height, params if ok else ()))
    except (OSError, struct.error, KeyError) as error:
        raise SamfeatError(path, "damaged or not a COLMAP file", "make the map again") from error
    return found
