"""Photos that a rig of cameras took at once, localized together in a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.pointless_matches import PosedImage
from ..colmap.poses import Pose, pose_json
from ..colmap.rig_pose import estimate_rig_pose
from ..errors import SamfeatError
from ..localization.acceptance import confidence, refusal, squares
from ..localization.correspondences import ImageMatches, merged
from ..localization.pointless import PosedPhoto, refine_with_pointless
from .localization import Clock
from .localizer_settings import LocalizerSettings


@dataclass(frozen=True, eq=False)
class RigView:
    """One photo of a rig: its intrinsics, keypoints (N, 2) in pixels from its corner, and its
    matches with images of the map."""

    camera: Camera
    keypoints: np.ndarray
    images: list[ImageMatches]


@dataclass(frozen=True, eq=False)
class RigLocalization:
    """Where a rig was; lists are in the order of its photos.

    Attributes:
        pose: rig_from_world; None where the rig is not localized.
        refused: why it is not localized; None where it is.
        weak_pose: what was found of a rig that is not localized, if anything.
        cams_from_rig: as they were given.
        cameras: the intrinsics.
        num_keypoints: of each photo.
        num_correspondences: different (keypoint, point) pairs of all photos.
        num_matched: different keypoints among them.
        num_agreeing: keypoints with an inlier, of each photo.
        num_squares: places of all photos with such keypoints, see
            :func:`samfeat_hloc.localization.acceptance.squares`.
        inlier_keypoints: of each photo (I, 2) float64 pixels, its corner at (0, 0).
        inlier_points: of each photo (I,) int64, ids of the map's points.
        retrieved: of each photo the names of the database images, and their matches.
        seconds: by stage, as those of :class:`.localization.Localization`.
    """

    pose: Pose | None
    refused: str | None
    weak_pose: Pose | None
    cams_from_rig: list[Pose]
    cameras: list[Camera]
    num_keypoints: list[int]
    num_correspondences: int
    num_matched: int
    num_agreeing: list[int]
    num_squares: int
    inlier_keypoints: list[np.ndarray]
    inlier_points: list[np.ndarray]
    retrieved: list[list[tuple[str, int]]]
    seconds: dict[str, float] = field(repr=False)

    @property
    def poses(self) -> list[Pose] | None:
        """cam_from_world of each photo; None where the rig is not localized."""
        return None if self.pose is None else self.poses_of(self.pose)

    def poses_of(self, rig_from_world: Pose) -> list[Pose]:
        """cam_from_world of each photo of a rig there."""
        return [cam_from_rig @ rig_from_world for cam_from_rig in self.cams_from_rig]

    @property
    def confidence(self) -> float:
        """See :func:`samfeat_hloc.localization.acceptance.confidence`, which is calibrated on
        single photos."""
        return confidence(sum(self.num_agreeing), self.num_matched, self.num_squares)

    def as_json(self, *, weak: bool = False) -> dict[str, Any]:
        """What is known of the rig as a whole, as plain JSON values; weak: give a weak pose too."""
        pose = self.pose or (self.weak_pose if weak else None)
        return {
            "localized": self.pose is not None,
            "refused": self.refused,
            **pose_json(pose, "rig_"),
            "confidence": self.confidence,
            "num_correspondences": self.num_correspondences,
            "num_matched": self.num_matched,
            "num_squares": self.num_squares,
            "seconds": self.seconds,
        }


def as_pose(value: Any) -> Pose:
    """A cam_from_rig as a pose: one of ours, or a ``pycolmap.Rigid3d``.

    Raises:
        SamfeatError: neither.
    """
    if isinstance(value, Pose):
        return value
    if hasattr(value, "rotation") and hasattr(value, "translation"):
        return Pose.from_rigid3d(value)
    raise SamfeatError(
        "cams_from_rig",
        f"a {type(value).__name__} was given",
        "give a pycolmap.Rigid3d for each photo",
    )


def solve(
    views: Sequence[RigView],
    cams_from_rig: Sequence[Pose],
    xyz: np.ndarray,
    point_ids: np.ndarray,
    image_of: Callable[[str], PosedImage],
    settings: LocalizerSettings,
    clock: Clock,
) -> RigLocalization:
    """The pose of a rig.

    Arguments:
        views: its photos.
        cams_from_rig: the pose of each in the rig, in the map's units.
        xyz, point_ids: the map's points and their ids.
        image_of: an image that they are matched with, by its name.
    """
    with clock.stage("pose"):
        found = [merged(view.images) for view in views]
        cameras = [view.camera.to_pycolmap() for view in views]
        solved = estimate_rig_pose(
            [v.keypoints[f.keypoints] for v, f in zip(views, found, strict=True)],
            [xyz[one.points] for one in found],
            cameras,
            cams_from_rig,
            max_error=settings.max_error,
        )
        pose, agree = solved or (None, [np.zeros(len(one.keypoints), dtype=bool) for one in found])
        if pose is not None:
            photos = [
                PosedPhoto(view.keypoints, camera, view.images, one, kept, cam_from_rig)
                for view, camera, one, kept, cam_from_rig in zip(
                    views, cameras, found, agree, cams_from_rig, strict=True
                )
            ]
            pose = refine_with_pointless(pose, photos, xyz, image_of)
    agreeing = [len(np.unique(one.keypoints[kept])) for one, kept in zip(found, agree, strict=True)]
    matched = sum(len(np.unique(one.keypoints)) for one in found)
    inlier_keypoints = [
        view.keypoints[one.keypoints[kept]]
        for view, one, kept in zip(views, found, agree, strict=True)
    ]
    apart = sum(squares(keypoints, settings.max_error) for keypoints in inlier_keypoints)
    refused = refusal(sum(agreeing), matched, apart, settings.min_inliers)
    return RigLocalization(
        pose=pose if refused is None else None,
        refused=refused,
        weak_pose=None if refused is None else pose,
        cams_from_rig=list(cams_from_rig),
        cameras=[view.camera for view in views],
        num_keypoints=[len(view.keypoints) for view in views],
        num_correspondences=sum(len(one.points) for one in found),
        num_matched=matched,
        num_agreeing=agreeing,
        num_squares=apart,
        inlier_keypoints=inlier_keypoints,
        inlier_points=[point_ids[one.points[kept]] for one, kept in zip(found, agree, strict=True)],
        retrieved=[[(image.name, len(image.keypoints)) for image in view.images] for view in views],
        seconds=clock.seconds,
    )
