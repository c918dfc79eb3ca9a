"""RobotCar's three cameras localized as the rig that they are, from photos to poses."""

from __future__ import annotations

from pathlib import Path

import layouts
import numpy as np
import pytest
from refusals import refused
from small_city import City

from samfeat_hloc.datasets.registry import open_dataset
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.pipelines.run import run
from samfeat_hloc.pipelines.run_options import RunOptions

FIRST, SECOND = "dawn/rear/2000.jpg", "dawn/left/2000.jpg"


@pytest.fixture()
def robotcar(city: City, tmp_path: Path) -> Path:
    """The city's two queries taken at once; the car's frame is turned, and 3 m from the rear
    camera."""
    root = layouts.robotcar(tmp_path / "robotcar", city)
    (root / "images" / "dawn" / "left").mkdir()
    (root / "images" / "night" / "left" / "2000.jpg").rename(root / "images" / SECOND)
    (root / "robotcar_v2_test.txt").write_text(f"{SECOND}\n")
    car = np.array([[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # from world
    first, second = city.queries
    (root / "extrinsics").mkdir()
    for side, pose in (("rear", first.pose), ("left", second.pose), ("right", first.pose)):
        camera = np.eye(4)
        camera[:3, :3], camera[:3, 3] = pose.rotation.T, pose.centre
        rows = [",".join(f"{value:.12f}" for value in row) for row in car @ camera]
        (root / "extrinsics" / f"{side}_extrinsics.txt").write_text("\n".join(rows) + "\n")
    return root


def test_robotcar_is_localized_as_a_rig(city: City, robotcar: Path, tmp_path: Path) -> None:
    options = RunOptions(
        preset="samfeat_fast", places=False, benchmark="robotcar", rig="dataset", num_retrieved=8
    )
    found = run(robotcar, tmp_path / "out", options)
    poses = found.result.poses
    for name, shot in zip((FIRST, SECOND), city.queries, strict=True):
        assert position_error(poses[name], shot.pose) < 0.1
        assert rotation_error(poses[name], shot.pose) < 0.5
        frame = found.result.queries[name].frame
        assert frame is not None and frame.queries == [SECOND, FIRST]  # as the lists have them
    # the cameras stand as the dataset says, whatever the photos show
    between = city.queries[1].pose @ city.queries[0].pose.inverse()
    relative = poses[SECOND] @ poses[FIRST].inverse()
    assert position_error(relative, between) < 1e-6
    assert rotation_error(relative, between) < 1e-4


def test_what_robotcar_has_to_have_for_it(robotcar: Path) -> None:
    path = robotcar / "extrinsics" / "left_extrinsics.txt"
    good = path.read_text()
    dataset = open_dataset(robotcar, "robotcar")
    assert dataset.frames is not None
    (frame,) = dataset.frames()
    assert [name for _, name in frame.photos] == [SECOND, FIRST]
    for bad in (good.replace(",", ",1", 1), "1,0,0,0\n", "a,b\n"):
        path.write_text(bad)
        with refused("left_extrinsics.txt"):
            dataset.frames()
    path.unlink()
    with refused("left_extrinsics.txt", "no such file"):
        dataset.frames()
