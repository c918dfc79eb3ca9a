"""Localization: the pose of every query from its matches with the map.

Matches become 2D-3D correspondences (`correspondences`), and these a pose (`absolute_pose`), which
is refined with the matches that have no point (`pointless`), for several queries at a time because
COLMAP releases Python's lock. Queries that a rig's cameras took at once are localized together
(`rig_pose`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from ..colmap.absolute_pose import estimate_pose
from ..colmap.model import Model
from ..colmap.pointless_matches import PosedImage
from ..colmap.poses import Pose
from ..colmap.rig_pose import estimate_rig_pose
from ..datasets.queries import Query
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..files.outputs import Output
from ..parallel.cluster import Cluster
from ..parallel.workers import Workers
from ..progress import tqdm
from .correspondences import check_keypoints, image_matches, merged
from .inputs import LocalizationInputs
from .pointless import PosedPhoto, refine_with_pointless
from .result import (
    FALLBACK,
    LOCALIZED,
    LocalizationResult,
    OfFrame,
    QueryResult,
    from_group,
    read_result,
    to_group,
    write_result,
)

logger = logging.getLogger(__name__)

_QUERIES_A_TASK = 16  # on Ray
_IMAGES_KEPT = 4096  # of the map, their keypoints: 130 MB of 4,096 each
_SIZE_MEND = "give the intrinsics of the image as it is stored"


def main(
    inputs: LocalizationInputs,
    output: Path,
    *,
    max_error: float = 12.0,
    overwrite: bool = False,
    workers: int = 2,
    cluster: Cluster | None = None,
) -> LocalizationResult:
    """Localize every query in the map; write poses and a log of how each came about.

    Finished queries are kept beside the output until all are; a run that was killed goes on there.

    Args:
        inputs: see `LocalizationInputs`.
        output: poses file, "name qw qx qy qz tx ty tz" (cam_from_world); `log_path(output)` holds
            the log and is written first.
        max_error: of inliers, in pixels.
        overwrite: replace results that were created with other settings.
        workers: queries solved at a time.
        cluster: where to solve them; None for here.

    Raises:
        SamfeatError: a file is missing or damaged, a query has no pair or no features, features
            and camera differ in size, or `output` was created with other settings.
    """
    made_by = provenance.made_by("localize", {"max_error": max_error}, inputs.hashes())
    kept = output.with_name(f"{output.name}.queries")
    result = Output(output, made_by, overwrite=overwrite, kept=kept)
    if result.is_there():
        return read_result(output)

    queries = inputs.queries
    with (
        inputs.open() as files,
        result.making(),
        SegmentWriter(kept, made_by, overwrite=True) as writer,
    ):
        for query in queries:
            size = query.camera.width, query.camera.height
            files.features.check_size(query.name, size, _SIZE_MEND)

        localize = _Localization(files.map_model, files.features, files.matches, max_error)

        results = {
            query.name: from_group(query.name, writer.read(query.name), writer.parts)
            for query in queries
            if query.name in writer.done
        }
        if results:
            logger.info("localize: %d of %d queries are done already", len(results), len(queries))
        left = [
            task
            for task in _tasks(inputs, files.retrieved)
            if any(query.name not in results for query, _ in task.photos)
        ]
        with Workers(workers, "localization") as pool:
            if cluster is None:
                solved: Iterable[list[QueryResult]] = pool.map(
                    localize, left, name=lambda task: task.photos[0][0].name, ordered=False,
                    ahead=workers,
                )  # fmt: skip
            else:
                batches = cluster.batches(left, _QUERIES_A_TASK)
                paths = inputs.features.absolute(), inputs.matches.absolute()
                solving = _Solving(files.map_model, *paths, max_error)
                solved = chain.from_iterable(cluster.map(solving, batches))
            unit = "frame" if inputs.frames else "query"
            for found in tqdm(solved, total=len(left), desc="localize", unit=unit):
                results.update({one.name: one for one in found})
                writer.add({one.name: to_group(one) for one in found})
        results = {query.name: results[query.name] for query in queries}
        write_result(results, result)
        writer.discard()
    localized = LocalizationResult(results)
    logger.info("localize: %s", localized)
    return localized


@dataclass(frozen=True)
class _Task:
    """What is localized at once: queries with their retrieved images.

    cams_from_rig: of the queries' cameras; None for a single query, which is no rig's.
    """

    photos: list[tuple[Query, list[str]]]
    cams_from_rig: list[Pose] | None = None


def _tasks(inputs: LocalizationInputs, retrieved: Mapping[str, list[str]]) -> list[_Task]:
    """Frames and single queries, in the order of the queries."""
    queries = {query.name: query for query in inputs.queries}
    of_frame: dict[str, _Task] = {}
    for frame in inputs.frames:
        there = [(camera, name) for camera, name in frame.photos if name in queries]
        photos = [(queries[name], retrieved[name]) for _, name in there]
        if len(photos) > 1:
            task = _Task(photos, [camera.cam_from_rig for camera, _ in there])
            of_frame.update({name: task for _, name in there})
    tasks = [
        of_frame.get(name) or _Task([(query, retrieved[name])]) for name, query in queries.items()
    ]
    return list({id(task): task for task in tasks}.values())


@dataclass(frozen=True)
class _Solving:
    """Tasks in, results out, in a worker of a cluster."""

    map_model: Model
    features: Path
    matches: Path
    max_error: float

    def __call__(self, tasks: Sequence[_Task]) -> list[list[QueryResult]]:
        with FeatureReader(self.features) as features, MatchReader(self.matches) as matches:
            localize = _Localization(self.map_model, features, matches, self.max_error)
            return [localize(task) for task in tasks]


class _Localization:
    """A task in, its results out."""

    def __init__(
        self, map_model: Model, features: FeatureReader, matches: MatchReader, max_error: float
    ) -> None:
        self.map_model = map_model
        self.features = features
        self.matches = matches
        self.max_error = max_error
        self._image_of = lru_cache(_IMAGES_KEPT)(self._read_image)

    def __call__(self, task: _Task) -> list[QueryResult]:
        return _localize(
            self.map_model, task, self.features, self.matches, self.max_error, self._image_of
        )

    def _read_image(self, name: str) -> PosedImage:
        keypoints = self.features.keypoints(name).astype(np.float32)
        camera = self.map_model.camera_of(name).to_pycolmap()
        return PosedImage.of(keypoints, self.map_model.images[name].pose, camera)


def _localize(
    map_model: Model,
    task: _Task,
    features: FeatureReader,
    matches: MatchReader,
    max_error: float,
    image_of: Callable[[str], PosedImage],
) -> list[QueryResult]:
    keypoints, matches_of, found = [], [], []
    for query, retrieved in task.photos:
        of_query = features.keypoints(query.name)
        if not len(of_query) and task.cams_from_rig is None:
            logger.warning("%s has no keypoints: it gets the pose of %s", query.name, retrieved[0])
        images = [image_matches(map_model, query.name, name, matches) for name in retrieved]
        check_keypoints(query.name, images, len(of_query), features, matches)
        keypoints.append(of_query)
        matches_of.append(images)
        found.append(merged(images))
    pixels = [xy[one.keypoints] for xy, one in zip(keypoints, found, strict=True)]
    points = [map_model.xyz[one.points] for one in found]
    cameras = [query.camera.to_pycolmap() for query, _ in task.photos]
    cams_from_rig: Sequence[Pose | None] = task.cams_from_rig or [None]
    solved: tuple[Pose, list[np.ndarray]] | None
    if task.cams_from_rig is None:
        alone = estimate_pose(
            pixels[0], points[0], cameras[0],
            max_error=max_error, support=found[0].support, rough=True,
        )  # fmt: skip
        solved = None if alone is None else (alone[0], [alone[1]])
    else:
        solved = estimate_rig_pose(pixels, points, cameras, task.cams_from_rig, max_error=max_error)
    inliers = [np.zeros(len(one.keypoints), dtype=bool) for one in found]
    pose = None
    if solved is not None:
        inliers = solved[1]
        parts = zip(keypoints, cameras, matches_of, found, inliers, cams_from_rig, strict=True)
        photos = [PosedPhoto(*part) for part in parts]
        pose = refine_with_pointless(solved[0], photos, map_model.xyz, image_of)
    poses = None
    if pose is not None:
        poses = [pose if one is None else one @ pose for one in cams_from_rig]
    frame = None
    if task.cams_from_rig is not None:
        names = [query.name for query, _ in task.photos]
        agreeing = [
            len(np.unique(one.keypoints[kept])) for one, kept in zip(found, inliers, strict=True)
        ]
        matched = [len(np.unique(one.keypoints)) for one in found]
        frame = OfFrame(names, sum(agreeing), sum(matched))
    return [
        QueryResult(
            name=query.name,
            condition=query.condition,
            pose=map_model.images[retrieved[0]].pose if poses is None else poses[row],
            status=FALLBACK if poses is None else LOCALIZED,
            num_keypoints=len(keypoints[row]),
            num_matches=sum(found[row].matches_per_image),
            num_correspondences=len(found[row].keypoints),
            num_matched=len(np.unique(found[row].keypoints)),
            retrieved=list(zip(retrieved, found[row].matches_per_image, strict=True)),
            inlier_keypoints=found[row].keypoints[inliers[row]].astype(np.int32),
            inlier_points=map_model.point_ids[found[row].points[inliers[row]]],
            frame=frame,
        )
        for row, (query, retrieved) in enumerate(task.photos)
    ]
