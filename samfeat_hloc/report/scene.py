"""What the 3-D view draws: a part of the map's points, and cameras, upright around the origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.covisibility import shared_points
from ..colmap.poses import Pose
from .contents import Place

POSE_COLUMNS = 14  # centre, right, down, forward (3 each), tangents of half the field of view
_DEFAULT_TANGENTS = (0.5, 0.375)
_LEAST_SHARED = 5  # points, of two cameras of one place
_LEAST_CAMERAS = 3  # of a place


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


def upright_frame(cameras: Sequence[Pose]) -> MapFrame:
    """Up is the mean of the cameras' upward directions, the origin amid the cameras."""
    up = -np.mean([pose.rotation[1] for pose in cameras], axis=0)
    norm = float(np.linalg.norm(up))
    up = up / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])
    east = np.eye(3)[np.argmin(np.abs(up))]
    east = east - up * (east @ up)
    east /= np.linalg.norm(east)
    origin = np.median([pose.centre for pose in cameras], axis=0)
    return MapFrame(origin, np.stack([east, np.cross(up, east), up]))


def places(
    points: np.ndarray,
    seen: Sequence[np.ndarray],
    centres: np.ndarray,
    cameras: np.ndarray | None = None,
) -> list[Place]:
    """The places that a model shows, the one with most cameras first; a place at least.

    Cameras are of one place that see the same points, or that see points which others see of both;
    places whose boxes overlap are one, as the two sides of a street. Far outliers do not count: the
    box of a place holds most of its points, and its cameras.

    Args:
        points: (P, 3) scene coordinates.
        seen: for each camera the rows of the points it sees, -1 for none.
        centres: (M, 3) of the cameras, scene coordinates.
        cameras: numbers of those that have a pose; None for all.
    """
    cameras = np.arange(len(centres)) if cameras is None else cameras
    rows = [of_camera[of_camera >= 0] for of_camera in seen]
    groups = [group for group in _groups(rows) if len(group) >= _LEAST_CAMERAS]
    found = []
    for group in groups or [cameras]:
        at = points[np.concatenate([rows[camera] for camera in group])]
        if not len(at):
            at = centres[group]
        low, high = np.percentile(at, 3, axis=0), np.percentile(at, 97, axis=0)
        reach = 2 * float(np.linalg.norm(high - low))
        near = ((centres[group] > low - reach) & (centres[group] < high + reach)).all(axis=1)
        kept = group[near] if near.any() else group
        box = np.vstack([[low, high], centres[kept]])
        found.append(Place(box.min(axis=0), box.max(axis=0), kept))
    return sorted(_joined(found), key=lambda place: -len(place.cameras))


def _joined(found: Sequence[Place]) -> list[Place]:
    """The places, those whose boxes overlap as one."""
    apart: list[Place] = []
    for place in found:
        joined = place
        while True:  # a box that grew may overlap more
            near = [p for p in apart if (p.low < joined.high).all() and (joined.low < p.high).all()]
            if not near:
                break
            apart = [p for p in apart if not any(p is other for other in near)]
            parts = [joined, *near]
            joined = Place(
                np.min([p.low for p in parts], axis=0),
                np.max([p.high for p in parts], axis=0),
                np.sort(np.concatenate([p.cameras for p in parts])),
            )
        apart.append(joined)
    return apart


def _groups(seen: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cameras, by their numbers, that are connected by points which two of them see."""
    if not any(map(len, seen)):
        return []
    group = np.arange(len(seen))
    for camera, common in enumerate(shared_points(seen)):
        joined = np.flatnonzero(common >= _LEAST_SHARED)
        names = np.unique(group[np.append(joined, camera)])
        group[np.isin(group, names)] = names[0]
    return [np.flatnonzero(group == name) for name in np.unique(group)]


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
