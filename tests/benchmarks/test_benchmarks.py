"""Every benchmark on a small rebuilt dataset: both engines, hloc's own pipeline, evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
from hloc_pipelines import run_pipeline
from small_city import City
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.absolute_pose import ransac_options
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.poses import Pose, read_poses
from samfeat_hloc.datasets.queries import by_full_name
from samfeat_hloc.datasets.registry import open_dataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.localization import evaluate, position_error, rotation_error
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import submission
from samfeat_hloc.pipelines.run import Run, run
from samfeat_hloc.pipelines.run_options import RunOptions

FAST = RunOptions(preset="samfeat_fast", places=False)
METRES, DEGREES = 0.02, 0.1  # between the engines and hloc's own pipeline, which refine otherwise


@dataclass(frozen=True)
class Case:
    """A row of the matrix in docs/benchmarks.md, its benchmark, what makes its dataset, and the
    options that a run needs.

    paired: queries are matched with all database images, which saves their retrieval.
    no_pipeline: why hloc has no pipeline of it that runs here; "" where it has one.
    """

    row: str
    name: str
    make: Callable[[Path, City], Path]
    options: dict[str, Any] = field(default_factory=dict)
    paired: bool = True
    no_pipeline: str = ""


CASES = [
    Case("Aachen v1.1", "aachen", layouts.aachen),
    Case("Aachen v1.0", "aachen-v1", layouts.aachen_v1),
    Case("Cambridge Landmarks", "cambridge", layouts.cambridge, {"scene": "ShopFacade"}),
    Case(
        "Cambridge Landmarks, as released (NVM)", "cambridge", layouts.cambridge_release,
        no_pipeline="has none",
    ),
    Case("7Scenes", "7scenes", layouts.seven_scenes, paired=False),
    Case("7Scenes with depth", "7scenes", layouts.seven_scenes, {"depth": True}, paired=False),
    Case(
        "any COLMAP model", "colmap", layouts.colmap, {"queries": "queries.txt"},
        no_pipeline="has none",
    ),
    Case("RobotCar Seasons", "robotcar", layouts.robotcar),
    Case("Extended CMU Seasons", "cmu", layouts.cmu, {"scene": "slice11"}),
    Case("4Seasons", "4seasons", layouts.four_seasons, paired=False),
]  # fmt: skip
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
    dataset = open_dataset(root, options.benchmark, options.scene, queries=options.queries)
    lines = [f"{q} {name}\n" for q in dataset.query_names for name in dataset.db_names]
    path.write_text("".join(lines))
    return path


def test_queries_are_localized(done: Done) -> None:
    found = done.native
    assert found.evaluation is not None
    assert all("have no ground truth" in text for text in found.evaluation.warnings)
    known = len(found.dataset.queries) - len(found.dataset.withheld or [])
    assert len(found.dataset.queries) == 2 and len(found.evaluation.errors) == known > 0
    for metres, degrees in found.evaluation.errors.values():
        assert metres < 0.1 and degrees < 0.5
    assert found.summary.as_json()["benchmark"] == done.case.name
    if done.native.dataset.form is not None:
        assert found.submission is not None
        assert submission.check(found.submission, found.dataset) == []


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
def test_hlocs_engine_finds_the_same_poses(done: Done) -> None:
    options = replace(done.options, engine="hloc")
    theirs = run(done.root, done.outputs.with_name("hloc"), options)
    assert theirs.summary.engine == "hloc"
    same_poses(done.native, theirs.result.poses)


def same_poses(found: Run, others: dict[str, Pose]) -> None:
    """Those of a run of the native engine, within what the engines may differ by."""
    assert found.result.poses.keys() == others.keys()
    for name, pose in found.result.poses.items():
        assert position_error(pose, others[name]) < METRES
        assert rotation_error(pose, others[name]) < DEGREES


def test_inloc_is_localized_by_its_scans(
    city: City, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    root = layouts.inloc(tmp_path / "dataset", city)
    options = replace(FAST, benchmark="inloc")
    pairs = write_all_pairs(root, tmp_path / "pairs.txt", options)
    found = run(root, tmp_path / "out", replace(options, pairs_query=pairs))
    assert found.evaluation is not None and found.submission is not None
    assert found.submission.name == "InLoc_eval_[samfeat].txt"
    assert submission.check(found.submission, found.dataset) == []
    for metres, degrees in found.evaluation.errors.values():
        assert metres < 0.1 and degrees < 0.5
    model = read_model(found.map_dir)
    assert set(model.track_lengths) == {1}
    for number, shot in enumerate(city.database):
        name = f"database/cutouts/DUC1/{number:03d}/DUC_cutout_{number:03d}_{30 * number}_0.jpg"
        if name in model.images:
            assert position_error(model.images[name].pose, shot.pose) < 1e-6
            assert rotation_error(model.images[name].pose, shot.pose) < 0.01
            assert np.allclose(model.camera_of(name).params, shot.camera.params, atol=0.1)
    if not hloc_installed():
        return
    from hloc import localize_inloc

    by_hloc = run(root, tmp_path / "hloc", replace(options, pairs_query=pairs, engine="hloc"))
    same_poses(found, by_hloc.result.poses)
    options_of = localize_inloc.pycolmap.AbsolutePoseEstimationOptions

    def seeded() -> Any:  # as the native engine and `--engine hloc` have RANSAC
        options = options_of()
        for key, value in ransac_options(48.0).items():
            setattr(options.ransac, key, value)
        return options

    monkeypatch.setattr(localize_inloc.pycolmap, "AbsolutePoseEstimationOptions", seeded)
    result = tmp_path / "theirs.txt"
    localize_inloc.main(root, pairs, found.features, found.matches_query, result, skip_matches=20)
    same_poses(found, by_full_name(read_poses(result), found.dataset.queries, result))


def test_all_slices_make_one_submission(city: City, tmp_path: Path) -> None:
    root = layouts.cmu(tmp_path / "cmu", city)
    out = tmp_path / "out"
    pairs = ""
    for scene in ("slice2", "slice11"):
        options = replace(FAST, benchmark="cmu", scene=scene)
        pairs += write_all_pairs(root, tmp_path / "pairs.txt", options).read_text()
    (tmp_path / "pairs.txt").write_text(pairs)
    result = CliRunner().invoke(
        app,
        ["run", str(root), "--outputs", str(out), "--benchmark", "cmu", "--preset", "samfeat_fast",
         "--no-places", "--query-pairs", str(tmp_path / "pairs.txt")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "slice2", "slice11", "ExtendedCMU_eval_[samfeat].txt",
    }  # fmt: skip
    table = [line.split() for line in result.output.splitlines() if line.startswith("slice")]
    assert [line[:2] for line in table if len(line) > 1] == [["slice2", "all"], ["slice11", "all"]]
    path = out / "ExtendedCMU_eval_[samfeat].txt"
    assert [line.split()[0] for line in path.read_text().splitlines()] == [
        "img_00008_c1_28us.jpg",
        "img_00009_c1_119us.jpg",
    ]
    check = ["submission", "check", str(path), "--dataset", str(root), "--benchmark", "cmu"]
    result = CliRunner().invoke(app, check)
    assert result.exit_code == 0 and "all 2 queries (2 all), ready to upload" in result.output
    path.write_text(path.read_text().split("\n")[0] + "\n")
    result = CliRunner().invoke(app, check)
    assert result.exit_code == 1 and "all: 1 of 2 missing, e.g. img_00009" in result.output


def test_aachens_base_names_alone_are_refused(
    city: City, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Queries of the same name in two folders: localized and evaluated, but not submitted."""
    root = layouts.aachen_v1(tmp_path / "dataset", city)
    for condition in ("day", "night"):
        folder = root / "images_upright" / "query" / condition
        (folder / f"{condition}_000.jpg").rename(folder / "same.jpg")
        path = root / "queries" / f"{condition}_time_queries_with_intrinsics.txt"
        path.write_text(path.read_text().replace(f"{condition}_000", "same"))
    truth = root / "queries" / "ground_truth.txt"
    text = truth.read_text().replace("day_000", "day/same").replace("night_000", "night/same")
    truth.write_text(text)
    options = replace(FAST, benchmark="aachen-v1")
    pairs = write_all_pairs(root, tmp_path / "pairs.txt", options)
    done = run(root, tmp_path / "out", replace(options, pairs_query=pairs))
    assert done.submission is None and done.evaluation is not None
    assert all(error[0] < 0.1 for error in done.evaluation.errors.values())
    assert any("have the same base name" in text for text in caplog.messages)


def test_what_is_wrong_with_4seasons_files(city: City, tmp_path: Path) -> None:
    dataset = open_dataset(layouts.four_seasons(tmp_path / "dataset", city), "4seasons")
    assert dataset.ground_truth is not None and dataset.relocalizations is not None
    folder = submission.make(dataset.ground_truth, dataset, tmp_path)
    assert submission.check(folder, dataset) == []
    (path,) = folder.iterdir()
    lines = path.read_text().splitlines()
    truth = (dataset.truth_file.read_text()).splitlines()[1:]
    for line, true in zip(lines, truth, strict=True):
        assert line.split()[:2] == true.split()[:2]
        ours, theirs = (np.array(text.split()[2:], float) for text in (line, true))
        assert np.allclose(ours, theirs * np.sign(ours[-1] * theirs[-1]) ** [0, 0, 0, 1, 1, 1, 1])
    path.write_text("\n".join([lines[0] + " 1", lines[0], lines[0].replace("2000", "9")]))
    assert submission.check(folder, dataset) == [
        f"{path.name}: line 1: 10 values where 9 are needed",
        f"{path.name}: line 3: {lines[0].split()[0]} 9 is not asked for",
        f"{path.name}: 1 of 2 missing, e.g. {' '.join(lines[1].split()[:2])}",
    ]
    with pytest.raises(SamfeatError, match="poses are missing"):
        submission.make({}, dataset, tmp_path)


def test_4seasons_measures_translations_in_the_reference_frame(city: City, tmp_path: Path) -> None:
    """A query that is turned by 90 degrees about its centre has the wrong translation there."""
    dataset = open_dataset(layouts.four_seasons(tmp_path / "dataset", city), "4seasons")
    assert dataset.ground_truth is not None and dataset.relocalizations is not None
    half = np.sqrt(0.5)
    turn = Pose(np.array([half, 0, 0, half]), np.zeros(3))
    name = dataset.query_names[0]
    poses = {**dataset.ground_truth, name: turn @ dataset.ground_truth[name]}
    errors = evaluate(poses, dataset).errors
    relative = next(i.relative for i in dataset.relocalizations if i.query == name)
    assert relative is not None
    turned = turn.rotation @ relative.tvec
    assert errors[name][0] == pytest.approx(np.linalg.norm(turned - relative.tvec))
    assert errors[name][1] == pytest.approx(90)
    assert errors[dataset.query_names[1]][0] == pytest.approx(0, abs=1e-9)


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
def test_hlocs_own_pipeline_finds_the_same_poses(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if done.case.no_pipeline:
        pytest.skip(f"hloc's pipeline: {done.case.no_pipeline}")
    found = done.native
    results = run_pipeline(found, done.root, tmp_path, monkeypatch)
    asked = found.dataset.to_submit
    theirs = by_full_name(read_poses(results), asked, results)
    assert {query.name for query in asked} <= theirs.keys()
    for query in asked:
        pose = found.result.poses[query.name]
        assert position_error(pose, theirs[query.name]) < METRES
        assert rotation_error(pose, theirs[query.name]) < DEGREES
