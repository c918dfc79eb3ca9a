from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from tiny_dataset import CAMERA, build
from typer.testing import CliRunner

from samfeat_hloc.colmap.poses import Pose, read_poses, write_poses
from samfeat_hloc.commands import submission as commands
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.localization.submission import check, make


@pytest.fixture
def dataset(tmp_path: Path) -> AachenDataset:
    return AachenDataset.open(build(tmp_path / "dataset"))


@pytest.fixture
def poses(dataset: AachenDataset) -> dict[str, Pose]:
    return {
        name: Pose(np.array([2.0, 0, 0, i]), np.arange(3.0))
        for i, name in enumerate(reversed(dataset.query_names))
    }


GOOD = [f"{name}.jpg 1 0 0 0 1.5 -2 3e-1" for name in "abcd"]


def problems(dataset: AachenDataset, lines: list[str]) -> list[str]:
    path = dataset.root.parent / "submission.txt"
    path.write_text("\n".join(lines) + "\n")
    return check(path, dataset)


def test_a_submission_of_the_town(shared: Path, tmp_path: Path) -> None:
    town = AachenDataset.open(shared / "data" / "town")
    assert town.ground_truth is not None
    poses = {query.name: town.ground_truth[query.name] for query in town.queries}
    path = make(poses, town, tmp_path / "outputs")
    assert path == tmp_path / "outputs" / "Aachen_v1_1_eval_[samfeat].txt"
    assert check(path, town) == []
    lines = path.read_text().splitlines()
    assert [line.split()[0] for line in lines] == [query.base_name for query in town.queries]
    assert check(town.root / "queries" / "ground_truth.txt", town) == []


def test_lines_are_base_names_and_unit_quaternions_in_list_order(
    dataset: AachenDataset, poses: dict[str, Pose], tmp_path: Path
) -> None:
    path = make(poses, dataset, tmp_path, method="my-method.2")
    assert path.name == "Aachen_v1_1_eval_[my-method.2].txt"
    assert list(read_poses(path)) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    values = np.array([line.split()[1:5] for line in path.read_text().splitlines()], float)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-15)


def test_nothing_is_written_for_incomplete_poses(
    dataset: AachenDataset, poses: dict[str, Pose], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    missing = {name: pose for name, pose in poses.items() if "night" not in name}
    with refused("[samfeat].txt", ("night", "2 of 2", "c.jpg, d.jpg")):
        make(missing, dataset, out)
    with refused("[samfeat].txt", "db/1.jpg"):
        make({**poses, "db/1.jpg": poses["query/day/a.jpg"]}, dataset, out)
    bad = Pose(np.eye(4)[0], np.array([0, np.nan, 0]))
    with refused("[samfeat].txt", ("a.jpg", "NaN")):
        make({**poses, "query/day/a.jpg": bad}, dataset, out)
    for method in ("", "a/b", "..", "a b"):
        with refused(f"--method {method!r}", "file name"):
            make(poses, dataset, out, method=method)
    assert not out.exists()


def test_base_names_that_collide_are_refused(tmp_path: Path, poses: dict[str, Pose]) -> None:
    root = build(tmp_path / "colliding")
    (root / "images_upright" / "query" / "night" / "a.jpg").touch()
    night = root / "queries" / "night_time_queries_with_intrinsics.txt"
    night.write_text(night.read_text() + f"query/night/a.jpg {CAMERA}\n")
    with refused("ground_truth.txt", ("'a.jpg'", "query/day/a.jpg", "query/night/a.jpg")):
        AachenDataset.open(root)
    (root / "queries" / "ground_truth.txt").write_text("night/a.jpg 1 0 0 0 0 0 0\n")
    dataset = AachenDataset.open(root)
    every = {name: Pose(np.eye(4)[0], np.zeros(3)) for name in dataset.query_names}
    with refused("colliding", ("query/day/a.jpg", "query/night/a.jpg"), "rename"):
        make(every, dataset, tmp_path / "out")


def test_a_good_submission_has_no_problems(dataset: AachenDataset) -> None:
    assert problems(dataset, GOOD) == []
    assert problems(dataset, [*GOOD, "", ""]) == []
    assert problems(dataset, [line + "\r" for line in GOOD]) == []


@pytest.mark.parametrize("wrong", ["inverted", "centres", "xyzw", "mirrored"])
def test_poses_of_another_convention_are_told(shared: Path, tmp_path: Path, wrong: str) -> None:
    """Every line is well formed, and every one would score 0."""
    town = AachenDataset.open(shared / "data" / "town")
    assert town.ground_truth is not None
    change = {
        "inverted": lambda pose: pose.inverse(),
        "centres": lambda pose: Pose(pose.qvec, pose.centre),
        "xyzw": lambda pose: Pose(np.roll(pose.qvec, -1), pose.tvec),
        "mirrored": turned_round,
    }[wrong]
    path = make({n: change(pose) for n, pose in town.ground_truth.items()}, town, tmp_path)
    told = {
        "inverted": "camera-to-world",
        "centres": "centres in place of translations",
        "xyzw": "written qx qy qz qw",
        "mirrored": "look away",
    }[wrong]
    (problem,) = check(path, town)
    assert told in problem
    assert check(make(town.ground_truth, town, tmp_path), town) == []


def turned_round(pose: Pose) -> Pose:
    """At the same place, looking the other way: y and z of the camera point back."""
    rotation = np.diag([1.0, -1, -1]) @ pose.rotation
    half = Pose(np.array([0.0, 1, 0, 0]), np.zeros(3)).to_rigid3d()  # half a turn about x
    turned = Pose.from_rigid3d(half * pose.to_rigid3d())
    np.testing.assert_allclose(turned.rotation, rotation, atol=1e-9)
    return turned


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("b.jpg 1 0 0 0 0 0", "7 values where 8 are needed"),
        ("b.jpg 1 0 0 0 0 0 0 0", "9 values where 8 are needed"),
        ("b.jpg 1 0 0 0 0 0 nan", "'nan' is not a finite number"),
        ("b.jpg 1 0 0 0 0 0 x", "'x' is not a finite number"),
        ("b.jpg 0 0 0 0 0 0 0", "length 0 instead of 1"),
        ("b.jpg 1 0.1 0 0 0 0 0", "length 1.00499 instead of 1"),
        ("query/day/b.jpg 1 0 0 0 0 0 0", "has a folder; write the base name 'b.jpg'"),
        ("\ufeffb.jpg 1 0 0 0 0 0 0", "matches no query"),
    ],
)
def test_problems_have_the_number_of_their_line(
    dataset: AachenDataset, line: str, wrong: str
) -> None:
    found = problems(dataset, [GOOD[0], line, *GOOD[2:]])
    assert found[0].startswith("line 2: ") and wrong in found[0]
    # A line that names its query does not count as missing too.
    assert len(found) == (2 if "\ufeff" in line else 1)


def test_all_problems_are_told_at_once(dataset: AachenDataset) -> None:
    lines = ["\ufeff# mine", "x.jpg 1 0 0 0 0 0 0", GOOD[0], GOOD[0], "q/b.jpg 2 0 0 0 0 0 0"]
    assert problems(dataset, lines) == [
        "line 1: starts with a byte-order mark; save as UTF-8 without it",
        "line 1: a comment; only poses belong in a submission",
        "line 2: 'x.jpg' matches no query of the lists",
        "line 4: 'a.jpg' is on line 3 already",
        "line 5: 'q/b.jpg' has a folder; write the base name 'b.jpg'",
        "line 5: the quaternion has length 2 instead of 1",
        "night: 2 of 2 missing, e.g. c.jpg, d.jpg",
    ]


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from([*GOOD, "a.jpg", "nan", "\n", "1", "2", "\ufeff"])).map(" ".join),
    )
)
def test_any_text_has_problems_and_no_exception(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    base = tmp_path_factory.getbasetemp()
    if not (base / "any_dataset").exists():
        build(base / "any_dataset")
    (base / "any.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = check(base / "any.txt", AachenDataset.open(base / "any_dataset"))
        assert all("\n" not in problem for problem in found)
        if not found:
            assert len(read_poses(base / "any.txt")) == 4
    except SamfeatError:
        pass


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands.register(app)
    return app


def test_commands(
    app: typer.Typer, dataset: AachenDataset, poses: dict[str, Pose], tmp_path: Path
) -> None:
    runner = CliRunner()
    write_poses(tmp_path / "poses.txt", poses)
    options = ["--dataset", str(dataset.root)]
    outputs = ["--outputs", str(tmp_path / "out"), "--method", "mine"]
    result = runner.invoke(
        app,
        ["submission", "make", str(tmp_path / "poses.txt"), *options, *outputs],
    )
    path = tmp_path / "out" / "Aachen_v1_1_eval_[mine].txt"
    assert result.exit_code == 0 and result.stdout.strip() == str(path)

    result = runner.invoke(app, ["submission", "check", str(path), *options])
    assert result.exit_code == 0 and "all 4 queries (2 day, 2 night)" in result.stdout
    path.write_text("\n".join([GOOD[0], GOOD[1].replace("1", "nan")]))
    result = runner.invoke(app, ["submission", "check", str(path), *options])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{path}: line 2: 'nan' is not a finite number",
        f"{path}: night: 2 of 2 missing, e.g. c.jpg, d.jpg",
    ]

    result = runner.invoke(app, ["submission", "check", str(tmp_path / "none.txt"), *options])
    assert result.exit_code == 1 and isinstance(result.exception, SamfeatError)
    result = runner.invoke(
        app, ["submission", "check", str(path), "--dataset", str(tmp_path / "none")]
    )
    assert result.exit_code == 1 and isinstance(result.exception, SamfeatError)


def test_the_eval_group_is_shared(dataset: AachenDataset) -> None:
    app = typer.Typer()
    group = typer.Typer()
    app.add_typer(group, name="eval")
    group.command("other")(lambda: None)
    commands.register(app)
    result = CliRunner().invoke(app, ["eval", "--help"])
    assert "other" in result.stdout and "localization" in result.stdout
