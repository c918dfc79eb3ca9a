"""Every benchmark on a small rebuilt dataset: both engines, hloc's own pipeline, evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import layouts
import pytest
from small_city import City

from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import depth_points
from samfeat_hloc.localization.inputs import LocalizationInputs, MappingInputs
from samfeat_hloc.pipelines.engines import hloc_engine
from samfeat_hloc.pipelines.run import Run, run
from samfeat_hloc.pipelines.run_options import RunOptions

FAST = RunOptions(conf="samfeat_fast", places=False)
METRES, DEGREES = 0.01, 0.1  # between the engines, and hloc's own pipeline


@dataclass(frozen=True)
class Case:
    """A benchmark's name, what makes its dataset, and the options that a run needs.

    paired: queries are matched with all database images, which saves their retrieval.
    """

    name: str
    make: Callable[[Path, City], Path]
    options: dict[str, Any] = field(default_factory=dict)
    paired: bool = True


CASES = [
    Case("aachen-v1", layouts.aachen_v1),
    Case("cambridge", layouts.cambridge, {"scene": "ShopFacade"}),
    Case("cambridge", layouts.cambridge_release),
    Case("7scenes", layouts.seven_scenes, paired=False),
    Case("7scenes", layouts.seven_scenes, {"depth": True}, paired=False),
    Case("colmap", layouts.colmap, {"queries": "queries.txt"}),
]
IDS = [f"{case.name}-{case.make.__name__}-{'-'.join(case.options)}" for case in CASES]


@dataclass(frozen=True)
class Done:
    case: Case
    root: Path
    outputs: Path
    options: RunOptions
    native: Run


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def done(
    request: pytest.FixtureRequest, city: City, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    """A run of the native engine."""
    case: Case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    root = case.make(folder / "dataset", city)
    given = dict(case.options)
    if "queries" in given:
        given["queries"] = root / given["queries"]
    options = replace(FAST, benchmark=case.name, **given)
    if case.paired:
        options = replace(options, pairs_query=write_all_pairs(root, folder / "pairs.txt", options))
    return Done(case, root, folder / "native", options, run(root, folder / "native", options))


def write_all_pairs(root: Path, path: Path, options: RunOptions) -> Path:
    from samfeat_hloc.datasets.registry import open_dataset

    dataset = open_dataset(root, options.benchmark, options.scene, queries=options.queries)
    lines = [f"{q} {name}\n" for q in dataset.query_names for name in dataset.db_names]
    path.write_text("".join(lines))
    return path


def test_queries_are_localized(done: Done) -> None:
    found = done.native
    assert found.evaluation is not None and found.evaluation.warnings == []
    assert len(found.evaluation.errors) == len(found.dataset.queries) == 2
    for metres, degrees in found.evaluation.errors.values():
        assert metres < 0.1 and degrees < 0.5
    assert found.summary.as_json()["benchmark"] == done.case.name
    if done.native.dataset.form is not None:
        assert found.submission is not None and found.submission.is_file()


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
def test_hlocs_stages_find_the_same_poses(done: Done) -> None:
    """All but extraction and matching, which test_hloc_engine.py finds to be the same."""
    found, folder = done.native, done.outputs.with_name("hloc")
    folder.mkdir()
    engine = hloc_engine(overwrite=False)
    dataset = found.dataset
    reference = dataset.reference_in(done.outputs)
    count = dataset.retrieval.num_covisible
    by = "covis" if dataset.num_points else "poses"
    pairs_db = done.outputs / f"pairs-db-{by}{count}.txt"
    if dataset.num_points:
        theirs = engine.pairs_from_covisibility(
            reference, folder / "pairs-db.txt", num_matched=count
        )
        assert set(read_pairs(theirs)) == set(read_pairs(pairs_db))
    matches_db = done.outputs / "matches-db.h5"
    inputs = MappingInputs(reference, dataset.image_dir, pairs_db, found.features, matches_db)
    map_dir = engine.mapping(inputs, folder / "map")
    if done.options.depth:
        assert dataset.depth_maps is not None
        map_dir = depth_points.main(map_dir, dataset.depth_maps, folder / "map-depth")
    pairs_query = done.outputs / "pairs-query-given.txt"
    result = engine.localize(
        LocalizationInputs(
            map_dir, dataset.queries, pairs_query, found.features, found.matches_query
        ),
        folder / "poses.txt",
        max_error=dataset.max_error,
    )
    for name, pose in found.result.poses.items():
        assert position_error(pose, result.poses[name]) < METRES
        assert rotation_error(pose, result.poses[name]) < DEGREES
