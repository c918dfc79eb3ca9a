"""Whether a map and a feature file are of the same features: they are joined by keypoint number.

Nothing in a COLMAP model says which feature it was made from. With another feature file of the same
photos, or one of the same feature with another number of keypoints, every match would lead to a
point somewhere else, and poses would come out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..colmap.absolute_pose import reprojection_errors
from ..colmap.model import Model
from ..colmap.pose_refinement import middle
from ..errors import SamfeatError
from ..files.feature_readers import FeatureReader

_IMAGES = 16  # whose positions are compared
_LEAST_POINTS = 8  # of an image that says something
_FAR = 0.03  # of the longer side: keypoints lie some pixels from their points, strangers anywhere


def check_same_features(
    model: Model, map_dir: Path, features: FeatureReader, names: Sequence[str]
) -> list[str]:
    """Compare the number of keypoints of images, and where a sample's points are seen.

    Arguments:
        names: images of the map.

    Returns:
        Those that the feature file does not have, which are not compared.

    Raises:
        SamfeatError: the map was made from other features.
    """
    mend = "give the features that the map was made from, or map these"
    compared, missing = [], []
    for name in names:
        image = model.images[name]
        if not features.has(name):
            missing.append(name)
            continue
        if not len(image.points):  # pycolmap 3.13 drops what sees nothing
            continue
        count = features.count(name)
        if count != len(image.points):
            raise SamfeatError(
                features.path,
                f"{name} has {count} keypoints here and {len(image.points)} in the map {map_dir}",
                mend,
            )
        if (image.points >= 0).sum() >= _LEAST_POINTS:
            compared.append(name)
    for name in compared[:: max(len(compared) // _IMAGES, 1)][:_IMAGES]:
        camera = model.camera_of(name)
        distance = _distance(model, name, features.keypoints(name))
        if distance > _FAR * max(camera.width, camera.height):
            raise SamfeatError(
                features.path,
                f"the keypoints of {name} are not those of the map {map_dir}: they lie"
                f" {distance:.0f} pixels from its points",
                mend,
            )
    return missing


def _distance(model: Model, name: str, keypoints: np.ndarray) -> float:
    """The middle distance of keypoints to the projections of their points, in pixels."""
    image = model.images[name]
    seen = image.points >= 0
    camera, points = model.camera_of(name).to_pycolmap(), model.xyz[image.points[seen]]
    return middle(reprojection_errors(image.pose, camera, keypoints[seen], points))
