"""The pose of a query from its 2D-3D correspondences: PnP in LO-RANSAC, by COLMAP."""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import pycolmap
from .pose_refinement import CONVERGED, ROUGHLY, View, middle, refined
from .poses import Pose

_MIN_CORRESPONDENCES = 4  # three give up to four poses, the fourth tells them apart
_ATTEMPTS = 8
_PART = 500  # correspondences with which RANSAC begins where there are more
_SURE = 0.25  # of them agree, at least: with a wrong pose less than a tenth do
_TRIALS = 20  # at least; COLMAP draws 100, where nearly all agree many more than tell
_SEED = 0  # of RANSAC, the same for every query: a rerun gives the same poses


def estimate_pose(
    keypoints: np.ndarray,
    points: np.ndarray,
    camera: Any,
    *,
    max_error: float = 12.0,
    min_inliers: int = 0,
    support: np.ndarray | None = None,
    rough: bool = False,
) -> tuple[Pose, np.ndarray] | None:
    """PnP in LO-RANSAC, refined on the inliers.

    RANSAC looks at every correspondence for every sample. Where there are many it begins with those
    of most support, nearly all of which are right, and all then say which are inliers; where too
    few of these agree to be sure, it takes all.

    A camera kilometres away sees the whole map in one pixel, and every match of every keypoint
    near that pixel agrees with it; where true inliers are few (lamps at night), that is the most.
    Such a pose is refused, and RANSAC run again without the keypoints around the spot.

    Args:
        keypoints: (K, 2) float64 pixels, the corner of the image at (0, 0).
        points: (K, 3) float64.
        camera: a `pycolmap.Camera`.
        max_error: of inliers, in pixels.
        min_inliers: a pose with fewer is none. RANSAC then draws as many samples as one with
            so many needs, which are few where they are a large share. What is found is what would
            be found without this bound.
        support: (K,), how many images say so; None where that is not known.
        rough: whether the pose will be refined further, and need not be to the last digit.

    Returns:
        cam_from_world and the inliers, (K,) bool; None where no pose was found.
    """
    candidates = np.arange(len(keypoints))
    for _ in range(_ATTEMPTS):
        if len(candidates) < max(_MIN_CORRESPONDENCES, min_inliers):
            return None
        found = _refined_pose(
            keypoints[candidates], points[candidates], camera,
            None if support is None else support[candidates],
            max_error, min_inliers / len(candidates), ROUGHLY if rough else CONVERGED,
        )  # fmt: skip
        if found is None:
            return None
        pose, mask = found
        agree = candidates[mask]
        if not len(agree) or len(agree) < min_inliers:
            return None
        spot = np.array([middle(keypoints[agree, 0]), middle(keypoints[agree, 1])])
        if middle(_distance(keypoints[agree], spot)) > 2 * max_error:
            return pose_and_inliers(pose, agree, len(keypoints))
        candidates = candidates[_distance(keypoints[candidates], spot) > 3 * max_error]
    return None


def _refined_pose(
    keypoints: np.ndarray, points: np.ndarray, camera: Any, support: np.ndarray | None,
    max_error: float, min_share: float, converged: float,
) -> tuple[Pose, np.ndarray] | None:  # fmt: skip
    """The pose refined on all inliers, and these, (K,) bool."""
    if support is not None and len(keypoints) > _PART and min_share < _SURE:
        most = np.argsort(-support, kind="stable")[:_PART]
        options = ransac(max_error, _SURE)
        options.ransac.min_num_trials = _TRIALS
        found = pycolmap.estimate_absolute_pose(keypoints[most], points[most], camera, options)
        if found is not None and found["num_inliers"] >= _SURE * _PART:
            pose = Pose.from_rigid3d(found["cam_from_world"])
            mask = reprojection_errors(pose, camera, keypoints, points) <= max_error
            view = View(camera, keypoints[mask], points[mask])
            pose = refined(pose, [view], converged=converged)
            return pose, mask
    found = pycolmap.estimate_and_refine_absolute_pose(
        keypoints, points, camera, estimation_options=ransac(max_error, min_share)
    )
    if found is None:
        return None
    pose = Pose.from_rigid3d(found["cam_from_world"])
    return pose, np.asarray(found["inlier_mask"], dtype=bool)


def reprojection_errors(
    pose: Pose, camera: Any, keypoints: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Distances (K,) in pixels of keypoints (K, 2) from where points (K, 3) are seen; infinite for
    points behind the camera.

    Args:
        pose: cam_from_world.
        camera: a `pycolmap.Camera`.
    """
    inside = points @ pose.rotation.T + pose.tvec
    error = np.full(len(points), np.inf)
    front = inside[:, 2] > 0
    if front.any():
        projected = np.asarray(camera.img_from_cam(inside[front]))
        found = np.linalg.norm(projected - keypoints[front], axis=1)
        error[front] = np.where(np.isfinite(found), found, np.inf)
    return error


def pose_and_inliers(pose: Pose, agree: np.ndarray, count: int) -> tuple[Pose, np.ndarray] | None:
    """A pose and its inliers, (count,) bool; None where it is not finite.

    Args:
        agree: which correspondences agree with it, their indices.
        count: of all correspondences.
    """
    if not (np.isfinite(pose.qvec).all() and np.isfinite(pose.tvec).all()):
        return None
    inliers = np.zeros(count, dtype=bool)
    inliers[agree] = True
    return pose, inliers


def _distance(keypoints: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.hypot(keypoints[:, 0] - point[0], keypoints[:, 1] - point[1])


def ransac_options(max_error: float) -> dict[str, Any]:
    """pycolmap's RANSAC options of a query's pose, the same in both engines."""
    return {
        "max_error": max_error,
        "random_seed": _SEED,
        # COLMAP draws three times as many samples as its confidence of 0.99999 asks for, and RANSAC
        # is nearly all of localization's time.
        "dyn_num_trials_multiplier": 1.0,
    }


def ransac(max_error: float, min_share: float = 0.0) -> pycolmap.AbsolutePoseEstimationOptions:
    """RANSAC as everywhere here; `min_share`: of inliers, of a pose that is worth finding."""
    options = pycolmap.AbsolutePoseEstimationOptions()
    # COLMAP stops where a pose with this share would have been found with the confidence asked for
    options.ransac.min_inlier_ratio = max(options.ransac.min_inlier_ratio, min_share)
    for name, value in ransac_options(max_error).items():
        setattr(options.ransac, name, value)
    return options
