"""From the matches of queries to their poses, in three steps: read, solve, finish.

Matches become 2D-3D correspondences (`correspondences`), and these a pose by RANSAC
(`absolute_pose`), which is then refined with the matches that have no point (`pointless`). Queries
that a rig's cameras took at once are localized together (`rig_pose`).

COLMAP solves without Python's lock, so several threads can. The other two steps are Python's: in
threads they would wait for each other's lock longer than they work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..colmap.absolute_pose import estimate_pose
from ..colmap.model import Model
from ..colmap.pointless_matches import PosedImage
from ..colmap.poses import Pose
from ..colmap.rig_pose import estimate_rig_pose
from ..datasets.queries import Query
from ..files.feature_readers import FeatureReader, MatchReader
from .correspondences import Correspondences, ImageMatches, check_keypoints, image_matches, merged
from .inputs import LocalizationInputs
from .pointless import PosedPhoto, refine_with_pointless
from .result import FALLBACK, LOCALIZED, OfFrame, QueryResult

logger = logging.getLogger(__name__)

_IMAGES_KEPT = 4096  # of the map, their keypoints: 130 MB of 4,096 each


@dataclass(frozen=True)
class Task:
    """What is localized at once: queries with their retrieved images.

    cams_from_rig: of the queries' cameras; None for a single query, which is no rig's.
    """

    photos: list[tuple[Query, list[str]]]
    cams_from_rig: list[Pose] | None = None

    @property
    def name(self) -> str:
        """Of its first query."""
        return self.photos[0][0].name


def tasks(inputs: LocalizationInputs, retrieved: Mapping[str, list[str]]) -> list[Task]:
    """Frames and single queries, in the order of the queries."""
    queries = {query.name: query for query in inputs.queries}
    of_frame: dict[str, Task] = {}
    for frame in inputs.frames:
        there = [(camera, name) for camera, name in frame.photos if name in queries]
        photos = [(queries[name], retrieved[name]) for _, name in there]
        if len(photos) > 1:
            task = Task(photos, [camera.cam_from_rig for camera, _ in there])
            of_frame.update({name: task for _, name in there})
    found = [
        of_frame.get(name) or Task([(query, retrieved[name])]) for name, query in queries.items()
    ]
    return list({id(task): task for task in found}.values())


@dataclass(frozen=True, eq=False)
class Matched:
    """A task with what its queries are matched with; lists have an entry for each query.

    keypoints: (N, 2) float64 pixels, the corner of the image at (0, 0). cameras: each a
    `pycolmap.Camera`. images: the matches with each retrieved image. found: the correspondences.
    """

    task: Task
    keypoints: list[np.ndarray]
    cameras: list[Any]
    images: list[list[ImageMatches]]
    found: list[Correspondences]


class QueryPoses:
    """The three steps, with a map and the files of features and matches."""

    def __init__(
        self, map_model: Model, features: FeatureReader, matches: MatchReader, max_error: float
    ) -> None:
        self._map = map_model
        self._features = features
        self._matches = matches
        self._max_error = max_error
        self._image_of = lru_cache(_IMAGES_KEPT)(self._read_image)

    def read(self, task: Task) -> Matched:
        """The matches of a task's queries.

        Raises:
            SamfeatError: a query has no features, or a pair no matches or those of other keypoints.
        """
        keypoints, images = [], []
        for query, retrieved in task.photos:
            of_query = self._features.keypoints(query.name)
            if not len(of_query) and task.cams_from_rig is None:
                logger.warning(
                    "%s has no keypoints: it gets the pose of %s", query.name, retrieved[0]
                )
            of_images = [
                image_matches(self._map, query.name, name, self._matches) for name in retrieved
            ]
            check_keypoints(query.name, of_images, len(of_query), self._features, self._matches)
            keypoints.append(of_query)
            images.append(of_images)
        cameras = [query.camera.to_pycolmap() for query, _ in task.photos]
        return Matched(task, keypoints, cameras, images, [merged(one) for one in images])

    def solve(self, matched: Matched) -> tuple[Matched, Pose | None, list[np.ndarray]]:
        """The pose by RANSAC, of the query or the rig, None where there is none; and which
        correspondences of each query agree, (K,) bool."""
        found, keypoints = matched.found, matched.keypoints
        pixels = [xy[one.keypoints] for xy, one in zip(keypoints, found, strict=True)]
        points = [self._map.xyz[one.points] for one in found]
        if matched.task.cams_from_rig is not None:
            together = estimate_rig_pose(
                pixels, points, matched.cameras, matched.task.cams_from_rig,
                max_error=self._max_error,
            )  # fmt: skip
            if together is not None:
                return matched, *together
        else:
            alone = estimate_pose(
                pixels[0], points[0], matched.cameras[0],
                max_error=self._max_error, support=found[0].support, rough=True,
            )  # fmt: skip
            if alone is not None:
                return matched, alone[0], [alone[1]]
        return matched, None, [np.zeros(len(one.keypoints), dtype=bool) for one in found]

    def finish(
        self, matched: Matched, pose: Pose | None, inliers: Sequence[np.ndarray]
    ) -> list[QueryResult]:
        """The pose refined, and what is told of each query; arguments as :meth:`solve` gives
        them."""
        task, found = matched.task, matched.found
        cams_from_rig: Sequence[Pose | None] = task.cams_from_rig or [None]
        poses: list[Pose] | None = None
        if pose is not None:
            photos = [
                PosedPhoto(*of_query)
                for of_query in zip(
                    matched.keypoints, matched.cameras, matched.images, found, inliers,
                    cams_from_rig, strict=True,
                )
            ]  # fmt: skip
            pose = refine_with_pointless(pose, photos, self._map.xyz, self._image_of)
            poses = [pose if one is None else one @ pose for one in cams_from_rig]
        num_matched = [len(np.unique(one.keypoints)) for one in found]
        frame = None
        if task.cams_from_rig is not None:
            agreeing = [
                len(np.unique(one.keypoints[kept]))
                for one, kept in zip(found, inliers, strict=True)
            ]
            names = [query.name for query, _ in task.photos]
            frame = OfFrame(names, sum(agreeing), sum(num_matched))
        return [
            QueryResult(
                name=query.name,
                condition=query.condition,
                pose=self._map.images[retrieved[0]].pose if poses is None else poses[row],
                status=FALLBACK if poses is None else LOCALIZED,
                num_keypoints=len(matched.keypoints[row]),
                num_matches=sum(found[row].matches_per_image),
                num_correspondences=len(found[row].keypoints),
                num_matched=num_matched[row],
                retrieved=list(zip(retrieved, found[row].matches_per_image, strict=True)),
                inlier_keypoints=found[row].keypoints[inliers[row]].astype(np.int32),
                inlier_points=self._map.point_ids[found[row].points[inliers[row]]],
                frame=frame,
            )
            for row, (query, retrieved) in enumerate(task.photos)
        ]

    def _read_image(self, name: str) -> PosedImage | None:
        if not self._features.has(name):  # they may be in a file of their own
            return None
        keypoints = self._features.keypoints(name).astype(np.float32)
        camera = self._map.camera_of(name).to_pycolmap()
        return PosedImage.of(keypoints, self._map.images[name].pose, camera)
