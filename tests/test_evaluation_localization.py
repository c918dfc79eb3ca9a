from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from tiny_dataset import build
from typer.testing import CliRunner

from samfeat_hloc.colmap.poses import Pose, write_poses
from samfeat_hloc.commands import submission as commands
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.datasets.queries import by_full_name
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.localization import (
    evaluate,
    position_error,
    rotation_error,
    summarize,
)

IDENTITY = np.array([1.0, 0, 0, 0])


def turned(degrees: float, centre: tuple[float, float, float] = (0, 0, 0)) -> Pose:
    """A camera at ``centre``, turned about z."""
    half = math.radians(degrees) / 2
    rotation = Pose(np.array([math.cos(half), 0, 0, math.sin(half)]), np.zeros(3))
    return Pose(rotation.qvec, -rotation.rotation @ np.array(centre))


@pytest.fixture
def dataset(tmp_path: Path) -> AachenDataset:
    """Four queries at x = 0, -1, -2, -3, and a database between 0 and 5."""
    return AachenDataset.open(build(tmp_path / "dataset"))


@pytest.mark.parametrize("degrees", [0, 1e-9, 1e-6, 1e-3, 0.1, 2, 90, 179.999, 180])
def test_rotation_error_is_the_angle(degrees: float) -> None:
    first, second = turned(30), turned(30 + degrees)
    assert rotation_error(first, second) == pytest.approx(degrees, rel=1e-6, abs=1e-13)
    negated = Pose(-second.qvec, second.tvec)
    assert rotation_error(negated, first) == pytest.approx(degrees, rel=1e-6, abs=1e-13)


VALUES = st.lists(st.floats(-10, 10), min_size=14, max_size=14).filter(
    lambda v: min(np.linalg.norm(v[:4]), np.linalg.norm(v[7:11])) > 0.1
)


@given(VALUES)
def test_errors_are_those_of_pycolmap(values: list[float]) -> None:
    poses = []
    for part in (np.array(values[:7]), np.array(values[7:])):
        poses.append(Pose(part[:4] / np.linalg.norm(part[:4]), part[4:]))
    rigid = [pose.to_rigid3d() for pose in poses]
    relative = (rigid[0] * rigid[1].inverse()).matrix()[:, :3]
    angle = math.degrees(math.acos(np.clip((np.trace(relative) - 1) / 2, -1, 1)))
    assert rotation_error(*poses) == pytest.approx(angle, abs=1e-5)
    centres = [transform.inverse().translation for transform in rigid]
    assert position_error(*poses) == pytest.approx(np.linalg.norm(centres[0] - centres[1]))
    for pose, centre, transform in zip(poses, centres, rigid, strict=True):
        np.testing.assert_allclose(pose.centre, centre, atol=1e-9)
        np.testing.assert_allclose(pose.rotation, transform.rotation.matrix(), atol=1e-12)
    assert isinstance(rigid[0], pycolmap.Rigid3d)


def test_recalls_and_medians_by_hand() -> None:
    errors = [(0.1, 1.0), (0.25, 2.0), (0.1, 3.0), (4.0, 1.0), (math.inf, math.inf)]
    result = summarize(errors, [(0.25, 2.0), (0.5, 5.0), (5.0, 10.0)])
    assert list(result.recalls.values()) == [0.4, 0.6, 0.8]
    assert (result.num_queries, result.num_localized) == (5, 4)
    assert (result.median_position, result.median_rotation) == (0.25, 2.0)
    half = summarize([(0.1, 1.0), (math.inf, math.inf)], [(0.25, 2.0)])
    assert half.median_position == math.inf


def test_evaluation_by_condition(dataset: AachenDataset) -> None:
    estimated = {
        "query/day/a.jpg": turned(0, (0.004, 0, 0)),
        "query/day/b.jpg": turned(1, (-1, 0.2, 0)),
        "query/night/c.jpg": turned(4, (-2, 0, 0.4)),
    }
    result = evaluate(estimated, dataset)
    assert list(result.conditions) == ["day", "night"]
    assert list(result.conditions["day"].recalls.items()) == [
        ((0.01, 0.1), 0.5),
        ((0.05, 0.25), 0.5),
        ((0.25, 2.0), 1.0),
        ((0.5, 5.0), 1.0),
        ((5.0, 10.0), 1.0),
    ]
    assert list(result.conditions["night"].recalls.values()) == [0, 0, 0, 0.5, 0.5]
    assert result.conditions["night"].num_localized == 1
    assert result.errors["query/night/c.jpg"] == pytest.approx((0.4, 4.0))
    assert result.warnings == []
    assert result.table().splitlines() == [
        "condition  queries  localized  0.01 m 0.1°  0.05 m 0.25°  0.25 m 2°  0.5 m 5°"
        "  5 m 10°  median m  median °",
        "day              2          2        50.0%         50.0%     100.0%    100.0%"
        "   100.0%     0.102     0.500",
        "night            2          1         0.0%          0.0%       0.0%     50.0%"
        "    50.0%         -         -",
    ]
    figures = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert figures["conditions"]["day"]["recalls"][2] == {
        "metres": 0.25,
        "degrees": 2.0,
        "recall": 1.0,
    }
    assert figures["queries"]["query/night/d.jpg"] == {"metres": None, "degrees": None}


def test_the_town_against_itself(shared: Path) -> None:
    town = AachenDataset.open(shared / "data" / "town")
    assert town.ground_truth is not None
    result = evaluate(town.ground_truth, town)
    assert result.warnings == []
    for condition in result.conditions.values():
        assert set(condition.recalls.values()) == {1.0}
        assert condition.num_queries == 17 and condition.median_rotation == 0
    assert {v for c in evaluate({}, town).conditions.values() for v in c.recalls.values()} == {0.0}


def test_ground_truth_in_the_wrong_convention_is_noticed(shared: Path) -> None:
    town = AachenDataset.open(shared / "data" / "town")
    assert town.ground_truth is not None
    inverted = {name: pose.inverse() for name, pose in town.ground_truth.items()}
    warnings = evaluate({}, dataclasses.replace(town, ground_truth=inverted)).warnings
    assert len(warnings) == 1 and "camera-to-world" in warnings[0]
    last = {n: Pose(np.roll(pose.qvec, -1), pose.tvec) for n, pose in town.ground_truth.items()}
    warnings = evaluate({}, dataclasses.replace(town, ground_truth=last)).warnings
    assert len(warnings) == 1 and "qx qy qz qw" in warnings[0]
    centres = {n: Pose(pose.qvec, pose.centre) for n, pose in town.ground_truth.items()}
    warnings = evaluate({}, dataclasses.replace(town, ground_truth=centres)).warnings
    assert len(warnings) == 1 and "centres in place of translations" in warnings[0]
    far = {name: Pose(pose.qvec, pose.tvec + 1e5) for name, pose in town.ground_truth.items()}
    warnings = evaluate({}, dataclasses.replace(town, ground_truth=far)).warnings
    assert len(warnings) == 1 and "in the model's frame" in warnings[0]


def test_partial_and_missing_ground_truth(dataset: AachenDataset) -> None:
    assert dataset.ground_truth is not None
    partial = {
        name: dataset.ground_truth[name] for name in ("query/day/a.jpg", "query/night/c.jpg")
    }
    result = evaluate(
        {"query/day/a.jpg": partial["query/day/a.jpg"], "z.jpg": turned(0)},
        dataclasses.replace(dataset, ground_truth=partial),
    )
    assert [c.num_queries for c in result.conditions.values()] == [1, 1]
    assert result.conditions["day"].recalls[0.01, 0.1] == 1
    assert result.warnings == [
        "2 queries have no ground truth; left out",
        "1 poses match no query, e.g. z.jpg; left out",
    ]
    with refused("ground_truth.txt", "no such", "upload"):
        evaluate({}, dataclasses.replace(dataset, ground_truth=None))
    with refused("ground_truth.txt", "4 queries"):
        evaluate({}, dataclasses.replace(dataset, ground_truth={"z.jpg": turned(0)}))


def test_names_with_any_of_their_folders_stand_for_the_query(dataset: AachenDataset) -> None:
    queries = dataset.queries
    given = {"a.jpg": 1, "day/b.jpg": 2, "query/night/c.jpg": 3, "e.jpg": 4}
    assert by_full_name(given, queries, "poses.txt") == {
        "query/day/a.jpg": 1,
        "query/day/b.jpg": 2,
        "query/night/c.jpg": 3,
        "e.jpg": 4,
    }
    with refused("poses.txt", ("query/day/a.jpg", "twice")):
        by_full_name({"a.jpg": 1, "day/a.jpg": 2}, queries, "poses.txt")
    twin = dataclasses.replace(queries[0], name="query/night/a.jpg")
    assert by_full_name({"night/a.jpg": 1}, [*queries, twin], "p") == {"query/night/a.jpg": 1}
    with refused(problem=("'a.jpg'", "query/day/a.jpg", "query/night/a.jpg")):
        by_full_name({"a.jpg": 1}, [*queries, twin], "p")


def test_command(dataset: AachenDataset, tmp_path: Path) -> None:
    app = typer.Typer()
    commands.register(app)
    assert dataset.ground_truth is not None
    full = {query.name: dataset.ground_truth[query.name] for query in dataset.queries}
    poses = write_poses(tmp_path / "poses.txt", full)
    arguments = ["eval", "localization", str(poses), "--dataset", str(dataset.root)]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "figures.json")])
    assert result.exit_code == 0 and "100.0%" in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["conditions"]["night"]["num_localized"] == 2
    del full[dataset.queries[-1].name]
    write_poses(poses, full)
    result = CliRunner().invoke(app, arguments)
    assert f"no pose for 1 of 4 queries, e.g. {dataset.queries[-1].name};" in result.stdout
    poses.write_text("a.jpg 1 0 0 0\n")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SamfeatError)
