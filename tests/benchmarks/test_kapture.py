"""kapture's folders become hloc's files, and are evaluated like ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_city import City, numbers
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.poses import Pose, read_poses
from samfeat_hloc.datasets.kapture import read_kapture, write_features, write_matches
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader


def write_kapture(root: Path, city: City, *, rig: bool = False) -> Path:
    """The city's queries with poses, and two database photos with features and matches."""
    sensors, reconstruction = root / "sensors", root / "reconstruction"
    sensors.mkdir(parents=True)
    shots = [*city.queries, *city.database[:2]]
    lines = ["# kapture format: 1.1\n"]
    for number, shot in enumerate(shots):
        params = ", ".join(repr(value) for value in shot.camera.params)
        lines.append(f"cam{number}, , camera, PINHOLE, 320.0, 240.0, {params}\n")
    (sensors / "sensors.txt").write_text("".join([*lines, "gps, , gnss, EPSG:4326\n"]))
    records = [f"{i}, cam{i}, {shot.name}\n" for i, shot in enumerate(shots)]
    (sensors / "records_camera.txt").write_text("".join(records))
    half = np.sqrt(0.5)
    turn = Pose(np.array([half, 0, half, 0]), np.array([0.1, 0.2, 0.3]))  # the camera from a rig
    placed = []
    for number, shot in enumerate(shots):
        pose = turn.inverse() @ shot.pose if rig else shot.pose
        device = f"rig{number}" if rig else f"cam{number}"
        values = numbers(pose.qvec, pose.tvec).replace(" ", ", ")
        placed.append(f"{number}, {device}, {values}\n")
    (sensors / "trajectories.txt").write_text("".join(placed))
    if rig:
        values = numbers(turn.qvec, turn.tvec).replace(" ", ", ")
        rigs = [f"rig{i}, cam{i}, {values}\n" for i in range(len(shots))]
        (sensors / "rigs.txt").write_text("".join(rigs))
    rng = np.random.default_rng(0)
    for kind, size, suffix in (("keypoints", 4, ".kpt"), ("descriptors", 128, ".desc")):
        folder = reconstruction / kind / "r2d2"
        for shot in shots:
            path = folder / f"{shot.name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng.random((50, size), dtype=np.float32).tofile(path)
        (folder / f"{kind}.txt").write_text(f"# kapture\nr2d2, float32, {size}\n")
    first, second = sorted((shots[2].name, shots[3].name))
    path = reconstruction / "matches" / "r2d2" / f"{first}.overlapping" / f"{second}.matches"
    path.parent.mkdir(parents=True)
    np.array([[3, 7, 0.5], [4, 1, 0.9]]).tofile(path)
    return root


@pytest.mark.parametrize("rig", [False, True])
def test_poses_features_and_matches(city: City, tmp_path: Path, rig: bool) -> None:
    folder = write_kapture(tmp_path / "kapture", city, rig=rig)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["kapture", str(folder), "--outputs", str(out)])
    assert result.exit_code == 0, result.output
    poses = read_poses(out / "poses.txt")
    for shot in city.queries:
        assert np.allclose(poses[shot.name].rotation, shot.pose.rotation)
        assert np.allclose(poses[shot.name].tvec, shot.pose.tvec)
    first, second = city.database[0].name, city.database[1].name
    assert (out / "pairs.txt").read_text() == f"{first} {second}\n"
    stored = np.fromfile(folder / "reconstruction/keypoints/r2d2" / f"{first}.kpt", np.float32)
    with FeatureReader(out / "features.h5") as reader:
        assert np.allclose(reader.keypoints(first) - 0.5, stored.reshape(-1, 4)[:, :2])
        assert reader.image_size(first) == (320, 240)
    with MatchReader(out / "matches.h5") as matches:
        assert matches.matches(first, second).tolist() == [[3, 7], [4, 1]]
    result = CliRunner().invoke(app, ["kapture", str(folder), "--outputs", str(out)])
    assert result.exit_code == 1 and "there is something in this folder" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("sensors/sensors.txt", "PINHOLE", "PINE", r"sensors\.txt:2: unknown camera model"),
        ("sensors/trajectories.txt", "0, cam0, ", "0, cam0, 9, ", r"trajectories\.txt:1: "),
        ("sensors/records_camera.txt", "cam0, ", "cam0 ", r"records_camera\.txt:1: 2 values"),
        ("sensors/records_camera.txt", "query/day", "../x", "climbs out"),
        ("reconstruction/keypoints/r2d2/keypoints.txt", "32, 4", "32, 7", "not 7 values of float"),
        ("reconstruction/keypoints/r2d2/keypoints.txt", "float32", "real", "unknown type 'real'"),
        ("reconstruction/keypoints/r2d2/keypoints.txt", "32, 4", "32, 2", "100 keypoints and 50"),
    ],
)
def test_malformed_files(
    city: City, tmp_path: Path, name: str, old: str, new: str, told: str
) -> None:
    folder = write_kapture(tmp_path / "kapture", city)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(SamfeatError, match=told):
        write_features(read_kapture(folder), tmp_path / "features.h5")


def test_matches_of_other_features(city: City, tmp_path: Path) -> None:
    folder = write_kapture(tmp_path / "kapture", city)
    content = read_kapture(folder)
    (path,) = (folder / "reconstruction" / "matches").rglob("*.matches")
    np.array([[50, 7, 0.5]]).tofile(path)
    with pytest.raises(SamfeatError, match=r"it names keypoints that db/db_000\.jpg has not"):
        write_matches(content, tmp_path / "matches.h5")
    np.array([[7, 50, 0.5]]).tofile(path)
    with pytest.raises(SamfeatError, match=r"it names keypoints that db/db_001\.jpg has not"):
        write_matches(content, tmp_path / "matches.h5")
    np.array([50.0, 7]).tofile(path)
    with pytest.raises(SamfeatError, match="not matches of images with keypoints"):
        write_matches(content, tmp_path / "matches.h5")
    shutil.copytree(
        folder / "reconstruction" / "keypoints" / "r2d2",
        folder / "reconstruction" / "keypoints" / "disk",
    )
    with pytest.raises(SamfeatError, match=r"several types \(disk, r2d2\)"):
        write_features(content, tmp_path / "features.h5")
