"""The local-feature track of the long-term visual localization benchmark, by pycolmap.

The protocol of `local_feature_evaluation` in tsattler/visuallocalizationbenchmark, which papers on
local features report: match a fixed list of pairs by mutual nearest neighbours, verify them
geometrically, triangulate the database images at their known poses, register the night queries,
all at fixed intrinsics. On Aachen v1.1 the benchmark gives names and intrinsics (a COLMAP database)
and the pairs; both belong in the dataset's folder. Any other dataset in this layout needs no
database, and its pairs are made like the benchmark's: covisible database images (near ones where
the reference model has no points), retrieved ones for the queries.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..colmap.database import VerificationConfig
from ..colmap.model import is_model
from ..colmap.poses import Pose, poses_text, read_poses
from ..colmap.registration import (
    ImageEntry,
    as_json,
    empty_model,
    entries_of,
    fill_database,
    read_database,
    register,
)
from ..colmap.triangulation import MappingConfig, triangulate
from ..datasets.aachen import FORM, AachenDataset
from ..datasets.dataset import no_two_alike
from ..datasets.queries import Query
from ..errors import SamfeatError
from ..evaluation.localization import LocalizationEvaluation, evaluate
from ..evaluation.record import measurement
from ..files import provenance
from ..files.atomic import write_atomically
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.outputs import Output
from ..files.pair_lists import read_pairs, unique_pairs
from ..localization import global_descriptors, matches, pairs, pairs_by_rule
from ..localization.submission import file_name
from .methods import match_config
from .reconstruct import ReconstructOptions, extract
from .summary import map_figures

logger = logging.getLogger(__name__)

DATABASE = "database_v1_1.db"
PAIRS = "image_pairs_to_match_v1_1.txt"
FOLDER = "local-features"


@dataclass(frozen=True)
class ProtocolOptions:
    """How to run.

    features: method, preset and weights of the features, workers and overwrite.
    pairs: list of all pairs, of database images and of queries with these; None for the
        benchmark's in the dataset's folder, or else one of covisibility and retrieval.
    num_covisible, num_retrieved: the pairs of each image where there is no list.
    method: name in the submission's file name.
    """

    features: ReconstructOptions = field(default_factory=ReconstructOptions)
    pairs: Path | None = None
    num_covisible: int = 20
    num_retrieved: int = 20
    method: str = "samfeat"


@dataclass(frozen=True)
class ProtocolRun:
    """What a run leaves: its files, and what was found."""

    queries: list[Query]
    poses: dict[str, Pose]
    map_dir: Path
    submission: Path
    evaluation: LocalizationEvaluation | None

    def report(self) -> str:
        """The map's figures, the evaluation where there is one, and what to upload."""
        figures = map_figures(self.map_dir)
        parts = [
            f"map: {figures['images']} images, {figures['points']} points, "
            f"track length {figures['mean_track_length']:.2f}, "
            f"reprojection error {figures['mean_reprojection_error']:.2f} px"
        ]
        if self.evaluation is not None:
            parts.append(f"\n{self.evaluation.table()}\n")
        parts.append(
            f"submission: {self.submission}, {len(self.poses)} of {len(self.queries)} queries "
            "registered"
        )
        return "\n".join(parts)


def run(dataset_dir: Path, outputs: Path, options: ProtocolOptions | None = None) -> ProtocolRun:
    """Run the protocol on a dataset in Aachen's layout.

    Leaves features.h5 in `outputs` (that of the whole pipeline, which both use) and the rest in
    its folder local-features: matches.h5, database.db, map/, poses.txt, registration.json,
    summary.json and the submission, which has the registered queries only. A run that was
    interrupted goes on.

    Raises:
        SamfeatError: whatever is wrong with dataset, options or files already in `outputs`.
    """
    options = options or ProtocolOptions()
    dataset = AachenDataset.open(dataset_dir)
    no_two_alike(dataset.queries, FORM, dataset.root / "queries")
    submission_name = file_name(options.method, FORM)
    folder = outputs / FOLDER
    template = dataset_dir / DATABASE
    given = options.pairs
    if given is None and (dataset_dir / PAIRS).is_file():
        given = dataset_dir / PAIRS
    listed = None if given is None else read_pairs(given)
    known = read_database(template) if template.is_file() else None
    folder.mkdir(parents=True, exist_ok=True)

    feature_file = extract(
        dataset.image_dir, [*dataset.db_names, *dataset.query_names], outputs / "features.h5",
        options.features,
    )  # fmt: skip
    if given is None:
        given = _make_pairs(dataset, outputs, folder, feature_file, options)
        listed = read_pairs(given)
    assert listed is not None
    queries = _queries(dataset, known, listed, given)
    entries = known or entries_of(
        dataset.reference_model, {query.name: query.camera for query in queries}
    )
    _check_entries(entries, dataset, queries, listed, given, template)
    again: dict[str, Any] = {"overwrite": options.features.overwrite}
    match_file = matches.main(
        given, feature_file, folder / "matches.h5",
        config=match_config(options.features.method), device=options.features.device, **again,
    )  # fmt: skip
    database = folder / "database.db"
    map_dir = folder / "map"
    _map(dataset, entries, given, listed, feature_file, match_file, database, map_dir, **again)
    poses = _register(map_dir, database, entries, queries, folder / "poses.txt", **again)

    submission = folder / submission_name
    write_atomically(
        submission,
        poses_text({FORM.line_name(name): pose for name, pose in poses.items()}, submission),
    )
    if len(poses) < len(queries):
        logger.warning(
            "%s: %d of %d queries are registered; as in the benchmark's script the others are "
            "left out, and count as failed", submission, len(poses), len(queries),
        )  # fmt: skip
    evaluation = None
    if dataset.ground_truth is not None:
        evaluation = evaluate(poses, replace(dataset, queries=queries))
    summary = {
        "protocol": "local-features",
        "queries": len(queries),
        "registered": len(poses),
        "map": map_figures(map_dir),
        "evaluation": None if evaluation is None else evaluation.as_json(),
        **measurement({"dataset": dataset_dir, **asdict(options)}),
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return ProtocolRun(queries, poses, map_dir, submission, evaluation)


def _make_pairs(
    dataset: AachenDataset,
    outputs: Path,
    folder: Path,
    feature_file: Path,
    options: ProtocolOptions,
) -> Path:
    """Covisible database images, or near ones where the reference model has no points, and
    retrieved ones for every query; shared with the pipeline."""
    again: dict[str, Any] = {"overwrite": options.features.overwrite}
    choose, by = pairs.from_covisibility, "covis"
    if not dataset.num_points:
        choose, by = pairs_by_rule.from_poses, "poses"
    of_database = choose(
        dataset.reference_model, outputs / f"pairs-db-{by}{options.num_covisible}.txt",
        num_matched=options.num_covisible, **again,
    )  # fmt: skip
    descriptors = global_descriptors.main(
        feature_file, dataset.db_names, dataset.query_names, outputs / "global-descriptors.h5",
        device=options.features.device, **again,
    )  # fmt: skip
    retrieved = pairs.from_retrieval(
        descriptors, dataset.query_names, dataset.db_names,
        outputs / f"pairs-query-vlad{options.num_retrieved}.txt",
        num_matched=options.num_retrieved, **again,
    )  # fmt: skip
    output = folder / "pairs.txt"
    made_by = provenance.made_by(
        "pairs",
        {"from": "covisibility and retrieval" if dataset.num_points else "poses and retrieval"},
        provenance.file_hashes(db=of_database, query=retrieved),
    )
    result = Output(output, made_by, **again)
    if result.is_there():
        return output
    return result.write_text(
        of_database.read_text(encoding="utf-8") + retrieved.read_text(encoding="utf-8")
    )


def _queries(
    dataset: AachenDataset,
    known: Mapping[str, ImageEntry] | None,
    listed: Sequence[tuple[str, str]],
    source: Path,
) -> list[Query]:
    """The queries of the protocol: those of the database, else those with a pair."""
    paired = {name for pair in listed for name in pair}
    chosen = known.keys() if known is not None else paired
    queries = [query for query in dataset.queries if query.name in chosen]
    if not queries:
        raise SamfeatError(
            source, "no query of the dataset's lists is in it", "give pairs of queries too"
        )
    return queries


def _check_entries(
    entries: Mapping[str, ImageEntry],
    dataset: AachenDataset,
    queries: Sequence[Query],
    listed: Sequence[tuple[str, str]],
    pairs_file: Path,
    template: Path,
) -> None:
    usable = dataset.db_poses.keys() | {query.name for query in queries}
    for name in dict.fromkeys(name for pair in listed for name in pair):
        if name not in entries or name not in usable:
            raise SamfeatError(
                pairs_file,
                (
                    f"{name} is neither in the reference model nor among the "
                    f"queries{(f' and in {template.name}' if template.is_file() else '')}"
                ),
                "give pairs of this dataset",
            )
    for name in entries:
        if name not in usable:
            raise SamfeatError(
                template,
                (
                    f"{name} is neither in the reference model {dataset.reference_model} nor "
                    "among the queries"
                ),
                "complete the dataset",
            )


def _map(
    dataset: AachenDataset,
    entries: Mapping[str, ImageEntry],
    pairs_file: Path,
    listed: Sequence[tuple[str, str]],
    feature_file: Path,
    match_file: Path,
    database: Path,
    map_dir: Path,
    *,
    overwrite: bool,
) -> None:
    """The verified database, and the database images triangulated from it at known poses."""
    verification, mapping = VerificationConfig(), MappingConfig()
    poses = {name: pose for name, pose in dataset.db_poses.items() if name in entries}
    cameras = [f"{name} {entry}" for name, entry in entries.items()]
    known_poses = [f"{name} {[*pose.qvec, *pose.tvec]}" for name, pose in poses.items()]
    made_by = provenance.made_by(
        "registration_database",
        asdict(verification),
        {
            "images": provenance.names_hash(cameras),
            "poses": provenance.names_hash(known_poses),
            **provenance.file_hashes(pairs=pairs_file, features=feature_file, matches=match_file),
        },
    )
    model = empty_model(entries, poses)
    result = Output(database, made_by, overwrite=overwrite)
    if not result.is_there():
        unique = [pair for pair in unique_pairs(listed) if pair[0] != pair[1]]
        with (
            result.making() as work,
            FeatureReader(feature_file) as features_of,
            MatchReader(match_file) as matches_of,
        ):
            found = fill_database(
                work / "database.db", entries, model, unique, features_of, matches_of, verification
            )
            logger.info("database: %s", found.in_words(len(unique)))
            result.put(work / "database.db")

    map_made_by = provenance.made_by(
        "registration_map",
        asdict(mapping),
        {"database": provenance.file_hash(provenance.sidecar(database))},
    )
    result = Output(map_dir, map_made_by, overwrite=overwrite)
    if result.is_there():
        return
    with result.making() as work:
        (work / "map").mkdir()
        triangulate(model, database, dataset.image_dir, work / "map", mapping)
        if not is_model(work / "map") or not map_figures(work / "map")["points"]:
            raise SamfeatError(
                match_file,
                "the map would have no points",
                "check that features and reference model are of the same images",
            )
        result.put(work / "map")


def _register(
    map_dir: Path,
    database: Path,
    entries: Mapping[str, ImageEntry],
    queries: Sequence[Query],
    output: Path,
    *,
    overwrite: bool,
) -> dict[str, Pose]:
    names = [query.name for query in queries]
    made_by = provenance.made_by(
        "registration",
        {},
        {
            "map": provenance.file_hash(provenance.sidecar(map_dir)),
            "queries": provenance.names_hash(names),
        },
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return read_poses(output)
    found = register(map_dir, database, {name: entries[name].image_id for name in names})
    poses = {name: one.pose for name, one in found.items() if one.pose is not None}
    log = {name: as_json(one) for name, one in found.items()}
    write_atomically(output.with_name("registration.json"), json.dumps(log, indent=1) + "\n")
    if not poses:
        raise SamfeatError(
            map_dir,
            f"none of the {len(names)} queries can be registered",
            (f"see {output.with_name('registration.json')} for the points that each one sees"),
        )
    result.write_text(poses_text(poses, output))
    return poses
