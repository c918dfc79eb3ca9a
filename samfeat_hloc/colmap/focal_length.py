"""The focal length of a photo from its 2D-3D correspondences, and how well they determine it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .absolute_pose import ransac
from .library import pycolmap
from .poses import Pose

_MIN_CORRESPONDENCES = 5  # four give the pose and the focal length, the fifth checks them
_STEP = 1e-6  # of numeric derivatives, relative


def estimate_focal_length(
    keypoints: np.ndarray,
    points: np.ndarray,
    camera: Any,
    *,
    max_error: float = 12.0,
    min_inliers: int = 0,
) -> Any | None:
    """A camera with the focal length that the most correspondences agree on: P4Pf in LO-RANSAC,
    refined on the inliers.

    The focal length of the camera that is given plays no part; the ratio of its two, where it has
    two, stays.

    Args:
        keypoints: (K, 2) float64 pixels, the corner of the image at (0, 0).
        points: (K, 3) float64.
        camera: a `pycolmap.Camera`, which stays as it is.
        max_error: of inliers, in pixels.
        min_inliers: with fewer none is found.

    Returns:
        A `pycolmap.Camera`; None where none was found.
    """
    if len(points) < max(_MIN_CORRESPONDENCES, min_inliers):
        return None
    options = ransac(max_error, min_inliers / len(points))
    options.estimate_focal_length = True
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = True
    estimated = copy.deepcopy(camera)
    found = pycolmap.estimate_and_refine_absolute_pose(
        keypoints, points, estimated, estimation_options=options, refinement_options=refinement
    )
    if found is None or found["num_inliers"] < min_inliers:
        return None
    ratio = estimated.mean_focal_length() / camera.mean_focal_length()
    return scaled(camera, ratio) if np.isfinite(ratio) and ratio > 0 else None


def refine_focal_length(
    keypoints: np.ndarray, points: np.ndarray, pose: Pose, camera: Any
) -> tuple[Pose, Any, float] | None:
    """Pose and focal length together, from correspondences that agree with them.

    Args:
        keypoints: (K, 2) float64 pixels of inliers, the corner of the image at (0, 0).
        points: (K, 3) float64.
        pose: where to begin.
        camera: a `pycolmap.Camera`, where to begin; it stays as it is.

    Returns:
        The pose, the camera, and the standard deviation of its mean focal length in pixels as the
        inliers' errors tell it, which are taken as independent; None where they do not determine
        it.
    """
    options = pycolmap.AbsolutePoseRefinementOptions()
    options.refine_focal_length = True
    refined = copy.deepcopy(camera)
    found = pycolmap.refine_absolute_pose(
        pose.to_rigid3d(), keypoints, points, np.ones(len(points), dtype=bool), refined, options
    )
    if found is None:
        return None
    pose = Pose.from_rigid3d(found["cam_from_world"])
    refined = scaled(camera, refined.mean_focal_length() / camera.mean_focal_length())
    deviation = _deviation(keypoints, points, pose, refined)
    return None if deviation is None else (pose, refined, deviation)


def scaled(camera: Any, ratio: float) -> Any:
    """A camera with its focal lengths multiplied."""
    camera = copy.deepcopy(camera)
    params = np.array(camera.params)
    params[camera.focal_length_idxs()] *= ratio
    camera.params = params
    return camera


def _deviation(keypoints: np.ndarray, points: np.ndarray, pose: Pose, camera: Any) -> float | None:
    """Of the focal length, from the covariance of the least squares over pose and focal length."""
    if 2 * len(points) <= 7:
        return None
    seen = points @ pose.rotation.T + pose.tvec

    def projected(values: np.ndarray) -> np.ndarray:
        """Pixels, after a small turn, move (relative to the depth) and change of focal length."""
        turned = seen + np.cross(values[:3], seen) + values[3:6] * depth
        return np.asarray(scaled(camera, 1 + values[6]).img_from_cam(turned), dtype=float)

    depth = float(np.median(seen[:, 2]))
    at = projected(np.zeros(7))
    jacobian = np.stack(
        [(projected(step) - projected(-step)).ravel() / (2 * _STEP) for step in np.eye(7) * _STEP],
        axis=1,
    )
    if not (np.isfinite(jacobian).all() and np.isfinite(at).all()):
        return None
    variance = float(((at - keypoints) ** 2).sum()) / (2 * len(points) - 7)
    try:
        covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    except np.linalg.LinAlgError:
        return None
    if not covariance[6, 6] >= 0:
        return None
    return float(np.sqrt(covariance[6, 6]) * camera.mean_focal_length())
