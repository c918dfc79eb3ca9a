"""Read the files of a run and keep what its report shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.model import Model, is_model, read_model
from ..datasets.dataset import Dataset
from ..datasets.registry import DEFAULT, open_dataset
from ..errors import SamfeatError
from ..evaluation.failures import Diagnosis, diagnose_all
from ..evaluation.localization import evaluate
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.textlines import read_text
from ..localization.result import LocalizationResult, QueryResult, log_path, read_result
from ..progress import tqdm
from .contents import MatchPicture, QueryReport, ReportData, Scene
from .photos import MAX_KEYPOINTS, ReportPhoto, detail, relative, thumbnail
from .scene import (
    MapFrame,
    camera_size,
    choose_points,
    extent,
    map_tangents,
    tangents,
    upright_frame,
)

logger = logging.getLogger(__name__)

_DETAIL_MATCHES = 3000
_POINTS_PER_QUERY = 256


def gather(
    outputs: Path,
    dataset_dir: Path | None = None,
    *,
    max_points: int = 100_000,
    max_pictures: int = 60,
    workers: int = 2,
) -> ReportData:
    """Read a run.

    Args:
        outputs: its folder; poses.txt, localization.json and map/ have to be there, summary.json,
            features.h5 and matches-query.h5 are used when they are.
        dataset_dir: the dataset; without it the one that summary.json names, if it is there.
        max_points: of the map in the 3-D view.
        max_pictures: queries with a picture of their matches.
        workers: photos decoded at a time.

    Raises:
        SamfeatError: a file is missing or damaged, or files are not of the same run.
    """
    poses = outputs / "poses.txt"
    if not outputs.is_dir():
        raise SamfeatError(outputs, "no such folder", "give the outputs folder of a run")
    for path in (poses, log_path(poses)):
        if not path.is_file():
            raise SamfeatError(
                path, "no such file", "finish the run, or give another run's outputs folder"
            )
    if not is_model(outputs / "map"):
        raise SamfeatError(outputs / "map", "no map in this folder", "finish the run first")
    notes: list[str] = []
    summary = _read_json(outputs / "summary.json")
    dataset = _open_dataset(dataset_dir, summary, notes)
    result = read_result(poses)
    map_model = read_model(outputs / "map")
    rows = {name: _inlier_rows(query, map_model, outputs) for name, query in result.queries.items()}
    _check_images(result, map_model, outputs)
    evaluation = None
    if dataset is not None and dataset.ground_truth is not None:
        evaluation = evaluate(result.poses, dataset)
    elif dataset is not None:
        notes.append("The dataset has no ground truth: errors of the queries are not known.")
    diagnoses = diagnose_all(result, map_model, dataset)
    scene, shown = _scene(
        map_model, map_tangents(outputs / "map"), result, dataset, list(rows.values()), max_points
    )
    if len(scene.points) < scene.num_points:
        notes.append(
            f"The 3-D view has {len(scene.points):,} of the map's {scene.num_points:,} points: "
            "inliers of the queries, and others at random."
        )
    queries = _query_reports(
        outputs, dataset, map_model, result, diagnoses, rows, shown, max_pictures, workers, notes
    )
    title = Path(str(summary.get("dataset") or (dataset_dir or outputs))).name or "run"
    return ReportData(title, summary, _records(outputs), evaluation, scene, queries, notes)


def worst_first(diagnoses: Sequence[Diagnosis], results: Sequence[QueryResult]) -> list[int]:
    """Indices of the queries: failed ones first, then by error, or by inliers without truth."""

    def key(index: int) -> tuple[bool, float, int]:
        found = diagnoses[index]
        return (
            not found.failed,
            -found.error[0] if found.error is not None else 0.0,
            results[index].num_inliers,
        )

    return sorted(range(len(diagnoses)), key=key)


def choose_pictures(order: Sequence[int], most: int) -> list[int]:
    """Half of the places go to the worst, the others are spread evenly over the rest."""
    if len(order) <= most:
        return list(order)
    worst = most - most // 2
    rest = order[worst:]
    spread = np.linspace(0, len(rest) - 1, most // 2).astype(int)
    return [*order[:worst], *(rest[i] for i in spread)]


def _open_dataset(
    given: Path | None, summary: Mapping[str, Any], notes: list[str]
) -> Dataset | None:
    named = given or summary.get("dataset")
    if isinstance(named, str | Path) and (given or Path(named).is_dir()):
        queries, truth = (
            Path(summary[key]) if summary.get(key) else None for key in ("queries", "truth")
        )
        benchmark = summary.get("benchmark", DEFAULT)
        return open_dataset(
            Path(named), benchmark, summary.get("scene"), queries=queries, truth=truth
        )
    where = f"the dataset {named} is not there" if named else "no dataset was given"
    notes.append(f"Without photos, errors and reasons of failures: {where} (--dataset).")
    return None


def _inlier_rows(query: QueryResult, map_model: Model, outputs: Path) -> np.ndarray:
    """Rows of the map's points that the query's inliers lie on."""
    last = len(map_model.point_ids) - 1
    rows = np.minimum(np.searchsorted(map_model.point_ids, query.inlier_points), max(last, 0))
    if len(rows) and (last < 0 or (map_model.point_ids[rows] != query.inlier_points).any()):
        raise SamfeatError(
            outputs / "localization.json",
            f"its inliers are not points of {outputs / 'map'}",
            "localize again in this map",
        )
    return rows


def _check_images(result: LocalizationResult, map_model: Model, outputs: Path) -> None:
    for query in result.queries.values():
        for name, _ in query.retrieved:
            if name not in map_model.images:
                raise SamfeatError(
                    outputs / "localization.json",
                    f"{name}, retrieved for {query.name}, is not in {outputs / 'map'}",
                    "localize again in this map",
                )


def _scene(
    map_model: Model,
    map_fields: Mapping[int, tuple[float, float]],
    result: LocalizationResult,
    dataset: Dataset | None,
    wanted: Sequence[np.ndarray],
    max_points: int,
) -> tuple[Scene, np.ndarray]:
    """The scene, and the rows of the map's points in it."""
    frame: MapFrame = upright_frame(map_model)
    shown = choose_points(len(map_model.point_ids), wanted, max_points)
    points = frame.points(map_model.xyz[shown])
    images = list(map_model.images.values())
    db_poses = frame.poses(
        [image.pose for image in images], [map_fields[image.camera_id] for image in images]
    )
    truth = (dataset.ground_truth if dataset else None) or {}
    cameras = {query.name: query.camera for query in dataset.queries} if dataset else {}
    fields = [tangents(cameras.get(name)) for name in result.queries]
    centre, radius = extent(points, db_poses[:, :3])
    scene = Scene(
        points=points,
        colors=map_model.colors[shown],
        num_points=len(map_model.point_ids),
        centre=centre,
        radius=radius,
        camera_size=camera_size(db_poses[:, :3], radius),
        db_names=[image.name for image in images],
        db_poses=db_poses,
        estimated=frame.poses([query.pose for query in result.queries.values()], fields),
        truth=frame.poses([truth.get(name) for name in result.queries], fields),
    )
    return scene, shown


def _query_reports(
    outputs: Path,
    dataset: Dataset | None,
    map_model: Model,
    result: LocalizationResult,
    diagnoses: Sequence[Diagnosis],
    rows: Mapping[str, np.ndarray],
    shown: np.ndarray,
    max_pictures: int,
    workers: int,
    notes: list[str],
) -> list[QueryReport]:
    results = list(result.queries.values())
    chosen = set(choose_pictures(worst_first(diagnoses, results), max_pictures))
    with ExitStack() as stack:
        features = _opened(stack, FeatureReader, outputs / "features.h5", notes, "keypoints")
        matches = _opened(stack, MatchReader, outputs / "matches-query.h5", notes, "matches")
        pictured = dataset is not None and features is not None and matches is not None
        if pictured and len(chosen) < len(results):
            notes.append(
                f"{len(chosen)} of {len(results)} queries have a picture of their matches: the "
                "worst, and some of all others (--max-pictures); all have a thumbnail."
            )

        unread: list[str] = []

        def report(index: int) -> QueryReport:
            query = results[index]
            found = _support(query, map_model, rows[query.name])
            picture = small = None
            if dataset is not None:
                small = thumbnail(dataset.image_dir / query.name)
                if small is None:
                    unread.append(query.name)
                if features is not None and matches is not None and index in chosen:
                    best = max(range(len(found)), key=lambda i: (found[i], query.retrieved[i][1]))
                    picture = _picture(
                        dataset.image_dir, query, query.retrieved[best][0], map_model,
                        rows[query.name], features, matches,
                    )  # fmt: skip
            return _query_report(
                query, diagnoses[index], found, rows[query.name], shown, features, small, picture
            )

        with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
            reports = list(
                tqdm(
                    pool.map(report, range(len(results))),
                    total=len(results), desc="report", unit="query", delay=1,
                )
            )  # fmt: skip
        if unread:
            notes.append(
                f"{len(unread)} of {len(results)} queries have no picture, as their photo is "
                f"missing or broken: {', '.join(sorted(unread)[:5])}"
            )
        return reports


def _opened(stack: ExitStack, reader: Any, path: Path, notes: list[str], what: str) -> Any:
    if not path.is_file():
        notes.append(f"Without {what}: {path.name} is not there.")
        return None
    return stack.enter_context(reader(path))


def _support(query: QueryResult, map_model: Model, rows: np.ndarray) -> list[int]:
    mine = np.zeros(len(map_model.point_ids) + 1, dtype=bool)  # the last one for keypoints without
    mine[rows] = True
    return [
        int(np.count_nonzero(mine[map_model.images[name].points])) for name, _ in query.retrieved
    ]


def _query_report(
    query: QueryResult,
    diagnosis: Diagnosis,
    support: list[int],
    rows: np.ndarray,
    shown: np.ndarray,
    features: FeatureReader | None,
    small: ReportPhoto | None,
    picture: MatchPicture | None,
) -> QueryReport:
    some = _some(len(rows), _POINTS_PER_QUERY)
    unique = np.unique(rows)
    places = np.minimum(np.searchsorted(shown, unique), max(len(shown) - 1, 0))
    visible = places[shown[places] == unique] if len(unique) else places
    xy = np.zeros((0, 2), dtype=np.uint16)
    if features is not None and small is not None:
        xy = relative(_keypoints(features, query, query.inlier_keypoints[some]), small.size)
    return QueryReport(
        query,
        diagnosis,
        support,
        visible[_some(len(visible), _POINTS_PER_QUERY)],
        xy,
        small,
        picture,
    )


def _picture(
    image_dir: Path,
    query: QueryResult,
    db_name: str,
    map_model: Model,
    rows: np.ndarray,
    features: FeatureReader,
    matches: MatchReader,
) -> MatchPicture | None:
    left, right = detail(image_dir / query.name), detail(image_dir / db_name)
    if left is None or right is None:
        return None
    keypoints = features.keypoints(query.name)
    pair = matches.matches(query.name, db_name)
    to_point = map_model.images[db_name].points
    db_keypoints = features.keypoints(db_name)
    if len(pair) and (
        pair[:, 0].max() >= len(keypoints)
        or pair[:, 1].max() >= min(len(to_point), len(db_keypoints))
    ):
        raise SamfeatError(
            matches.path,
            (f"the pair {query.name} {db_name} matches keypoints that features or map do not have"),
            "match these features again",
        )
    size = len(map_model.point_ids) + 1
    agreed = query.inlier_keypoints.astype(np.int64) * size + rows
    inliers = np.isin(pair[:, 0] * size + to_point[pair[:, 1]], agreed)
    # every inlier before any other
    order = np.concatenate([np.flatnonzero(inliers), np.flatnonzero(~inliers)])
    num_inliers = int(inliers.sum())
    most = _DETAIL_MATCHES
    kept = order[_some(num_inliers, most)]
    kept = np.concatenate(
        [kept, order[num_inliers:][_some(len(pair) - num_inliers, most - len(kept))]]
    )
    xy = np.column_stack(
        [
            relative(keypoints[pair[kept, 0]], left.size),
            relative(db_keypoints[pair[kept, 1]], right.size),
        ]
    )
    return MatchPicture(
        left, right, db_name,
        relative(keypoints[_some(len(keypoints), MAX_KEYPOINTS)], left.size),
        xy, inliers[kept], len(keypoints), len(pair),
    )  # fmt: skip


def _keypoints(features: FeatureReader, query: QueryResult, index: np.ndarray) -> np.ndarray:
    keypoints = features.keypoints(query.name)
    if len(index) and index.max() >= len(keypoints):
        raise SamfeatError(
            features.path,
            f"{query.name} has fewer keypoints than its inliers refer to",
            "localize again with these features",
        )
    return keypoints[index]


def _some(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, spread evenly."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int) if most > 0 else np.zeros(0, dtype=int)


def _records(outputs: Path) -> dict[str, dict[str, Any]]:
    """What made each of the run's outputs, for those that say so."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(outputs.iterdir()):
        if path.name.startswith(".") or path.name.endswith(".made_by.json"):
            continue
        record = None
        if path.suffix == ".h5":
            record = provenance.read_hdf5(path)
        elif provenance.sidecar(path).is_file():
            record = provenance.read_sidecar(path)
        if record is not None:
            found[path.name] = record
    return found


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SamfeatError(path, "not the summary of a run", "run the same command again")
    return content
