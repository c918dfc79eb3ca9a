"""Relative pose of pairs: the list's format, angles and areas by hand, pycolmap, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
import typer
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.commands import evaluation as commands
from samfeat_hloc.evaluation import relative_pose

K0 = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
K1 = np.array([[600.0, 0, 300], [0, 590, 250], [0, 0, 1]])
POSE = np.eye(4)
POSE[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.2, 0.15]))[0]
POSE[:3, 3] = [0.5, 0.1, -0.2]


def line(name0: str = "a.png", name1: str = "b.png", rot: str = "0 0", pose: object = POSE) -> str:
    values = [*K0.ravel(), *K1.ravel(), *np.asarray(pose).ravel()]
    return f"{name0} {name1} {rot} " + " ".join(f"{value:.9g}" for value in values)


def views(count: int = 200, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    world = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    moved = world @ POSE[:3, :3].T + POSE[:3, 3]
    projected = [p @ k.T for p, k in ((world, K0), (moved, K1))]
    return tuple(p[:, :2] / p[:, 2:] + rng.normal(0, noise, (count, 2)) for p in projected)  # type: ignore[return-value]


def test_list(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(f"# comment\n{line()}\n\n{line('d/c.png', rot='0 3')}\n")
    first, second = relative_pose.read_list(path)
    assert first.names == ("a.png", "b.png")
    assert second.turns == (0, 3)
    np.testing.assert_allclose(first.intrinsics[1], K1)
    np.testing.assert_allclose(first.rotation, POSE[:3, :3], atol=1e-8)
    np.testing.assert_allclose(first.translation, POSE[:3, 3])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (line()[:-4], "38"),
        (line() + " 1", ("39", "38")),
        (line().replace("510", "x"), "'x'"),
        (line().replace("510", "nan"), "'nan'"),
        (line(rot="0 4"), "'0 4'"),
        (line("../a.png"), "../a.png"),
        (line(pose=np.zeros((4, 4))), "rigid"),
        (line(pose=np.diag([1.0, 1, -1, 1])), "rigid"),
        (line(pose=np.eye(4)), "one place"),
        (line().replace("500", "-500"), "K0"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, text: str, problem: object) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(f"{line()}\n{text}\n")
    with refused("pairs.txt:2", problem):
        relative_pose.read_list(path)
    path.write_text("\n")
    with refused("pairs.txt", "no pairs"):
        relative_pose.read_list(path)


def test_angles_by_hand_and_by_pycolmap() -> None:
    quarter = cv2.Rodrigues(np.array([0, 0, np.pi / 2]))[0]
    assert relative_pose.rotation_angle(np.eye(3), quarter) == pytest.approx(90)
    assert relative_pose.rotation_angle(quarter, quarter @ quarter @ quarter) == pytest.approx(180)
    tiny = cv2.Rodrigues(np.array([1e-7, 0, 0]))[0]
    assert relative_pose.rotation_angle(np.eye(3), tiny) == pytest.approx(np.degrees(1e-7))
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = (cv2.Rodrigues(rng.normal(0, 1, 3))[0] for _ in range(2))
        angle = pycolmap.Rotation3d(a).inverse() * pycolmap.Rotation3d(b)
        assert relative_pose.rotation_angle(a, b) == pytest.approx(np.degrees(angle.angle()))
    x, y = np.array([1.0, 0, 0]), np.array([0.0, 2, 0])
    assert relative_pose.direction_angle(x, y) == pytest.approx(90)
    assert relative_pose.direction_angle(x, -3 * x) == 0  # the sign is not known
    assert relative_pose.direction_angle(x, x - y / 2) == pytest.approx(45)


@pytest.mark.parametrize("estimator", relative_pose.ESTIMATORS)
def test_pose_is_recovered_among_outliers_and_always_the_same(estimator: str) -> None:
    if estimator == "poselib":
        pytest.importorskip("poselib")
    points0, points1 = views(300, 0.3)
    points1[:100] = np.random.default_rng(5).uniform(0, 480, (100, 2))
    found = [relative_pose.estimate(points0, points1, K0, K1, estimator=estimator) for _ in "12"]
    assert found[0] is not None
    assert found[1] is not None
    rotation, translation, inliers = found[0]
    np.testing.assert_array_equal(rotation, found[1][0])
    assert relative_pose.rotation_angle(rotation, POSE[:3, :3]) < 0.3
    assert relative_pose.direction_angle(translation, POSE[:3, 3]) < 1.5
    assert translation @ POSE[:3, 3] > 0
    assert np.linalg.norm(translation) == pytest.approx(1)
    assert inliers[100:].mean() > 0.8
    assert inliers[:100].mean() < 0.2
    assert relative_pose.estimate(points0[:4], points1[:4], K0, K1, estimator=estimator) is None
    same = np.ones((20, 2))
    relative_pose.estimate(same, same, K0, K1, estimator=estimator)  # degenerate: no exception
    with refused("estimator", "magic", "pycolmap"):
        relative_pose.estimate(points0, points1, K0, K1, estimator="magic")


def test_summary_by_hand() -> None:
    results = [
        relative_pose.PoseResult(("a", "b"), 10, 8, 1.0, 4.0),
        relative_pose.PoseResult(("a", "c"), 20, 0, np.inf, np.inf),
    ]
    summary = relative_pose.summarize(results)
    # The larger angle, 4, counts: a half of the pairs from 4 on.
    assert summary["auc"]["5"] == pytest.approx(0.5 * 1 / 5)
    assert summary["num_failed"] == 1
    assert summary["matches_per_pair"] == 15
    assert summary["median_rotation_degrees"] is None


def test_command_and_turned_images(tmp_path: Path) -> None:
    points0, points1 = views()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((480, 640), np.uint8))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, points in (("a.png", points0), ("b.png", points1)):
            file[f"{name}/keypoints"] = points.astype(np.float32)
            file[f"{name}/descriptors"] = np.eye(len(points), dtype=np.float32)
    (tmp_path / "pairs.txt").write_text(line() + "\n")
    app = typer.Typer()
    commands.register(app)
    features = f"exact={tmp_path / 'f.h5'}"
    arguments = ["eval", "pairs", str(tmp_path / "pairs.txt"), "--images", str(tmp_path),
                 "--features", features, "--outputs", str(tmp_path / "out"),
                 "--estimator", "pycolmap"]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out/pairs.json").read_text())
    assert document["methods"]["exact"]["auc"]["5"] > 0.99
    assert document["pairs"]["exact"][0]["matches"] == 200
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["a.png/image_size"] = [320, 240]
    with refused("a.png", ("640 x 480", "320 x 240")):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    (tmp_path / "a.png").unlink()  # features alone will do
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    (tmp_path / "pairs.txt").write_text(f"{line()}\n{line(rot='1 0')}\n")
    with refused("pairs.txt", ("a.png", "0", "1")):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
