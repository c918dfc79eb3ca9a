"""Localization: the pose of every query from its matches with the map.

Matches become 2D-3D correspondences (`correspondences`), and these a pose (`absolute_pose`), for
several queries at a time because COLMAP releases Python's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ..colmap.absolute_pose import estimate_pose
from ..colmap.model import Model
from ..datasets.queries import Query
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..files.outputs import Output
from ..parallel.cluster import Cluster
from ..parallel.workers import Workers
from ..progress import tqdm
from .correspondences import check_keypoints, correspondences
from .inputs import LocalizationInputs
from .result import (
    FALLBACK,
    LOCALIZED,
    LocalizationResult,
    QueryResult,
    from_group,
    read_result,
    to_group,
    write_result,
)

logger = logging.getLogger(__name__)

_QUERIES_A_TASK = 16  # on Ray
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

        def localize(query: Query) -> QueryResult:
            names = files.retrieved[query.name]
            return _localize_query(
                files.map_model, query, names, files.features, files.matches, max_error
            )

        results = {
            query.name: from_group(query.name, writer.read(query.name), writer.parts)
            for query in queries
            if query.name in writer.done
        }
        if results:
            logger.info("localize: %d of %d queries are done already", len(results), len(queries))
        left = [query for query in queries if query.name not in results]
        with Workers(workers, "localization") as pool:
            if cluster is None:
                solved: Iterable[QueryResult] = pool.map(
                    localize, left, name=lambda query: query.name, ordered=False, ahead=workers
                )
            else:
                tasks = [(query, files.retrieved[query.name]) for query in left]
                batches = cluster.batches(tasks, _QUERIES_A_TASK)
                paths = inputs.features.absolute(), inputs.matches.absolute()
                solving = _Solving(files.map_model, *paths, max_error)
                solved = chain.from_iterable(cluster.map(solving, batches))
            for found in tqdm(solved, total=len(left), desc="localize", unit="query"):
                results[found.name] = found
                writer.add({found.name: to_group(found)})
        results = {query.name: results[query.name] for query in queries}
        write_result(results, result)
        writer.discard()
    localized = LocalizationResult(results)
    logger.info("localize: %s", localized)
    return localized


@dataclass(frozen=True)
class _Solving:
    """Queries with their retrieved images in, their results out, in a worker of a cluster."""

    map_model: Model
    features: Path
    matches: Path
    max_error: float

    def __call__(self, tasks: Sequence[tuple[Query, Sequence[str]]]) -> list[QueryResult]:
        with FeatureReader(self.features) as features, MatchReader(self.matches) as matches:
            return [
                _localize_query(self.map_model, query, names, features, matches, self.max_error)
                for query, names in tasks
            ]


def _localize_query(
    map_model: Model,
    query: Query,
    retrieved: Sequence[str],
    features: FeatureReader,
    matches: MatchReader,
    max_error: float,
) -> QueryResult:
    keypoints = features.keypoints(query.name)
    if not len(keypoints):
        logger.warning("%s has no keypoints: it gets the pose of %s", query.name, retrieved[0])
    found = correspondences(map_model, query.name, retrieved, matches)
    check_keypoints(query.name, found.keypoints, len(keypoints), features, matches)
    solved = estimate_pose(
        keypoints[found.keypoints],
        map_model.xyz[found.points],
        query.camera.to_pycolmap(),
        max_error=max_error,
    )
    if solved is None:
        pose, inliers = map_model.images[retrieved[0]].pose, np.zeros(len(found.keypoints), bool)
    else:
        pose, inliers = solved
    return QueryResult(
        name=query.name,
        condition=query.condition,
        pose=pose,
        status=FALLBACK if solved is None else LOCALIZED,
        num_keypoints=len(keypoints),
        num_matches=sum(found.matches_per_image),
        num_correspondences=len(found.keypoints),
        num_matched=len(np.unique(found.keypoints)),
        retrieved=list(zip(retrieved, found.matches_per_image, strict=True)),
        inlier_keypoints=found.keypoints[inliers].astype(np.int32),
        inlier_points=map_model.point_ids[found.points[inliers]],
    )
