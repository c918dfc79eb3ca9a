"""Read the files of a run and keep what its report shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from .contents import MatchPicture, QueryReport, ReportData, ReportOptions, Scene
from .hloc_log import log_beside, read_hloc
from .match_pictures import choose_pictures, match_picture, some
from .photos import ReportPhoto, relative, thumbnail
from .scene import camera_size, choose_points, places, tangents, upright_frame

logger = logging.getLogger(__name__)

_POINTS_PER_QUERY = 256


def gather(
    outputs: Path,
    dataset_dir: Path | None = None,
    *,
    map_dir: Path | None = None,
    images: Path | None = None,
    options: ReportOptions | None = None,
) -> ReportData:
    """Read a run, or hloc's outputs.

    Args:
        outputs: a run's folder; poses.txt, localization.json and map/ have to be there,
            summary.json, features.h5 and matches-query.h5 are used when they are. Or hloc's poses
            file, with its log beside it.
        dataset_dir: the dataset; without it the one that summary.json names, if it is there.
        map_dir: the COLMAP model that hloc localized in.
        images: folder of the photos, where there is no dataset.
        options: see `ReportOptions`.

    Raises:
        SamfeatError: a file is missing or damaged, or files are not of the same run.
    """
    run = _hloc_files(outputs, map_dir) if outputs.is_file() else _run_files(outputs)
    options = options or ReportOptions()
    notes: list[str] = []
    dataset = _open_dataset(dataset_dir, run.summary, notes, images)
    image_dir = images or (dataset.image_dir if dataset else None)
    result = run.result
    rows = {name: _inlier_rows(query, run) for name, query in result.queries.items()}
    _check_images(run)
    evaluation = None
    if dataset is not None and dataset.ground_truth is not None:
        evaluation = evaluate(result.poses, dataset)
    elif dataset is not None:
        notes.append("The dataset has no ground truth: errors of the queries are not known.")
    diagnoses = diagnose_all(result, run.model, dataset)
    scene, shown = _scene(run, dataset, list(rows.values()), options.max_points)
    if len(scene.points) < scene.num_points:
        notes.append(
            f"The 3-D view has {len(scene.points):,} of the map's {scene.num_points:,} points: "
            "inliers of the queries, and others at random."
        )
    queries = _query_reports(run, image_dir, diagnoses, rows, shown, options, notes)
    title = Path(str(run.summary.get("dataset") or (dataset_dir or outputs))).name or "run"
    return ReportData(
        title, run.summary, run.records, evaluation, scene, list(run.model.images), queries, notes
    )


@dataclass(frozen=True)
class _RunFiles:
    """What a report needs of a run, whoever made it.

    log: the file that messages about its queries name.
    tangents: of the queries' cameras, as far as the run's files say them.
    """

    result: LocalizationResult
    log: Path
    model: Model
    map_dir: Path
    features: Path | None
    matches: Path | None
    summary: dict[str, Any]
    records: dict[str, dict[str, Any]]
    tangents: Mapping[str, tuple[float, float]]


def _run_files(outputs: Path) -> _RunFiles:
    poses = outputs / "poses.txt"
    if not outputs.is_dir():
        raise SamfeatError(outputs, "no such folder", "give the outputs folder of a run")
    if (outputs / "database.db").is_file() and not poses.exists():
        raise SamfeatError(
            outputs,
            "`samfeat reconstruct` has left no model in it",
            "give that command again; it says why, or goes on",
        )
    for path in (poses, log_path(poses)):
        if not path.is_file():
            raise SamfeatError(
                path, "no such file", "finish the run, or give another run's outputs folder"
            )
    if not is_model(outputs / "map"):
        raise SamfeatError(outputs / "map", "no map in this folder", "finish the run first")
    summary = read_summary(outputs / "summary.json")
    return _RunFiles(
        read_result(poses), log_path(poses), read_model(outputs / "map"), outputs / "map",
        outputs / "features.h5", outputs / "matches-query.h5", summary, records_of(outputs), {},
    )  # fmt: skip


def _hloc_files(poses: Path, map_dir: Path | None) -> _RunFiles:
    if map_dir is None:
        raise SamfeatError("--map", "not given", f"name the COLMAP model that {poses} is of")
    model = read_model(map_dir)
    log = read_hloc(poses, model)
    return _RunFiles(
        log.result, log_beside(poses), model, map_dir, log.features, log.matches, {}, {},
        log.tangents,
    )  # fmt: skip


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


def _open_dataset(
    given: Path | None, summary: Mapping[str, Any], notes: list[str], images: Path | None
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
    photos = "" if images else "photos, "
    notes.append(f"Without {photos}errors and reasons of failures: {where} (--dataset).")
    return None


def _inlier_rows(query: QueryResult, run: _RunFiles) -> np.ndarray:
    """Rows of the map's points that the query's inliers lie on."""
    ids = run.model.point_ids
    last = len(ids) - 1
    rows = np.minimum(np.searchsorted(ids, query.inlier_points), max(last, 0))
    if len(rows) and (last < 0 or (ids[rows] != query.inlier_points).any()):
        raise SamfeatError(
            run.log, f"its inliers are not points of {run.map_dir}", "localize again in this map"
        )
    return rows


def _check_images(run: _RunFiles) -> None:
    for query in run.result.queries.values():
        for name, _ in query.retrieved:
            if name not in run.model.images:
                raise SamfeatError(
                    run.log,
                    f"{name}, retrieved for {query.name}, is not in {run.map_dir}",
                    "localize again in this map",
                )


def _scene(
    run: _RunFiles, dataset: Dataset | None, wanted: Sequence[np.ndarray], max_points: int
) -> tuple[Scene, np.ndarray]:
    """The scene, and the rows of the map's points in it."""
    model, result = run.model, run.result
    images = list(model.images.values())
    frame = upright_frame([image.pose for image in images])
    shown = choose_points(len(model.point_ids), wanted, max_points)
    db_poses = frame.poses(
        [image.pose for image in images],
        [tangents(model.cameras[image.camera_id]) for image in images],
    )
    truth = (dataset.ground_truth if dataset else None) or {}
    cameras = {query.name: query.camera for query in dataset.queries} if dataset else {}
    fields = [run.tangents.get(name) or tangents(cameras.get(name)) for name in result.queries]
    found = places(frame.points(model.xyz), [image.points for image in images], db_poses[:, :3])
    scene = Scene(
        points=frame.points(model.xyz[shown]),
        colors=model.colors[shown],
        num_points=len(model.point_ids),
        places=found,
        camera_size=camera_size(db_poses[:, :3], found[0].radius),
        db_poses=db_poses,
        estimated=frame.poses([query.pose for query in result.queries.values()], fields),
        truth=frame.poses([truth.get(name) for name in result.queries], fields),
    )
    return scene, shown


def _query_reports(
    run: _RunFiles,
    image_dir: Path | None,
    diagnoses: Sequence[Diagnosis],
    rows: Mapping[str, np.ndarray],
    shown: np.ndarray,
    options: ReportOptions,
    notes: list[str],
) -> list[QueryReport]:
    results = list(run.result.queries.values())
    chosen = set(choose_pictures(worst_first(diagnoses, results), options.max_pictures))
    with ExitStack() as stack:
        features = _opened(stack, FeatureReader, run.features, notes, "keypoints")
        matches = _opened(stack, MatchReader, run.matches, notes, "matches")
        pictured = image_dir is not None and features is not None and matches is not None
        if pictured and len(chosen) < len(results):
            notes.append(
                f"{len(chosen)} of {len(results)} queries have a picture of their matches: the "
                "worst, and some of all others (--max-pictures); all have a thumbnail."
            )

        unread: list[str] = []

        def report(index: int) -> QueryReport:
            query = results[index]
            found = _support(query, run.model, rows[query.name])
            if features is not None and not query.num_keypoints:  # hloc's log has no number
                query = replace(query, num_keypoints=features.count(query.name))
            picture = small = None
            if image_dir is not None:
                small = thumbnail(image_dir / query.name)
                if small is None:
                    unread.append(query.name)
                if features is not None and matches is not None and index in chosen and found:
                    best = max(range(len(found)), key=lambda i: (found[i], query.retrieved[i][1]))
                    picture = _picture(
                        image_dir, query, query.retrieved[best][0], run.model,
                        rows[query.name], features, matches,
                    )  # fmt: skip
            return _query_report(
                query, diagnoses[index], found, rows[query.name], shown, features, small, picture
            )

        with ThreadPoolExecutor(max_workers=max(options.workers, 1)) as pool:
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


def _opened(stack: ExitStack, reader: Any, path: Path | None, notes: list[str], what: str) -> Any:
    if path is None or not path.is_file():
        missing = "the file that hloc's log names" if path is None else path.name
        notes.append(f"Without {what}: {missing} is not there.")
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
    drawn = some(len(rows), _POINTS_PER_QUERY)
    unique = np.unique(rows)
    at = np.minimum(np.searchsorted(shown, unique), max(len(shown) - 1, 0))
    visible = at[shown[at] == unique] if len(unique) else at
    xy = np.zeros((0, 2), dtype=np.uint16)
    if features is not None and small is not None:
        xy = relative(_keypoints(features, query, query.inlier_keypoints[drawn]), small.size)
    return QueryReport(
        query,
        diagnosis,
        support,
        visible[some(len(visible), _POINTS_PER_QUERY)],
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
    return match_picture(
        image_dir / query.name, image_dir / db_name, db_name, (keypoints, db_keypoints),
        pair, inliers,
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


def records_of(outputs: Path) -> dict[str, dict[str, Any]]:
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


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a run or a reconstruction; empty where it is not there."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SamfeatError(path, "not the summary of a run", "run the same command again")
    return content
