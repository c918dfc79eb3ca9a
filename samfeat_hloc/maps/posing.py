"""From the matches of a photo with images of a map to its pose, and its focal length if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..colmap.absolute_pose import estimate_pose
from ..colmap.cameras import Camera
from ..colmap.focal_length import estimate_focal_length, refine_focal_length
from ..colmap.pointless_matches import PosedImage
from ..colmap.poses import Pose
from ..localization.acceptance import least_inliers
from ..localization.correspondences import Correspondences, ImageMatches, merged
from ..localization.places import Agreement, agreeing, most_promising
from ..localization.pointless import PosedPhoto, refine_with_pointless
from .localization import Clock
from .localizer_settings import LocalizerSettings
from .saved_map import FrozenImage

_MAX_DEVIATION = 0.1  # of a focal length that is found: one with more is not told by the photo


@dataclass(frozen=True, eq=False)
class Posed:
    """A pose and what it comes from.

    Attributes:
        pose: cam_from_world; None where there is none.
        inliers: (K,) bool, which correspondences are within the error bound.
        found: the K correspondences.
        images: the matches with each image that they are of.
        camera: the intrinsics that it was found with.
        focal_deviation: standard deviation, in pixels, of the focal length where it was found too.
        ransacs: how often RANSAC was run.
    """

    pose: Pose | None
    inliers: np.ndarray
    found: Correspondences
    images: list[ImageMatches]
    camera: Camera
    focal_deviation: float | None
    ransacs: int


def image_matches(image: FrozenImage, pair: tuple[np.ndarray, np.ndarray]) -> ImageMatches:
    """The matches with an image, those with a point of the map apart from those without."""
    return ImageMatches.of(image.name, image.points, np.stack(pair, axis=1))


def solve(
    images: list[ImageMatches],
    keypoints: np.ndarray,
    xyz: np.ndarray,
    camera: Camera,
    settings: LocalizerSettings,
    clock: Clock,
    *,
    refine_focal: bool,
) -> Posed:
    """The pose of a photo from its matches with points.

    Arguments:
        images: the matches with each, as :func:`image_matches` gives them, most similar first.
        keypoints: (N, 2) float64 pixels of the photo, its corner at (0, 0).
        xyz: (P, 3) float64, the map's points.
        camera: the photo's intrinsics.
        refine_focal: look for the focal length first, and keep ``camera`` where it is not told.
    """
    ransacs = 0
    if refine_focal:
        with clock.stage("focal"):
            rough = _rough_focal(images, keypoints, xyz, camera, settings)
        ransacs += 1
        if rough is not None:
            posed = _solve(images, keypoints, xyz, rough, settings, clock)
            ransacs += posed.ransacs
            with clock.stage("focal"):
                refined = _refined(posed, keypoints, xyz)
            if refined is not None:
                return replace(refined, ransacs=ransacs)
    posed = _solve(images, keypoints, xyz, camera, settings, clock)
    return replace(posed, ransacs=ransacs + posed.ransacs)


def images_by_name(frozen: Iterable[FrozenImage]) -> Callable[[str], PosedImage]:
    """A function from a name to the image that has it."""
    named = {image.name: image for image in frozen}

    def image_of(name: str) -> PosedImage:
        image = named[name]
        return PosedImage.of(image.keypoints, image.pose, image.camera.to_pycolmap())

    return image_of


def refined_with_pointless(
    posed: Posed, keypoints: np.ndarray, xyz: np.ndarray, frozen: Sequence[FrozenImage]
) -> Posed:
    """The same, with its pose refined by the matches without a point too.

    Arguments:
        keypoints, xyz: as in :func:`solve`.
        frozen: the images that the photo is matched with.
    """
    if posed.pose is None:
        return posed
    photo = PosedPhoto(
        keypoints, posed.camera.to_pycolmap(), posed.images, posed.found, posed.inliers
    )
    return replace(
        posed, pose=refine_with_pointless(posed.pose, [photo], xyz, images_by_name(frozen))
    )


def _solve(
    images: Sequence[ImageMatches],
    keypoints: np.ndarray,
    xyz: np.ndarray,
    camera: Camera,
    settings: LocalizerSettings,
    clock: Clock,
) -> Posed:
    """The pose with these intrinsics."""
    intrinsics = camera.to_pycolmap()
    agreement = Agreement(list(images))
    with clock.stage("places"):
        if settings.places:
            agreement = agreeing(images, xyz, intrinsics, keypoints, max_error=settings.max_error)
    with clock.stage("pose"):
        found = merged(agreement.images)
        solved = agreement.solved or estimate_pose(
            keypoints[found.keypoints],
            xyz[found.points],
            intrinsics,
            max_error=settings.max_error,
            support=found.support,
            rough=True,
        )
    pose, inliers = solved or (None, np.zeros(len(found.keypoints), dtype=bool))
    return Posed(
        pose=pose,
        inliers=inliers,
        found=found,
        images=agreement.images,
        camera=camera,
        focal_deviation=None,
        ransacs=agreement.ransacs + (agreement.solved is None),
    )


def _rough_focal(
    images: Sequence[ImageMatches],
    keypoints: np.ndarray,
    xyz: np.ndarray,
    camera: Camera,
    settings: LocalizerSettings,
) -> Camera | None:
    """The camera with the focal length that the most promising place tells."""
    found = merged(most_promising(images))
    estimated = estimate_focal_length(
        keypoints[found.keypoints], xyz[found.points], camera.to_pycolmap(),
        max_error=settings.max_error,
        min_inliers=least_inliers(len(np.unique(found.keypoints)), settings.min_inliers),
    )  # fmt: skip
    return None if estimated is None else Camera.of(estimated)


def _refined(posed: Posed, keypoints: np.ndarray, xyz: np.ndarray) -> Posed | None:
    """Pose and focal length from all inliers; None where these do not tell the latter."""
    if posed.pose is None:
        return None
    refined = refine_focal_length(
        keypoints[posed.found.keypoints[posed.inliers]],
        xyz[posed.found.points[posed.inliers]],
        posed.pose,
        posed.camera.to_pycolmap(),
    )
    if refined is None:
        return None
    pose, intrinsics, deviation = refined
    if deviation > _MAX_DEVIATION * intrinsics.mean_focal_length():
        return None
    return replace(posed, pose=pose, camera=Camera.of(intrinsics), focal_deviation=deviation)
