"""Matches of a photo with keypoints that have no point of the map, for its pose.

Along which line in the world such a keypoint was seen is known, as its image has a pose; what it
matches in the photo lies on that line as the photo sees it, the epipolar line. That says less than
a match with a point, but in a map of few images there are several times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .poses import Pose


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image whose pose is known.

    keypoints: (N, 2) pixels, the corner of the image at (0, 0). rotation, centre: (3, 3) from the
    world to the camera, and (3,), where this is in the world. camera: its `pycolmap.Camera`.
    """

    keypoints: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray
    camera: Any

    @classmethod
    def of(cls, keypoints: np.ndarray, pose: Pose, camera: Any) -> PosedImage:
        """With a pose that is cam_from_world."""
        return cls(keypoints, pose.rotation, pose.centre, camera)


class Matched(NamedTuple):
    """Matches with an image: rows (M,) of the photo's keypoints, and of the image's."""

    rows: np.ndarray
    image_rows: np.ndarray
    image: PosedImage


@dataclass(frozen=True, eq=False)
class PointlessMatches:
    """M matches of a photo, with keypoints of images whose poses are known, on lines in the world.

    rays: (3, M) float64, of the photo's keypoints in its camera, so long that errors are in pixels.
    centres: (3, M), of the images in the world. directions: (3, M), to what their keypoints show.
    """

    rays: np.ndarray
    centres: np.ndarray
    directions: np.ndarray

    def seen(self, rotation: np.ndarray, tvec: np.ndarray) -> SeenLines:
        """From a pose of the photo.

        Args:
            rotation, tvec: of cam_from_world.
        """
        directions = rotation @ self.directions
        lines = _cross(rotation @ self.centres + tvec[:, None], directions)
        return SeenLines(self.rays, directions, lines)


class SeenLines(NamedTuple):
    """Matches without a point from a pose of the photo: the rays, and in its camera (3, M) what
    the images' keypoints show and the lines that these lie on."""

    rays: np.ndarray
    directions: np.ndarray
    lines: np.ndarray

    def errors(self) -> np.ndarray:
        """Signed distances (M,): of the match to the nearest pixels that fit the poses (Sampson's),
        near the pose with which the matches were found to agree."""
        return _dot(self.rays, self.lines)

    def derivatives(self) -> np.ndarray:
        """Of the errors, (6, M), by a turn about the photo's camera centre and a shift after it."""
        return np.concatenate([_cross(self.lines, self.rays), _cross(self.directions, self.rays)])


def agreeing(
    pose: Pose, camera: Any, keypoints: np.ndarray, matched: Sequence[Matched],
    max_error: float,
) -> PointlessMatches:  # fmt: skip
    """The matches near their lines, with what they show before both cameras.

    Args:
        pose: of the photo, cam_from_world.
        camera: the photo's `pycolmap.Camera`.
        keypoints: (N, 2) float64 pixels of the photo, its corner at (0, 0).
        matched: with one image at least.
        max_error: distance in pixels from the line.
    """
    rotation = pose.rotation
    images, counts = [part.image for part in matched], [len(part.rows) for part in matched]
    rays = _rays(camera, keypoints[np.concatenate([part.rows for part in matched])])
    centres = np.repeat(np.stack([image.centre for image in images], 1), counts, axis=1)
    # the images' axes in the world, as long as a pixel at distance 1 is
    axes = [image.rotation[:2] / image.camera.mean_focal_length() for image in images]
    right, down = np.repeat(np.stack(axes, 2), counts, axis=2)
    each = [
        part.image.rotation.T @ _rays(part.image.camera, part.image.keypoints[part.image_rows])
        for part in matched
    ]
    directions = np.concatenate(each, 1)
    seen, base = rotation @ directions, rotation @ centres + pose.tvec[:, None]
    line = _cross(base, seen)
    there = rotation.T @ _cross(rays, base)  # the line in the image, in the world's axes
    length = np.sqrt(
        (line[0] ** 2 + line[1] ** 2) / camera.mean_focal_length() ** 2
        + _dot(there, right) ** 2
        + _dot(there, down) ** 2
    )
    between = _cross(rays, seen)
    before = (_dot(line, between) > 0) & (_dot(_cross(base, rays), between) > 0)
    # No line has a length where the photo was taken from the image's own place.
    kept = before & (np.abs(_dot(rays, line)) <= max_error * length) & (length > 1e-12)
    return PointlessMatches(rays[:, kept] / length[kept], centres[:, kept], directions[:, kept])


def _rays(camera: Any, keypoints: np.ndarray) -> np.ndarray:
    plane = np.asarray(camera.cam_from_img(keypoints.astype(np.float64))).reshape(-1, 2).T
    return np.concatenate([plane, np.ones_like(plane[:1])])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of (3, M) arrays; `np.cross` takes several times as long."""
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ij,ij->j", a, b))
