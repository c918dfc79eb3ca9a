"""The pose of a rig of cameras from the 2D-3D correspondences of all of them, by COLMAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .absolute_pose import pose_and_inliers, ransac_options
from .library import pycolmap
from .poses import Pose

_MIN_CORRESPONDENCES = 4  # three give several poses, the fourth tells them apart
_ATTEMPTS = 8


def estimate_rig_pose(
    keypoints: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    cameras: Sequence[Any],
    cams_from_rig: Sequence[Pose],
    *,
    max_error: float = 12.0,
) -> tuple[Pose, list[np.ndarray]] | None:
    """Generalised PnP in LO-RANSAC, refined on the inliers.

    A rig kilometres away sees the whole map in one pixel of a camera; such a pose is refused as in
    `absolute_pose.estimate_pose`, and RANSAC run again without the keypoints around the spots.

    Args:
        keypoints: of each camera (K, 2) float64 pixels, the corner of its image at (0, 0).
        points: of each camera (K, 3) float64, where its keypoints are in the world.
        cameras: a `pycolmap.Camera` of each.
        cams_from_rig: the poses in the rig, in the units of the points.
        max_error: of inliers, in pixels.

    Returns:
        rig_from_world and the inliers, (K,) bool of each camera; None where no pose was found.
    """
    options = pycolmap.RANSACOptions()
    for name, value in ransac_options(max_error).items():
        setattr(options, name, value)
    rigid = [pose.to_rigid3d() for pose in cams_from_rig]
    counts = [len(of_one) for of_one in keypoints]
    of_camera = np.repeat(np.arange(len(cameras)), counts)
    xy, xyz = np.concatenate(keypoints), np.concatenate(points)
    candidates = np.arange(len(xy))
    for _ in range(_ATTEMPTS):
        if len(candidates) < _MIN_CORRESPONDENCES:
            return None
        found = pycolmap.estimate_and_refine_generalized_absolute_pose(
            xy[candidates], xyz[candidates], of_camera[candidates].tolist(),
            rigid, list(cameras), estimation_options=options,
        )  # fmt: skip
        if found is None:
            return None
        agree = candidates[np.asarray(found["inlier_mask"], dtype=bool)]
        if not len(agree):
            return None
        spots = np.full((len(cameras), 2), np.inf)
        for camera in np.unique(of_camera[agree]):
            spots[camera] = np.median(xy[agree[of_camera[agree] == camera]], axis=0)
        away = np.hypot(*(xy - spots[of_camera]).T)
        if np.median(away[agree]) > 2 * max_error:
            posed = pose_and_inliers(Pose.from_rigid3d(found["rig_from_world"]), agree, len(xy))
            if posed is None:
                return None
            return posed[0], np.split(posed[1], np.cumsum(counts)[:-1])
        candidates = candidates[away[candidates] > 3 * max_error]
    return None
