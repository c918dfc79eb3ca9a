"""What a report shows: `gather` reads it from a run's files, `page` draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.failures import Diagnosis
from ..evaluation.localization import LocalizationEvaluation
from ..localization.result import QueryResult
from .photos import ReportPhoto


@dataclass(frozen=True)
class ReportOptions:
    """How much of a run a report shows.

    max_points: of each model in the 3-D view.
    max_pictures: queries or photos with a picture of their matches.
    workers: photos decoded at a time.
    """

    max_points: int = 100_000
    max_pictures: int = 60
    workers: int = 2


@dataclass(frozen=True, eq=False)
class Place:
    """One of the places of a map.

    low, high: (3,), the box that its points and cameras are in.
    cameras: (C,) rows of the map's images.
    """

    low: np.ndarray
    high: np.ndarray
    cameras: np.ndarray

    @property
    def radius(self) -> float:
        return max(float(np.linalg.norm(self.high - self.low)) / 2, 1e-3)


@dataclass(frozen=True)
class Scene:
    """The 3-D view; coordinates are those of `MapFrame`, poses as `MapFrame.poses` has them.

    points (P, 3) float32, colors (P, 3) uint8: the part of the map's num_points that is shown.
    places: what can be looked at, the first one at first.
    camera_size: depth of a camera's pyramid.
    db_poses: the map's images; NaN where they are in another map.
    estimated, truth: of the queries in their order; NaN where unknown.
    """

    points: np.ndarray
    colors: np.ndarray
    num_points: int
    places: list[Place]
    camera_size: float
    db_poses: np.ndarray
    estimated: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class MatchPicture:
    """A query beside the database image that sees most of its inliers; xy as in `relative`.

    keypoints (K, 2) uint16: of the query; matches (M, 4) uint16: xy in the query, then in the
    database image; inliers (M,) bool: whether the pose agrees; num_keypoints, num_matches: before
    a part was chosen.
    """

    query: ReportPhoto
    database: ReportPhoto
    db_name: str
    keypoints: np.ndarray
    matches: np.ndarray
    inliers: np.ndarray
    num_keypoints: int
    num_matches: int


@dataclass(frozen=True)
class QueryReport:
    """One query: its log, its diagnosis, and its pictures as far as there are any.

    support: for each retrieved image, how many of the inliers' points it sees.
    points: (I,) rows of `Scene.points` that are inliers of the query.
    inlier_xy: (I, 2) uint16 as in `relative`, for the thumbnail.
    """

    result: QueryResult
    diagnosis: Diagnosis
    support: list[int]
    points: np.ndarray
    inlier_xy: np.ndarray
    thumbnail: ReportPhoto | None
    picture: MatchPicture | None


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    summary: content of summary.json, empty when there is none.
    records: what made each output, by file name.
    notes: sentences on what is left out.
    """

    title: str
    summary: dict[str, Any]
    records: dict[str, dict[str, Any]]
    evaluation: LocalizationEvaluation | None
    scene: Scene
    db_names: list[str]
    queries: list[QueryReport]
    notes: list[str]


@dataclass(frozen=True)
class PhotoReport:
    """One photo of a map without queries; or one that is in none.

    model: number of its model, None where it is in none.
    reason: why it is in none; empty where it is in one.
    num_keypoints: of the photo, None where that is not known; num_points: how many have a point.
    error: mean distance of these keypoints from their points' projections, pixels; NaN without.
    track_length: mean number of photos that see its points; NaN without.
    camera: its intrinsics in words.
    neighbours: photos that see the same points: number in the list of photos, points that both
        see; of a photo in no model the one with most verified matches, and how many they are.
    points: rows of the scene's points that it sees, some of them.
    xy: (I, 2) uint16 as in `relative`, where the photo sees points, for the thumbnail.
    thumbnail, picture: as far as there are any; the picture is with the best neighbour, and its
        inliers are the matches that are one point.
    """

    name: str
    model: int | None
    reason: str
    num_keypoints: int | None
    num_points: int
    error: float
    track_length: float
    camera: str
    neighbours: list[tuple[int, int]]
    points: np.ndarray
    xy: np.ndarray
    thumbnail: ReportPhoto | None
    picture: MatchPicture | None


@dataclass(frozen=True)
class ModelReport:
    """One of the models.

    scene: its view; the poses are of all photos of the report, NaN where they are not in it.
    track_lengths: (P,) int64 of all its points.
    errors: (P,) mean reprojection errors in pixels.
    num_photos: photos in it.
    """

    scene: Scene
    track_lengths: np.ndarray
    errors: np.ndarray
    num_photos: int


@dataclass(frozen=True)
class PhotosReport:
    """All that a report shows of a reconstruction or of a saved map; see `ReportData`."""

    title: str
    summary: dict[str, Any]
    records: dict[str, dict[str, Any]]
    models: list[ModelReport]
    photos: list[PhotoReport]
    notes: list[str]
