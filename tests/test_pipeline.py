"""The whole run on a small demo: every file, a second run that skips, pictures, clear refusals."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pycolmap
import pytest
import torch
from refusals import error_line, refused

from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import submission
from samfeat_hloc.pictures.run import ground_plane, write_pictures
from samfeat_hloc.pipelines import run as pipeline
from samfeat_hloc.pipelines.run import Run
from samfeat_hloc.pipelines.run_options import RunOptions
from samfeat_hloc.scenes import write_demo

ROOT = Path(__file__).resolve().parents[1]
FAST = RunOptions(preset="samfeat_fast")
OUTPUTS = {
    "features.h5", "global-descriptors.h5", "pairs-db-covis20.txt", "pairs-query-vlad50.txt",
    "matches-db.h5", "matches-query.h5", "map", "poses.txt", "localization.json",
    "Aachen_v1_1_eval_[samfeat].txt", "summary.json", "pairs-db-covis20.txt.made_by.json",
    "pairs-query-vlad50.txt.made_by.json", "poses.txt.made_by.json",
    "pairs-query-places.txt", "pairs-query-places.txt.made_by.json",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(
        tmp_path_factory.mktemp("demo") / "dataset", num_db=10, num_queries=2, size=(320, 240)
    )


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pipeline.run(dataset, tmp_path_factory.mktemp("outputs"), FAST)


def test_every_file_is_there_and_the_submission_is_right(finished: Run) -> None:
    names = {path.name for path in finished.outputs.iterdir()} - {"pictures"}
    assert names == OUTPUTS
    assert submission.check(finished.submission, finished.dataset) == []
    assert len(finished.result.queries) == 4
    assert finished.evaluation is not None
    assert finished.evaluation.conditions["day"].recalls[(0.25, 2.0)] == 1.0


def test_the_summary_counts(finished: Run) -> None:
    summary = json.loads((finished.outputs / "summary.json").read_text())
    stages = summary["stages"]
    assert list(stages) == [
        "features", "pairs-db", "matches-db", "map", "global-descriptors", "pairs-query",
        "matches-query", "places", "localize",
    ]  # fmt: skip
    assert stages["features"]["images"] == 14
    assert 50 < stages["features"]["keypoints_per_image"] <= 1024
    assert stages["map"]["images"] == 10
    assert stages["map"]["observations"] >= 2 * stages["map"]["points"] > 0
    assert stages["localize"]["localized"]["day"]["queries"] == 2
    assert summary["weights_sha256"] == finished.model.weights_sha256
    assert summary["evaluation"]["conditions"]["night"]["num_queries"] == 2
    table = finished.summary.table().split("\n")
    assert len(table) == 11
    assert "reprojection error" in finished.summary.table()


def test_a_second_run_skips_every_stage(
    finished: Run, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _times(finished.outputs)
    with caplog.at_level(logging.INFO):
        again = pipeline.run(dataset, finished.outputs, FAST)
    assert all(stage.skipped for stage in again.summary.stages)
    assert len([line for line in caplog.messages if "skipped" in line]) == 9
    after = _times(finished.outputs)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"summary.json", "Aachen_v1_1_eval_[samfeat].txt"}
    assert again.result.poses.keys() == finished.result.poses.keys()


def test_another_configuration_is_refused_not_reused(finished: Run, dataset: Path) -> None:
    with refused("features.h5", mend="--overwrite"):
        pipeline.run(dataset, finished.outputs, RunOptions(preset="samfeat_aachen"))


def test_other_pairs_are_refused_before_their_matches_join_the_maps(
    finished: Run, dataset: Path
) -> None:
    """Once the map was no more that of its matches, even for the run that had made it."""
    matches = finished.outputs / "matches-db.h5"
    before = matches.read_bytes()
    with refused("map", "--num-covisible", "--outputs"):
        pipeline.run(dataset, finished.outputs, replace(FAST, num_covisible=1))
    assert matches.read_bytes() == before
    (finished.outputs / "pairs-db-covis1.txt").unlink()
    (finished.outputs / "pairs-db-covis1.txt.made_by.json").unlink()
    again = pipeline.run(dataset, finished.outputs, FAST)
    assert all(stage.skipped for stage in again.summary.stages)


def test_a_retrieval_that_is_not_there_is_told_before_the_work(
    dataset: Path, tmp_path: Path
) -> None:
    with refused("--retrieval nothing"):
        pipeline.run(dataset, tmp_path / "outputs", RunOptions(retrieval="nothing"))
    assert not (tmp_path / "outputs" / "features.h5").exists()


def test_given_pairs_take_the_place_of_retrieval(
    finished: Run, dataset: Path, tmp_path: Path
) -> None:
    """A published list names more queries than these; what is left out is needed by nobody."""
    db_names = finished.dataset.db_names
    queries = finished.dataset.query_names
    given = tmp_path / "netvlad.txt"
    given.write_text(
        "".join(f"{q} {d}\n" for q in [*queries, "query/other.jpg"] for d in db_names[::2])
    )
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.copy(finished.features, outputs)
    options = RunOptions(preset="samfeat_fast", pairs_query=given, places=False)
    done = pipeline.run(dataset, outputs, options)
    assert not (outputs / "global-descriptors.h5").exists()
    for query in done.result.queries.values():
        assert [name for name, _ in query.retrieved] == db_names[::2]
    assert not (outputs / "pairs-query-places.txt").exists()
    assert [s.name for s in done.summary.stages if s.skipped] == ["features"]


def test_pairs_that_cannot_work_are_refused_before_anything_is_made(
    dataset: Path, finished: Run, tmp_path: Path
) -> None:
    given, outputs = tmp_path / "pairs.txt", tmp_path / "outputs"
    query, db_name = finished.dataset.query_names[0], finished.dataset.db_names[0]
    for text, wrong in (
        (f"{query} {db_name}\n", "3 of 4"),
        (f"{query} db/none.jpg\n", ("db/none.jpg", query)),
    ):
        given.write_text(text)
        with refused("pairs.txt", wrong):
            pipeline.run(dataset, outputs, RunOptions(pairs_query=given))
    given.write_text(f"{db_name} {query}\n")
    with refused("pairs.txt", "reference model"):
        pipeline.run(dataset, outputs, RunOptions(pairs_db=given))
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("options", "subject", "problem"),
    [
        ({"engine": "colmap"}, "--engine colmap", ("native", "hloc")),
        ({"preset": "sift"}, "--preset sift", "samfeat_aachen"),
        ({"num_retrieved": 0}, "--num-retrieved", None),
        ({"features": "orb"}, "--feature-type orb", ("samfeat", "rootsift")),
        ({"features": "rootsift", "engine": "hloc"}, "--feature-type rootsift", "native"),
        ({"features": "rootsift", "weights": Path("a")}, "--weights", "RootSIFT"),
        ({"storage": "tiny"}, "--storage tiny", ("full", "half", "quantised")),
        ({"storage": "full", "engine": "hloc"}, "--storage full", "native"),
        ({"max_error": 0.0}, "--max-error", None),
        ({"max_error": float("nan")}, "--max-error", None),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, object], subject: str, problem: object
) -> None:
    with refused(subject, problem):
        RunOptions(**options)  # type: ignore[arg-type]


def test_rootsift_goes_the_same_way(dataset: Path, tmp_path: Path) -> None:
    options = RunOptions(features="rootsift", preset="samfeat_fast", method="rootsift")
    run = pipeline.run(dataset, tmp_path / "run", options)
    assert run.submission.name == "Aachen_v1_1_eval_[rootsift].txt"
    assert run.evaluation is not None
    assert run.evaluation.conditions["day"].recalls[(5.0, 10.0)] == 1.0
    with refused("features.h5"):
        pipeline.run(dataset, tmp_path / "run", FAST)


def test_a_reference_model_without_points(finished: Run, dataset: Path, tmp_path: Path) -> None:
    """Poses of the database photos and nothing else: they tell which photos to match."""
    shutil.copytree(dataset, tmp_path / "dataset")
    (model,) = (tmp_path / "dataset" / "3D-models").iterdir()
    posed = pycolmap.Reconstruction(str(model))
    for point in list(posed.points3D):
        posed.delete_point3D(point)
    posed.write_binary(str(model))
    run = pipeline.run(tmp_path / "dataset", tmp_path / "run", FAST)
    assert not (tmp_path / "run" / "pairs-db-covis20.txt").exists()
    listed = read_pairs(tmp_path / "run" / "pairs-db-poses20.txt")
    assert {name for pair in listed for name in pair} == set(run.dataset.db_names)
    made = [read_model(one.map_dir) for one in (finished, run)]
    assert len(made[1].point_ids) > 0.8 * len(made[0].point_ids)
    for name, image in made[0].images.items():
        assert np.allclose(made[1].images[name].pose.centre, image.pose.centre)
    assert run.evaluation is not None
    assert run.evaluation.conditions["day"].recalls[(0.25, 2.0)] == 1.0
    assert submission.check(run.submission, run.dataset) == []


def test_pictures(finished: Run) -> None:
    pictures = write_pictures(finished, "samfeat_fast")
    assert [path.name for path in pictures] == [
        "matches-day.png", "keypoints-day.png", "matches-night.png", "keypoints-night.png",
        "map.png", "overview.png",
    ]  # fmt: skip
    for path in pictures:
        image = matplotlib.image.imread(path)
        assert image.shape[0] > 200 and image.std() > 0.02
    assert not list(pictures[0].parent.glob(".*"))


def test_the_ground_is_level() -> None:
    """Upright cameras in a row along y, at one height: x and z of the world are not swapped."""
    looking = Pose(np.array([0.5, 0.5, -0.5, 0.5]), np.zeros(3))  # along +x, z up
    assert np.allclose(-looking.rotation[1], [0, 0, 1])
    poses = [Pose(looking.qvec, -looking.rotation @ np.array([0, y, 2.0])) for y in range(5)]
    plane = ground_plane(poses)
    assert np.allclose(plane @ plane.T, np.eye(3))
    assert np.allclose(plane[2], [0, 0, 1])
    assert np.allclose(plane[0], [0, 1, 0])
    assert np.allclose(ground_plane(poses[:1]) @ [0, 0, 1], [0, 0, 1])


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "aachen" / "run.py")
    for arguments, subject in (
        ([], "DATASET and --outputs"),
        (["--dataset", str(tmp_path / "none"), "--outputs", str(tmp_path / "out")], "none"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        error_line(done.stderr, subject)
    assert not list(tmp_path.iterdir())


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
