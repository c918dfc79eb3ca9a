"""The photos of a model and what they see of it, from a reconstruction or from a saved map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..colmap.absolute_pose import reprojection_errors
from ..colmap.cameras import Camera
from ..colmap.covisibility import shared_points
from ..colmap.model import read_model
from ..colmap.poses import Pose
from ..files.feature_readers import FeatureReader
from ..localization.same_features import check_same_features
from ..maps import saved_map


@dataclass(frozen=True, eq=False)
class PlacedPhoto:
    """A photo of a model. keypoints: (N, 2) pixels from the photo's corner; points: (N,) rows."""

    name: str
    camera: Camera
    pose: Pose
    keypoints: np.ndarray
    points: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """Which keypoints have a point, ascending."""
        return np.flatnonzero(self.points >= 0)


@dataclass(frozen=True, eq=False)
class PlacedModel:
    """Photos, points (P, 3), and the points' colours (P, 3) uint8 where the files have them."""

    photos: list[PlacedPhoto]
    xyz: np.ndarray
    colors: np.ndarray | None


@dataclass(frozen=True, eq=False)
class ModelFigures:
    """How well a model holds together.

    shared: for each photo, how many points it shares with every other.
    photo_errors, photo_tracks: for each photo the means over its points: pixels between keypoint
        and projection, and photos that see the point; NaN where it sees none.
    errors: (P,) mean error of each point; track_lengths: (P,).
    """

    shared: list[np.ndarray]
    photo_errors: np.ndarray
    photo_tracks: np.ndarray
    errors: np.ndarray
    track_lengths: np.ndarray


def of_map(folder: Path) -> PlacedModel:
    """A saved map's photos; it has no colours. SamfeatError as `saved_map.read`."""
    frozen = saved_map.read(folder)
    photos = [
        PlacedPhoto(image.name, image.camera, image.pose, image.keypoints, image.points)
        for image in frozen.images
    ]
    return PlacedModel(photos, frozen.xyz, None)


def of_model(folder: Path, features: Path) -> PlacedModel:
    """A COLMAP model's photos, with the keypoints of its features.

    Raises:
        SamfeatError: no or a damaged model, or features of others than its photos.
    """
    model = read_model(folder)
    names = list(model.images)
    photos = []
    with FeatureReader(features) as reader:
        reader.require(names, "give outputs whose features are those of the model")
        check_same_features(model, folder, reader, names)
        for name, image in model.images.items():
            keypoints = reader.keypoints(name)
            points = image.points
            if not len(points):  # pycolmap 3.13 drops the keypoints of what sees nothing
                points = np.full(len(keypoints), -1, dtype=np.int32)
            photos.append(PlacedPhoto(name, model.camera_of(name), image.pose, keypoints, points))
    return PlacedModel(photos, model.xyz, model.colors)


def figures_of(model: PlacedModel) -> ModelFigures:
    """See `ModelFigures`."""
    rows = [photo.points[photo.seen] for photo in model.photos]
    count = len(model.xyz)
    track_lengths = _total(rows, [np.ones(len(row)) for row in rows], count)
    errors = [
        reprojection_errors(
            photo.pose, photo.camera.to_pycolmap(), photo.keypoints[photo.seen], model.xyz[row]
        )
        for photo, row in zip(model.photos, rows, strict=True)
    ]
    return ModelFigures(
        list(shared_points(rows)) if count else [np.zeros(len(rows), dtype=np.int64)] * len(rows),
        np.array([_mean(error) for error in errors]),
        np.array([_mean(track_lengths[row]) for row in rows]),
        _total(rows, errors, count) / np.maximum(track_lengths, 1),
        track_lengths.astype(np.int64),
    )


def _total(rows: Sequence[np.ndarray], values: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The sum of values over each of `count` points; rows say which point a value is of."""
    if not rows:
        return np.zeros(count)
    return np.bincount(np.concatenate(rows), weights=np.concatenate(values), minlength=count)


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
