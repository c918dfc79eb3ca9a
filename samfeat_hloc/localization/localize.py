"""Localization: the pose of every query from its matches with the map.

What one query takes is in `query_poses`; here are all of them, a run that goes on where it was
killed, and the threads or the cluster that solve.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..colmap.model import Model
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..files.outputs import Output
from ..parallel.cluster import Cluster
from ..parallel.workers import Workers, named_failures
from ..progress import tqdm
from .inputs import LocalizationInputs
from .query_poses import Matched, QueryPoses, Task, tasks
from .result import (
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

        results = {
            query.name: from_group(query.name, writer.read(query.name), writer.parts)
            for query in queries
            if query.name in writer.done
        }
        if results:
            logger.info("localize: %d of %d queries are done already", len(results), len(queries))
        left = [
            task
            for task in tasks(inputs, files.retrieved)
            if any(query.name not in results for query, _ in task.photos)
        ]
        with Workers(workers, "localization") as pool:
            if cluster is None:
                poses = QueryPoses(files.map_model, files.features, files.matches, max_error)
                results_of = _poses_here(poses, left, pool, workers)
            else:
                batches = cluster.batches(left, _QUERIES_A_TASK)
                paths = inputs.features.absolute(), inputs.matches.absolute()
                solving = _Solving(files.map_model, *paths, max_error)
                results_of = chain.from_iterable(cluster.map(solving, batches))
            unit = "frame" if inputs.frames else "query"
            for found in tqdm(results_of, total=len(left), desc="localize", unit=unit):
                results.update({one.name: one for one in found})
                writer.add({one.name: to_group(one) for one in found})
        results = {query.name: results[query.name] for query in queries}
        write_result(results, result)
        writer.discard()
    localized = LocalizationResult(results)
    logger.info("localize: %s", localized)
    return localized


def _poses_here(
    poses: QueryPoses, left: Iterable[Task], pool: Workers, ahead: int
) -> Iterator[list[QueryResult]]:
    """The results of the tasks, as they are finished; RANSAC runs in the pool's threads."""

    def read() -> Iterator[Matched]:
        for task in left:
            with named_failures(task.name, pool.what):
                matched = poses.read(task)
            yield matched

    solved = pool.map(
        poses.solve, read(), name=lambda matched: matched.task.name, ordered=False, ahead=ahead
    )
    for matched, pose, inliers in solved:
        with named_failures(matched.task.name, pool.what):
            results = poses.finish(matched, pose, inliers)
        yield results


@dataclass(frozen=True)
class _Solving:
    """Tasks in, results out, in a worker of a cluster."""

    map_model: Model
    features: Path
    matches: Path
    max_error: float

    def __call__(self, tasks: Sequence[Task]) -> list[list[QueryResult]]:
        with FeatureReader(self.features) as features, MatchReader(self.matches) as matches:
            poses = QueryPoses(self.map_model, features, matches, self.max_error)
            return [poses.finish(*poses.solve(poses.read(task))) for task in tasks]
