"""The whole way from photos to a submission: every stage after the other, each skipped when done.

Stages meet only in the files of the outputs folder, so any of them can be run alone, replaced, or
taken from another program; `--engine hloc` takes hloc's own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..datasets.dataset import Dataset, no_two_alike
from ..datasets.registry import open_dataset
from ..datasets.rigs import frames_of_queries
from ..errors import SamfeatError
from ..evaluation.localization import LocalizationEvaluation, evaluate
from ..feature.presets import PRESETS
from ..files import provenance
from ..files.atomic import write_atomically
from ..files.masks import Masks
from ..files.pair_lists import pairs_text, read_pairs
from ..hloc_plugin.engine import check_retrieval
from ..hloc_plugin.engine import global_descriptors as hloc_descriptors
from ..localization import (
    depth_points,
    global_descriptors,
    pairs_by_rule,
    places,
    scan_map,
    submission,
)
from ..localization.inputs import LocalizationInputs, MappingInputs
from ..localization.result import LocalizationResult
from ..parallel.cluster import Cluster
from . import methods
from .clock import Clock, beside
from .engines import Engine, NativeEngine, hloc_engine
from .run_options import VLAD, RunOptions
from .summary import RunSummary, count_keypoints, count_matches, map_figures

logger = logging.getLogger(__name__)

STAGES = (
    "features", "pairs-db", "matches-db", "map", "global-descriptors", "pairs-query",
    "matches-query", "depth", "places", "localize",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a run leaves: its files, and what was found."""

    dataset: Dataset
    outputs: Path
    model: Any  # SAMFeat, or what stands for RootSIFT
    features: Path
    map_dir: Path
    matches_query: Path
    submission: Path | None  # None where none can be made
    result: LocalizationResult
    evaluation: LocalizationEvaluation | None
    summary: RunSummary


def run(
    dataset_dir: Path,
    outputs: Path,
    options: RunOptions | None = None,
    *,
    cluster: Cluster | None = None,
) -> Run:
    """Map the database images of a dataset, localize its queries, write and check the submission.

    Args:
        dataset_dir: folder of the dataset, in the layout of `options.benchmark`.
        outputs: folder for all files; made when missing. A run that was interrupted goes on.
        options: see `RunOptions`.
        cluster: where to extract, match and localize, with the native engine; None for here.

    Raises:
        SamfeatError: whatever is wrong with dataset, options or files already in `outputs`.
    """
    options = options or RunOptions()
    if cluster is not None and options.engine != "native":
        raise SamfeatError("--workers ray", "only --engine native works on a cluster")
    if cluster is not None and options.features != "samfeat":
        raise SamfeatError("--workers ray", "only SAMFeat is extracted on a cluster")
    dataset = open_dataset(
        dataset_dir, options.benchmark, options.scene, queries=options.queries, truth=options.truth
    )
    submitting = _can_submit(dataset, options.method)
    given_db = _given_pairs_db(options.pairs_db, dataset)
    given_query = _listed_pairs(options, dataset)
    if dataset.scan_of is not None and given_query is not None:
        dataset = replace(dataset, db_names=sorted({name for _, name in given_query}))
    frames = []
    if options.rig is not None:
        frames = frames_of_queries(options.rig, dataset.query_names, dataset.frames)
    if options.depth and dataset.depth_maps is None:
        raise SamfeatError("--depth", f"{dataset_dir} has no depth maps", "leave it out")
    if given_query is None and options.retrieval not in (None, VLAD):
        check_retrieval(options.retrieval)
    model, how = methods.load(
        options.features, options.weights, options.official_weights, device=options.device
    )
    engine: Engine = NativeEngine(
        options.workers, options.storage, how, options.overwrite, cluster, options.device,
        None if options.masks is None else Masks(options.masks),
    )  # fmt: skip
    if options.engine == "hloc":
        engine = hloc_engine(overwrite=options.overwrite)
    outputs.mkdir(parents=True, exist_ok=True)
    reference = dataset.reference_in(outputs, overwrite=options.overwrite)
    num_covisible = options.num_covisible or dataset.retrieval.num_covisible
    max_error = options.max_error or dataset.max_error
    clock = Clock()

    feature_file = outputs / "features.h5"
    with clock.stage("features", feature_file) as figures:
        engine.features(
            dataset.image_dir, [*dataset.db_names, *dataset.query_names], feature_file,
            model=model, options=PRESETS[options.preset],
        )  # fmt: skip
    figures.update(count_keypoints(feature_file, dataset))

    config = methods.match_config(options.features)
    map_dir = outputs / "map"
    if dataset.scan_of is None:
        by = "covis" if dataset.num_points else "poses"
        pairs_db = given_db or outputs / f"pairs-db-{by}{num_covisible}.txt"
        with clock.stage("pairs-db", pairs_db) as figures:
            if given_db is None and not dataset.num_points:
                pairs_by_rule.from_poses(
                    reference, pairs_db, num_matched=num_covisible, overwrite=options.overwrite
                )
            elif given_db is None:
                engine.pairs_from_covisibility(reference, pairs_db, num_matched=num_covisible)
        if not options.overwrite:
            _refuse_other_pairs(map_dir, pairs_db)
        matches_db = outputs / "matches-db.h5"
        with clock.stage("matches-db", matches_db) as figures:
            engine.matches(pairs_db, feature_file, matches_db, config=config)
        figures.update(count_matches(matches_db))

    def make_map() -> None:
        if dataset.scan_of is not None:  # the places of matched keypoints, which are not known yet
            return
        with clock.stage("map", map_dir) as figures:
            inputs = MappingInputs(reference, dataset.image_dir, pairs_db, feature_file, matches_db)
            engine.mapping(inputs, map_dir)
        figures.update(map_figures(map_dir))

    # Retrieval and matching of the queries need no map, and COLMAP one processor most of the time.
    with beside(make_map, "map", wait=not engine.side_by_side):
        pairs_query = _query_pairs(
            engine, options, dataset, outputs, feature_file, given_query, clock
        )
        matches_query = outputs / "matches-query.h5"
        with clock.stage("matches-query", matches_query) as figures:
            engine.matches(pairs_query, feature_file, matches_query, config=config)
        figures.update(count_matches(matches_query))

    if dataset.scan_of is not None:
        listed, pairs_query = pairs_query, outputs / "pairs-query-enough.txt"
        again = {"overwrite": options.overwrite}
        with clock.stage("map", map_dir) as figures:
            scan_map.enough_matches(listed, matches_query, pairs_query, **again)
            scan_map.main(
                dataset.scan_of, pairs_query, feature_file, matches_query, map_dir, **again
            )
        figures.update(map_figures(map_dir))
    if options.depth:
        assert dataset.depth_maps is not None
        sparse, map_dir = map_dir, outputs / "map-depth"
        with clock.stage("depth", map_dir) as figures:
            depth_points.main(sparse, dataset.depth_maps, map_dir, overwrite=options.overwrite)
        figures.update(map_figures(map_dir))

    inputs = LocalizationInputs(map_dir, dataset.queries, pairs_query, feature_file, matches_query)
    if options.places and dataset.scan_of is None:  # scans share no points to tell places by
        kept = outputs / "pairs-query-places.txt"
        with clock.stage("places", kept):
            places.main(
                inputs, kept, max_error=max_error, workers=options.workers,
                overwrite=options.overwrite,
            )  # fmt: skip
        inputs = replace(inputs, pairs=kept)
    inputs = replace(inputs, frames=frames)
    poses = outputs / "poses.txt"
    with clock.stage("localize", poses) as figures:
        result = engine.localize(inputs, poses, max_error=max_error)
    figures.update(_localized(result, dataset))

    submitted = None
    if submitting:
        submitted = submission.make(result.poses, dataset, outputs, options.method)
    for doubt in submission.doubts(result.poses, dataset):
        logger.warning("%s: %s", poses, doubt)
    evaluation = None
    if dataset.ground_truth is not None:
        evaluation = evaluate(result.poses, dataset)
    summary = RunSummary(
        dataset=str(dataset_dir.absolute()),
        engine=options.engine,
        preset=options.preset,
        weights_sha256=model.weights_sha256,
        stages=sorted(clock.stages, key=lambda stage: STAGES.index(stage.name)),
        seconds=time.perf_counter() - clock.started,
        evaluation=None if evaluation is None else evaluation.as_json(),
        benchmark=dataset.benchmark,
        scene=dataset.scene,
        queries=options.queries,
        truth=options.truth,
    )
    write_atomically(outputs / "summary.json", json.dumps(summary.as_json(), indent=1) + "\n")
    return Run(
        dataset, outputs, model, feature_file, map_dir, matches_query, submitted, result,
        evaluation, summary,
    )  # fmt: skip


def _refuse_other_pairs(map_dir: Path, pairs: Path) -> None:
    """Before their matches join those of which a map was made, which it would not be of any more.

    Raises:
        SamfeatError: the map was made of other pairs.
    """
    record = provenance.read_sidecar(map_dir) if map_dir.is_dir() else None
    made_of = (record or {}).get("inputs", {}).get("pairs")
    if made_of not in (None, provenance.file_hash(pairs)):
        raise SamfeatError(
            map_dir,
            "was made of other pairs of database images, by another --num-covisible or --db-pairs",
            "give what it was made with, or other --outputs",
        )


def _query_pairs(
    engine: Engine,
    options: RunOptions,
    dataset: Dataset,
    outputs: Path,
    feature_file: Path,
    given: Sequence[tuple[str, str]] | None,
    clock: Clock,
) -> Path:
    """The list of retrieved images: the one given, cut to the dataset's queries, or our own."""
    if given is not None:
        pairs_query = outputs / "pairs-query-given.txt"
        with clock.stage("pairs-query", pairs_query):
            text = pairs_text(given)
            if not pairs_query.is_file() or pairs_query.read_text(encoding="utf-8") != text:
                write_atomically(pairs_query, text)
        return pairs_query
    again = {"overwrite": options.overwrite}
    retrieval = options.retrieval or VLAD
    if retrieval == VLAD:
        descriptors = outputs / "global-descriptors.h5"
        with clock.stage("global-descriptors", descriptors):
            global_descriptors.main(
                feature_file, dataset.db_names, dataset.query_names, descriptors,
                device=options.device, overwrite=options.overwrite,
            )  # fmt: skip
    else:
        descriptors = outputs / f"global-descriptors-{retrieval}.h5"
        with clock.stage("global-descriptors", descriptors):
            hloc_descriptors(
                dataset.image_dir, [*dataset.db_names, *dataset.query_names], descriptors,
                configuration=retrieval, **again,
            )  # fmt: skip
    count = options.num_retrieved or dataset.retrieval.num_retrieved
    pairs_query = outputs / f"pairs-query-{retrieval}{count}.txt"
    with clock.stage("pairs-query", pairs_query):
        engine.pairs_from_retrieval(
            descriptors, dataset.query_names, dataset.db_names, pairs_query, num_matched=count
        )
    return pairs_query


def _can_submit(dataset: Dataset, method: str) -> bool:
    """Whether a submission can be written; where names stand in its way, that is said now."""
    if dataset.form is None:
        return False
    submission.file_name(method, dataset.form)
    try:
        if dataset.relocalizations is None:
            no_two_alike(dataset.to_submit, dataset.form, dataset.root)
    except SamfeatError as error:
        logger.warning("no submission will be written: %s", error)
        return False
    return True


def _given_pairs_db(path: Path | None, dataset: Dataset) -> Path | None:
    if path is None:
        return None
    known = set(dataset.db_names)
    for name in (name for pair in read_pairs(path) for name in pair):
        if name not in known:
            raise SamfeatError(
                path,
                f"{name} is not in the reference model {dataset.reference_model}",
                "give pairs of its images",
            )
    return path


def _listed_pairs(options: RunOptions, dataset: Dataset) -> list[tuple[str, str]] | None:
    """The query pairs that the user gives, else those of the dataset; None to retrieve."""
    retrieval = dataset.retrieval
    if options.pairs_query is None and options.retrieval is None and retrieval.pairs is not None:
        return retrieval.pairs(options.num_retrieved or retrieval.num_retrieved)
    published = retrieval.published if options.retrieval is None else None
    return _given_pairs_query(options.pairs_query or published, dataset)


def _given_pairs_query(path: Path | None, dataset: Dataset) -> list[tuple[str, str]] | None:
    """The pairs of the dataset's queries; published lists may have more queries than these."""
    if path is None:
        return None
    queries, known = set(dataset.query_names), set(dataset.db_names)
    listed = read_pairs(path)
    kept = [pair for pair in listed if pair[0] in queries]
    for name, db_name in kept:
        if db_name not in known:
            raise SamfeatError(
                path,
                (
                    f"{db_name}, retrieved for {name}, is not in the reference model "
                    f"{dataset.reference_model}"
                ),
                "retrieve from its images",
            )
    without = sorted(queries - {name for name, _ in kept})
    if without:
        raise SamfeatError(
            path,
            (
                f"no pair for query {without[0]} ({len(without)} of {len(queries)} queries "
                "have none)"
            ),
            "give a list with all queries, as 'query db-image' lines",
        )
    if len(kept) < len(listed):
        logger.info(
            "pairs-query: %d of %d pairs of %s are of this dataset's queries",
            len(kept), len(listed), path,
        )  # fmt: skip
    return kept


def _localized(result: LocalizationResult, dataset: Dataset) -> dict[str, Any]:
    found: dict[str, dict[str, int]] = {}
    for condition in dataset.conditions:
        queries = [q for q in result.queries.values() if q.condition == condition]
        found[condition] = {
            "queries": len(queries),
            "localized": sum(query.localized for query in queries),
            "weak": sum(query.weak for query in queries),
        }
    return {"localized": found}
