"""What is told of a photo that was looked for in a map."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.poses import Pose, pose_json
from ..localization.acceptance import confidence


@dataclass(frozen=True, eq=False)
class Localization:
    """Where a photo was taken.

    Attributes:
        pose: cam_from_world; None where the photo is not localized.
        refused: why it is not localized; None where it is.
        weak_pose: what was found of a photo that is not localized, if anything: as likely as not
            of another place.
        camera: the intrinsics that it was found with.
        focal_deviation: standard deviation, in pixels, of the focal length that was found with the
            pose; None where it is as it was given.
        num_keypoints: of the photo.
        num_matches: with keypoints of the images used that have a point.
        num_correspondences: different (keypoint, point) pairs among them.
        num_matched: different keypoints among them.
        num_agreeing: different keypoints that agree with the pose, whichever of their points do.
        num_squares: places of the photo with keypoints that agree with the pose, see
            :func:`samfeat_hloc.localization.acceptance.squares`.
        inlier_keypoints: (I, 2) float64 pixels, the corner of the photo at (0, 0).
        inlier_points: (I,) int64, ids of the map's points; of the weak pose where it is one.
        retrieved: names of the database images used, most similar first, and their matches;
            those of lookalike places are left out.
        turned: degrees, clockwise, by which the photo was turned to be localized; the pose and all
            keypoints are of the photo as it is stored.
        num_ransacs: how often RANSAC was run: for a place each, for the pose, for the focal length.
        seconds: by stage: "read", "extract", "retrieve", "match", "places", "pose", and "total";
            "focal" where the focal length was looked for.
    """

    pose: Pose | None
    refused: str | None
    weak_pose: Pose | None
    camera: Camera
    focal_deviation: float | None
    num_keypoints: int
    num_matches: int
    num_correspondences: int
    num_matched: int
    num_agreeing: int
    num_squares: int
    inlier_keypoints: np.ndarray
    inlier_points: np.ndarray
    retrieved: list[tuple[str, int]]
    turned: int
    num_ransacs: int
    seconds: dict[str, float] = field(repr=False)

    @property
    def num_inliers(self) -> int:
        """Correspondences within the error bound of the pose."""
        return len(self.inlier_points)

    @property
    def confidence(self) -> float:
        """From 0 to 1: how probable it is that the photo shows what the map shows, where half of
        the photos do. See :func:`samfeat_hloc.localization.acceptance.confidence`.
        """
        return confidence(self.num_agreeing, self.num_matched, self.num_squares)

    def as_json(self, *, weak: bool = False) -> dict[str, Any]:
        """All but the inliers themselves, as plain JSON values.

        Arguments:
            weak: give the pose of a photo that is not localized too.
        """
        pose = self.pose or (self.weak_pose if weak else None)
        return {
            "localized": self.pose is not None,
            "refused": self.refused,
            **pose_json(pose),
            "camera": {
                "model": self.camera.model,
                "width": self.camera.width,
                "height": self.camera.height,
                "params": list(self.camera.params),
            },
            "focal_deviation": self.focal_deviation,
            "confidence": self.confidence,
            "num_keypoints": self.num_keypoints,
            "num_matches": self.num_matches,
            "num_correspondences": self.num_correspondences,
            "num_matched": self.num_matched,
            "num_inliers": self.num_inliers,
            "num_agreeing": self.num_agreeing,
            "num_squares": self.num_squares,
            "retrieved": self.retrieved,
            "turned": self.turned,
            "num_ransacs": self.num_ransacs,
            "seconds": self.seconds,
        }


class Clock:
    """Seconds by stage, and their sum."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = {} if seconds is None else seconds
        self.seconds.setdefault("total", 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.seconds["total"] += seconds
