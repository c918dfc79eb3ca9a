"""New points of an image that joins a map: what it sees with images that are there, triangulated.

Only keypoints without a point take part, on either side; points and poses that are there stay as
they are. A match has to agree with the epipolar geometry of the two poses, as in mapping, and a
point with all its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.epipolar import epipolar_errors
from ..colmap.library import pycolmap
from ..colmap.poses import Pose

MAX_ERROR = 4.0  # times the keypoints' noise, as in mapping
_MIN_ANGLE = np.deg2rad(1.5)  # between two rays: COLMAP's least for a point


@dataclass(frozen=True, eq=False)
class PosedKeypoints:
    """An image with a pose.

    keypoints: (N, 2) pixels, the corner of the image at (0, 0).
    noise: of the keypoints, in pixels.
    free: (N,) bool, keypoints without a point.
    """

    camera: Camera
    pose: Pose
    keypoints: np.ndarray
    noise: float
    free: np.ndarray


@dataclass(frozen=True, eq=False)
class NewPoints:
    """Points (P, 3) float64 and what sees them, a row an observation: point (O,), view (O,) with
    -1 for the new image and else the number of the neighbour, keypoint (O,)."""

    xyz: np.ndarray
    point: np.ndarray
    view: np.ndarray
    keypoint: np.ndarray


def triangulate(
    new: PosedKeypoints,
    neighbours: Sequence[PosedKeypoints],
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> NewPoints:
    """Triangulate matches of free keypoints of an image with free keypoints of its neighbours.

    Arguments:
        pairs: with each neighbour the matches, (K,) keypoints of the new image and of it.
    """
    tracks: dict[int, list[tuple[int, int]]] = {}
    for number, (view, (own, other)) in enumerate(zip(neighbours, pairs, strict=True)):
        both = new.free[own] & view.free[other]
        own, other = own[both], other[both]
        agree = _agree(new, view, own, other)
        for keypoint, matched in zip(own[agree].tolist(), other[agree].tolist(), strict=True):
            tracks.setdefault(keypoint, []).append((number, matched))
    views = {-1: new, **dict(enumerate(neighbours))}
    poses = {number: view.pose.to_rigid3d() for number, view in views.items()}
    cameras = {number: view.camera.to_pycolmap() for number, view in views.items()}
    options = pycolmap.EstimateTriangulationOptions()
    options.min_tri_angle = _MIN_ANGLE
    options.residual_type = pycolmap.TriangulationResidualType.REPROJECTION_ERROR
    options.ransac.max_error = MAX_ERROR * max(view.noise for view in views.values())
    options.ransac.random_seed = 0
    xyz: list[np.ndarray] = []
    rows: list[tuple[int, int, int]] = []
    for keypoint, others in sorted(tracks.items()):
        track = [(-1, keypoint), *others]
        pixels = np.array([views[n].keypoints[k] for n, k in track], dtype=np.float64)
        found = pycolmap.estimate_triangulation(
            pixels, [poses[n] for n, _ in track], [cameras[n] for n, _ in track], options
        )
        if found is None:
            continue
        inliers = np.asarray(found["inliers"], dtype=bool)
        if inliers[0] and inliers.sum() >= 2:
            rows += [
                (len(xyz), *seen) for seen, inlier in zip(track, inliers, strict=True) if inlier
            ]
            xyz.append(np.asarray(found["xyz"], dtype=np.float64))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return NewPoints(np.array(xyz).reshape(-1, 3), table[:, 0], table[:, 1], table[:, 2])


def _agree(
    new: PosedKeypoints, view: PosedKeypoints, own: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Which matches lie near each other's epipolar lines."""
    if not len(own):
        return np.zeros(0, dtype=bool)
    rays, limits = [], []
    for image, keypoints in ((new, own), (view, other)):
        camera = image.camera.to_pycolmap()
        rays.append(np.asarray(camera.cam_from_img(image.keypoints[keypoints].astype(np.float64))))
        limits.append(camera.cam_from_img_threshold(MAX_ERROR * image.noise))
    relative = view.pose.to_rigid3d() * new.pose.to_rigid3d().inverse()
    errors = epipolar_errors(relative.matrix(), *rays)
    return np.asarray((errors[0] <= limits[0]) & (errors[1] <= limits[1]))
