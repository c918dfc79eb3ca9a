"""hloc's localization as a stage of ours: its poses, and what it logs of every query."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.absolute_pose import ransac_options
from ..colmap.model import read_model
from ..colmap.poses import Pose
from ..datasets.queries import Query
from ..errors import SamfeatError
from ..files import provenance
from ..files.feature_readers import FeatureReader
from ..files.outputs import Output
from ..files.pair_lists import read_pairs
from ..localization.inputs import LocalizationInputs
from ..localization.result import (
    FALLBACK,
    LOCALIZED,
    LocalizationResult,
    QueryResult,
    read_result,
    write_result,
)
from ..localization.same_features import check_same_features
from .calls import hloc_module, made_by_hloc
from .files import hloc_errors

logger = logging.getLogger(__name__)


def localize(
    inputs: LocalizationInputs, output: Path, *, max_error: float = 12.0, overwrite: bool = False
) -> LocalizationResult:
    """``hloc.localize_sfm``, one query at a time; see :func:`.localize.main`."""
    queries = inputs.queries
    listing = "".join(
        f"{q.name} {q.camera.model} {q.camera.width} {q.camera.height}"
        f" {' '.join(map(repr, q.camera.params))}\n"
        for q in queries
    )
    made_by = made_by_hloc(
        "localize",
        {"max_error": max_error},
        {
            **inputs.hashes(),
            "queries": provenance.names_hash(listing.splitlines()),  # as hloc is given them
        },
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return read_result(output)
    retrieved: dict[str, list[str]] = {}
    for name, db_name in read_pairs(inputs.pairs):
        retrieved.setdefault(name, []).append(db_name)
    mapped = read_model(inputs.map_dir)
    in_map = set(mapped.images)
    for query in queries:
        if not in_map.intersection(retrieved.get(query.name, ())):
            raise SamfeatError(
                inputs.pairs,
                f"no image of the map retrieved for query {query.name}",
                "give a list with a pair for every query",
            )
    listed = {name for names in retrieved.values() for name in names}
    with FeatureReader(inputs.features) as features:
        check_same_features(mapped, inputs.map_dir, features, sorted(listed & in_map))
    with result.making() as work:
        (work / "queries.txt").write_text(listing, encoding="utf-8")
        module = hloc_module("localize_sfm")
        with hloc_errors("localize_sfm", inputs.map_dir), _recorded(module) as log:
            module.main(
                inputs.map_dir, work / "queries.txt", inputs.pairs, inputs.features,
                inputs.matches, work / "poses.txt",
                config={"estimation": {"ransac": ransac_options(max_error)}},
            )  # fmt: skip
        poses = _read_in_order(work / "poses.txt", [query.name for query in queries])
        results = {
            query.name: _result(query, poses[query.name], log, inputs.features) for query in queries
        }
        write_result(results, result)
    localized = LocalizationResult(results)
    logger.info("localize: %s", localized)
    return localized


@contextlib.contextmanager
def _recorded(module: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """What hloc logs of every query, which it would otherwise only leave in a pickle."""
    original = module.pose_from_cluster
    log: dict[str, dict[str, Any]] = {}

    @functools.wraps(original)
    def recording(localizer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        found, entry = original(localizer, name, *args, **kwargs)
        names = [localizer.reconstruction.images[i].name for i in entry["db"]]
        log[name] = {**entry, "retrieved": names}
        return found, entry

    module.pose_from_cluster = recording
    try:
        yield log
    finally:
        module.pose_from_cluster = original


def _read_in_order(path: Path, names: Sequence[str]) -> dict[str, Pose]:
    """hloc's poses by full name: it writes base names only, but in the order of the queries."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line]
    if [line[0] for line in lines] != [name.rsplit("/", 1)[-1] for name in names]:
        raise SamfeatError(
            path.name, "hloc did not write one pose for each query", "use --engine native"
        )
    values = [np.array([float(value) for value in line[1:]]) for line in lines]
    return {n: Pose(qvec=v[:4], tvec=v[4:]) for n, v in zip(names, values, strict=True)}


def _result(
    query: Query, pose: Pose, log: dict[str, dict[str, Any]], features: Path
) -> QueryResult:
    entry = log[query.name]
    found = entry["PnP_ret"]
    keypoints, points_to_db = entry["keypoint_index_to_db"]
    points = np.array(entry["points3D_ids"], dtype=np.int64)
    counts = [0] * len(entry["retrieved"])
    for _, sources in points_to_db:
        for index in sources:
            counts[index] += 1
    inliers = np.zeros(len(points), bool)
    if found is not None:
        inliers = np.asarray(found["inlier_mask"], dtype=bool)
    with FeatureReader(features) as reader:
        num_keypoints = len(reader.keypoints(query.name))
    return QueryResult(
        name=query.name,
        condition=query.condition,
        pose=pose,
        status=FALLBACK if found is None else LOCALIZED,
        num_keypoints=num_keypoints,
        num_matches=int(entry["num_matches"]),
        num_correspondences=len(points),
        num_matched=len(set(keypoints)),
        retrieved=list(zip(entry["retrieved"], counts, strict=True)),
        inlier_keypoints=np.array(keypoints, dtype=np.int32)[inliers],
        inlier_points=points[inliers],
    )
