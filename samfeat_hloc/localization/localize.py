"""Localization: the pose of every query from its matches with the map, by PnP in LO-RANSAC.

A query's matches with its retrieved database images become 2D-3D correspondences through arrays
(database keypoint -> point of the map); RANSAC and refinement run in pycolmap, several queries at
a time because it releases Python's lock.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from tqdm import tqdm

from ..errors import SamfeatError
from ..workers import Workers
from . import provenance
from .dataset import Query
from .distributed import Cluster
from .feature_readers import FeatureReader, MatchReader
from .file_lock import lock_of, sole_run
from .h5store import SegmentWriter, remove_segments
from .localization_result import (
    FALLBACK,
    LOCALIZED,
    LocalizationResult,
    QueryResult,
    from_group,
    log_path,
    read_result,
    to_group,
    write_result,
)
from .map_model import MapModel, is_model, read_map
from .pairs import read_pairs
from .poses import Pose

__all__ = [
    "FALLBACK",
    "LOCALIZED",
    "Correspondences",
    "ImageMatches",
    "LocalizationResult",
    "QueryResult",
    "correspondences",
    "estimate_pose",
    "image_matches",
    "log_path",
    "main",
    "map_hash",
    "merged",
    "read_result",
    "write_result",
]

logger = logging.getLogger(__name__)

_MIN_CORRESPONDENCES = 4  # three give up to four poses, the fourth tells them apart
_ATTEMPTS = 8
_QUERIES_A_TASK = 16  # on Ray
_SEED = 0  # of RANSAC, the same for every query: a rerun gives the same poses


@dataclass(frozen=True)
class Correspondences:
    """2D-3D matches of a query, each once; the points of a keypoint together, else as they came.

    keypoints, points: (K,) int64 rows of the query's keypoints and of the map's points.
    matches_per_image: matches with a point in every retrieved image, before duplicates go.
    """

    keypoints: np.ndarray
    points: np.ndarray
    matches_per_image: list[int]


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """A retrieved image of the map, and the query's matches with its keypoints that have a point.

    seen: (S,) rows of the points that the image sees.
    keypoints, points: (K,) int64 rows of the query's keypoints and of the map's points.
    """

    name: str
    seen: np.ndarray
    keypoints: np.ndarray
    points: np.ndarray


def image_matches(
    map_model: MapModel, name: str, db_name: str, matches: MatchReader
) -> ImageMatches:
    """Follow a query's matches with one image to points of the map.

    Raises:
        SamfeatError: the pair has no matches in the file, or they go to keypoints that the map
            does not have.
    """
    to_point = map_model.images[db_name].points
    seen = to_point[to_point >= 0]
    if not len(seen):  # pycolmap 3.13 even drops such an image's keypoints
        none = np.zeros(0, dtype=np.int64)
        return ImageMatches(db_name, seen, none, none)
    pair = matches.matches(name, db_name)
    if len(pair) and pair[:, 1].max() >= len(to_point):
        raise SamfeatError(
            f"{matches.path}: the pair {name} {db_name} matches keypoint {pair[:, 1].max()} "
            f"of {db_name}, which has {len(to_point)} in the map; map and match the same "
            "features"
        )
    rows = to_point[pair[:, 1]].astype(np.int64)
    return ImageMatches(db_name, seen, pair[rows >= 0, 0], rows[rows >= 0])


def correspondences(
    map_model: MapModel, name: str, retrieved: Sequence[str], matches: MatchReader
) -> Correspondences:
    """Follow a query's matches with its retrieved images to points of the map.

    Raises:
        SamfeatError: see `image_matches`.
    """
    return merged([image_matches(map_model, name, db_name, matches) for db_name in retrieved])


def merged(images: Sequence[ImageMatches]) -> Correspondences:
    """The matches with several images as correspondences, each once."""
    counts = [len(image.keypoints) for image in images]
    if not any(counts):
        none = np.zeros(0, dtype=np.int64)
        return Correspondences(none, none, counts)
    points = np.concatenate([image.points for image in images])
    num_points = int(points.max()) + 1
    unique, first = np.unique(
        np.concatenate([image.keypoints for image in images]) * num_points + points,
        return_index=True,
    )
    found = unique // num_points
    starts = np.flatnonzero(np.diff(found, prepend=-1))
    first_of_keypoint = np.repeat(
        np.minimum.reduceat(first, starts), np.diff(starts, append=len(found))
    )
    # RANSAC draws by position: in hloc's order both engines draw the same.
    order = np.lexsort((first, first_of_keypoint))
    return Correspondences(found[order], unique[order] % num_points, counts)


def estimate_pose(
    keypoints: np.ndarray, points: np.ndarray, camera: Any, *, max_error: float = 12.0
) -> tuple[Pose, np.ndarray] | None:
    """PnP in LO-RANSAC, refined on the inliers.

    A camera kilometres away sees the whole map in one pixel, and every match of every keypoint
    near that pixel agrees with it; where true inliers are few (lamps at night), that is the most.
    Such a pose is refused, and RANSAC run again without the keypoints around the spot.

    Args:
        keypoints: (K, 2) float64 pixels, the corner of the image at (0, 0).
        points: (K, 3) float64.
        camera: a `pycolmap.Camera`.
        max_error: of inliers, in pixels.

    Returns:
        cam_from_world and the inliers, (K,) bool; None where no pose was found.
    """
    candidates = np.arange(len(keypoints))
    for _ in range(_ATTEMPTS):
        if len(candidates) < _MIN_CORRESPONDENCES:
            return None
        found = pycolmap.estimate_and_refine_absolute_pose(
            keypoints[candidates],
            points[candidates],
            camera,
            estimation_options=_ransac(max_error),
        )
        if found is None:
            return None
        agree = candidates[np.asarray(found["inlier_mask"], dtype=bool)]
        if not len(agree):
            return None
        spot = np.median(keypoints[agree], axis=0)
        if np.median(_distance(keypoints[agree], spot)) > 2 * max_error:
            pose = Pose.from_rigid3d(found["cam_from_world"])
            if not (np.isfinite(pose.qvec).all() and np.isfinite(pose.tvec).all()):
                return None
            inliers = np.zeros(len(keypoints), dtype=bool)
            inliers[agree] = True
            return pose, inliers
        candidates = candidates[_distance(keypoints[candidates], spot) > 3 * max_error]
    return None


def _distance(keypoints: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.hypot(keypoints[:, 0] - point[0], keypoints[:, 1] - point[1])


def ransac_options(max_error: float) -> dict[str, Any]:
    """pycolmap's RANSAC options of a query's pose, the same in both engines."""
    return {
        "max_error": max_error,
        "random_seed": _SEED,
        # COLMAP draws three times as many samples as its confidence of 0.99999 asks for, and RANSAC
        # is nearly all of localization's time.
        "dyn_num_trials_multiplier": 1.0,
    }


def _ransac(max_error: float) -> pycolmap.AbsolutePoseEstimationOptions:
    options = pycolmap.AbsolutePoseEstimationOptions()
    for name, value in ransac_options(max_error).items():
        setattr(options.ransac, name, value)
    return options


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
    map_model = read_map(map_dir)
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
                f"{features}: no features of query {missing[0]}"
                f"{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}; "
                "extract the features of all queries"
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
    logger.info("localize: %d of %d queries", result.num_localized, len(queries))
    return result


@dataclass(frozen=True)
class _Solving:
    """Queries with their retrieved images in, their results out, in a worker of a cluster."""

    map_model: MapModel
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
        raise SamfeatError(f"{map_dir}: no map in this folder; run the mapping first")
    files = [map_dir / "made_by.json"]
    if not files[0].is_file():
        files = [map_dir / "images.bin", map_dir / "points3D.bin"]
    parts = [provenance.file_hash(path) for path in files if path.is_file()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _localize_query(
    map_model: MapModel,
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
        retrieved=list(zip(retrieved, found.matches_per_image, strict=True)),
        inlier_keypoints=found.keypoints[inliers].astype(np.int32),
        inlier_points=map_model.point_ids[found.points[inliers]],
    )


def retrieved_images(pairs: Path, queries: Sequence[Query]) -> dict[str, list[str]]:
    """Of every query its database images, each once, in the order of the list.

    Raises:
        SamfeatError: a query has none.
    """
    retrieved: dict[str, list[str]] = {}
    for name, db_name in dict.fromkeys(read_pairs(pairs)):
        retrieved.setdefault(name, []).append(db_name)
    without = [query.name for query in queries if query.name not in retrieved]
    if without:
        raise SamfeatError(
            f"{pairs}: no retrieved image for query {without[0]}"
            f"{f' and {len(without) - 1} others' if len(without) > 1 else ''}; "
            "give a list with a pair for every query"
        )
    return {query.name: retrieved[query.name] for query in queries}


def check_retrieved(
    map_model: MapModel, map_dir: Path, retrieved: dict[str, list[str]], pairs: Path
) -> None:
    for name, db_names in retrieved.items():
        for db_name in db_names:
            if db_name not in map_model.images:
                raise SamfeatError(
                    f"{pairs}: {db_name}, retrieved for {name}, is not in the map {map_dir}; "
                    "retrieve from the images of the map"
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
        f"{query.name}: the image is {size[0]}x{size[1]} but its intrinsics are for "
        f"{wanted[0]}x{wanted[1]}; {mend}"
    )


def check_keypoints(
    name: str, matched: np.ndarray, count: int, features: FeatureReader, matches: MatchReader
) -> None:
    """Refuse matches of keypoints (rows) that the query, which has ``count``, does not have."""
    if len(matched) and matched.max() >= count:
        raise SamfeatError(
            f"{matches.path}: {name} has matches of keypoints that {features.path} does not have; "
            "match these features again"
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
