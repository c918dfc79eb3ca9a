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
class Scene:
    """The 3-D view; coordinates are those of `MapFrame`, poses as `MapFrame.poses` has them.

    points (P, 3) float32, colors (P, 3) uint8: the part of the map's num_points that is shown.
    centre (3,), radius: what is seen at first.
    camera_size: depth of a camera's pyramid.
    db_names, db_poses: the map's images.
    estimated, truth: of the queries in their order; NaN where unknown.
    """

    points: np.ndarray
    colors: np.ndarray
    num_points: int
    centre: np.ndarray
    radius: float
    camera_size: float
    db_names: list[str]
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
    queries: list[QueryReport]
    notes: list[str]
