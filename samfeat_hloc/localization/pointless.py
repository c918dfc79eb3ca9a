"""A pose from all that its photos are matched with: points of the map, and keypoints without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..colmap.pointless_matches import Matched, PosedImage, agreeing
from ..colmap.pose_refinement import View, error_scale, refined
from ..colmap.poses import Pose
from .correspondences import Correspondences, ImageMatches

_SCALES = 5  # of the inliers' errors, from its line, of a match that counts


class PosedPhoto(NamedTuple):
    """A photo whose pose was found.

    keypoints: (N, 2) float64 pixels, the corner of the image at (0, 0). camera: its
    `pycolmap.Camera`. images: its matches with each image. found, inliers: the correspondences of
    these images, and which of them agree with the pose, (K,) bool. cam_from_rig: where the pose is
    a rig's.
    """

    keypoints: np.ndarray
    camera: Any
    images: Sequence[ImageMatches]
    found: Correspondences
    inliers: np.ndarray
    cam_from_rig: Pose | None = None

    def view(self, xyz: np.ndarray) -> View:
        """Its inliers."""
        rows, points = self.found.keypoints[self.inliers], self.found.points[self.inliers]
        return View(self.camera, self.keypoints[rows], xyz[points], None, self.cam_from_rig)

    def matched(self, image_of: Callable[[str], PosedImage | None]) -> list[Matched]:
        """Its matches without a point, of keypoints that no inlier has."""
        free = np.ones(len(self.keypoints), dtype=bool)
        free[self.found.keypoints[self.inliers]] = False
        matched = []
        for image in self.images:
            mine, theirs = image.pointless[free[image.pointless[:, 0]]].T
            if len(mine) and (posed := image_of(image.name)) is not None:
                matched.append(Matched(mine, theirs, posed))
        return matched


def refine_with_pointless(
    pose: Pose,
    photos: Sequence[PosedPhoto],
    xyz: np.ndarray,
    image_of: Callable[[str], PosedImage | None],
) -> Pose:
    """The pose refined on its inliers and on the matches without a point that agree with it.

    Args:
        pose: cam_from_world of a photo; rig_from_world of several.
        photos: with an inlier at least.
        xyz: (P, 3) float64, the map's points.
        image_of: an image of the map by its name; None where its keypoints are not known.
    """
    views = [photo.view(xyz) for photo in photos]
    scale = error_scale(pose, views)
    for row, photo in enumerate(photos):
        matched = photo.matched(image_of)
        if matched:
            own = pose if photo.cam_from_rig is None else photo.cam_from_rig @ pose
            near = agreeing(own, photo.camera, photo.keypoints, matched, _SCALES * scale)
            views[row] = views[row]._replace(pointless=near)
    return refined(pose, views, scale)
