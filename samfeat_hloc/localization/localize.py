"""Localization: the pose of every query from its matches with the map.

Matches become 2D-3D correspondences (`correspondences`), and these a pose (`absolute_pose`), for
several queries at a time because COLMAP releases Python's lock.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..colmap.absolute_pose import estimate_pose
from ..colmap.model import Model, file_of, is_model, read_model
from ..datasets.queries import Query
from ..errors import SamfeatError
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter, remove_segments
from ..files.locks import lock_of, sole_run
from ..parallel.cluster import Cluster
from ..parallel.workers import Workers
from .correspondences import check_keypoints, check_retrieved, correspondences, retrieved_images
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


def main(
    map_dir: Path,
    queries: Sequence[Query],
    pairs: Path,
    features: Path,
    matches: Path,
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
        map_dir: folder of the map, a binary COLMAP model.
        queries: names and intrinsics.
        pairs: list of "query database-image" in order of retrieval.
        features, matches: files in hloc's format.
        output: poses file, "name qw qx qy qz tx ty tz" (cam_from_world); `log_path(output)` holds
            the log and is written first.
        max_error: of inliers, in pixels.
        overwrite: replace results that were made differently.
        workers: queries solved at a time.
        cluster: where to solve them; None for here.

    Raises:
        SamfeatError: a file is missing or damaged, a query has no pair or no features, features
            and camera differ in size, or `output` was made differently.
    """
    made_by = provenance.made_by(
        "localize",
        {"max_error": max_error},
        input_hashes(map_dir, queries, pairs, features, matches),
    )
    kept = output.with_name(f"{output.name}.queries")
    if output.exists() and not overwrite:
        provenance.check(provenance.read_sidecar(output), made_by, output)
        if lock_of(output).exists():  # killed at its very end
            with sole_run(output):
                remove_segments(kept)
        logger.info("localize: %s is there already, skipped", output)
        return read_result(output)

    retrieved = retrieved_images(pairs, queries)
    map_model = read_model(map_dir)
    check_retrieved(map_model, map_dir, retrieved, pairs)
    with (
        sole_run(output),
        SegmentWriter(kept, made_by, overwrite=True) as writer,
        FeatureReader(features) as feature_file,
        MatchReader(matches) as match_file,
    ):
        missing = feature_file.missing([query.name for query in queries])
        if missing:
            raise SamfeatError(
                features,
                (
                    "no features of query "
                    f"{missing[0]}{(f' and {len(missing) - 1} others' if len(missing) > 1 else '')}"
                ),
                "extract the features of all queries",
            )
        for query in queries:
            _check_size(feature_file, query)

        def localize(query: Query) -> QueryResult:
            return _localize_query(
                map_model, query, retrieved[query.name], feature_file, match_file, max_error
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
                files = features.absolute(), matches.absolute()
                tasks = [(query, retrieved[query.name]) for query in left]
                batches = cluster.batches(tasks, _QUERIES_A_TASK)
                solving = _Solving(map_model, *files, max_error)
                solved = chain.from_iterable(cluster.map(solving, batches))
            for found in tqdm(solved, total=len(left), desc="localize", unit="query"):
                results[found.name] = found
                writer.add({found.name: to_group(found)})
        results = {query.name: results[query.name] for query in queries}
        write_result(results, output, made_by)
        writer.discard()
    result = LocalizationResult(results)
    logger.info("localize: %s", result)
    return result


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


def map_hash(map_dir: Path) -> str:
    """Hash of a map: of its own record where it has one, of its images and points otherwise."""
    if not is_model(map_dir):
        raise SamfeatError(map_dir, "no map in this folder", "run the mapping first")
    files = [map_dir / "made_by.json"]
    if not files[0].is_file():
        files = [file_of(map_dir, "images"), file_of(map_dir, "points3D")]
    parts = [provenance.file_hash(path) for path in files]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


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


def _check_size(features: FeatureReader, query: Query) -> None:
    size = features.image_size(query.name)
    wanted = (query.camera.width, query.camera.height)
    if size is None or size == wanted:
        return
    mend = "give the intrinsics of the image as it is stored"
    if size == wanted[::-1]:
        mend = "the photo is stored rotated: save it upright, or give intrinsics as it is stored"
    raise SamfeatError(
        query.name,
        (f"the image is {size[0]}x{size[1]} but its intrinsics are for {wanted[0]}x{wanted[1]}"),
        mend,
    )


def input_hashes(
    map_dir: Path, queries: Sequence[Query], pairs: Path, features: Path, matches: Path
) -> dict[str, str]:
    """What a localization is made from, for its record; the stages beside it take the same."""
    return {
        "map": map_hash(map_dir),
        "queries": queries_hash(queries),
        "pairs": provenance.file_hash(pairs),
        "features": provenance.file_hash(features),
        "matches": provenance.file_hash(matches),
    }


def queries_hash(queries: Sequence[Query]) -> str:
    """Hash of names, conditions and intrinsics."""
    text = "\n".join(f"{q.name} {q.condition} {q.camera}" for q in queries)
    return hashlib.sha256(text.encode()).hexdigest()
