"""A query's pose from all that it is matched with: points of the map, and keypoints without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..colmap.pointless_matches import Matched, PosedImage, agreeing
from ..colmap.pose_refinement import error_scale, refined
from ..colmap.poses import Pose
from .correspondences import Correspondences, ImageMatches

_SCALES = 5  # from its line, of a match that counts; farther it is mostly a wrong one


def refine_with_pointless(
    pose: Pose,
    inliers: np.ndarray,
    found: Correspondences,
    images: Sequence[ImageMatches],
    keypoints: np.ndarray,
    xyz: np.ndarray,
    camera: Any,
    image_of: Callable[[str], PosedImage],
) -> Pose:
    """The pose refined on its inliers and on the matches without a point that agree with it.

    A keypoint that an inlier has does not count again.

    Args:
        pose, inliers: of the correspondences, as `absolute_pose.estimate_pose` gives them.
        found: the correspondences of these images.
        keypoints: (N, 2) float64 pixels of the query, the corner of the image at (0, 0).
        xyz: (P, 3) float64, the map's points.
        camera: the query's `pycolmap.Camera`.
        image_of: an image of the map by its name.
    """
    rows = found.keypoints[inliers]
    free = np.ones(len(keypoints), dtype=bool)
    free[rows] = False
    matched = []
    for image in images:
        mine, theirs = image.pointless[free[image.pointless[:, 0]]].T
        if len(mine):
            matched.append(Matched(mine, theirs, image_of(image.name)))
    inlying = keypoints[rows], xyz[found.points[inliers]]
    scale = error_scale(pose, camera, *inlying)
    near = agreeing(pose, camera, keypoints, matched, _SCALES * scale) if matched else None
    return refined(pose, camera, *inlying, near, scale)
