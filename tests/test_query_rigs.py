"""Queries that a rig's cameras took at once, in the stages of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mapped_scene
import numpy as np
import pycolmap
import pytest
from mapped_scene import BLIND, CAMERA, QUERIES, Files
from refusals import error_line, refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app, main
from samfeat_hloc.colmap.poses import Pose, read_poses
from samfeat_hloc.colmap.rig_config import Frame, RigCamera
from samfeat_hloc.datasets.rigs import frames_from, frames_of_queries
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.localization import localize, mapping
from samfeat_hloc.localization.query_poses import Matched, QueryPoses
from samfeat_hloc.localization.result import FALLBACK, LOCALIZED
from samfeat_hloc.pipelines.run_options import RunOptions

SEES = QUERIES[0]  # stands in a rig with BLIND, which sees noise only


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    built = mapped_scene.build(tmp_path_factory.mktemp("dataset"))
    mapping.main(built.mapping(), built.root / "map")
    return built


def blind_from_rig(files: Files) -> Pose:
    return files.scene.poses[BLIND] @ files.scene.poses[SEES].inverse()


def frame(files: Files) -> Frame:
    cameras = {SEES: Pose(np.array([1.0, 0, 0, 0]), np.zeros(3)), BLIND: blind_from_rig(files)}
    return Frame("1", [(RigCamera("", pose, None, ()), name) for name, pose in cameras.items()])


def test_a_photo_that_sees_nothing_has_the_pose_of_its_rig(files: Files, tmp_path: Path) -> None:
    alone = localize.main(files.localization(), tmp_path / "alone.txt")
    output = tmp_path / "poses.txt"
    found = localize.main(files.localization(frames=[frame(files)]), output)
    for name in (SEES, BLIND):
        query = found.queries[name]
        assert query.status == LOCALIZED and not query.weak
        assert position_error(query.pose, files.scene.poses[name]) < 0.03
        assert rotation_error(query.pose, files.scene.poses[name]) < 0.15
        assert query.frame is not None and query.frame.queries == [SEES, BLIND]
    assert alone.queries[BLIND].status == FALLBACK or alone.queries[BLIND].weak
    # the cameras stand as the rig says, to the last digit
    relative = found.poses[BLIND] @ found.poses[SEES].inverse()
    assert position_error(relative, blind_from_rig(files)) < 1e-9
    assert rotation_error(relative, blind_from_rig(files)) < 1e-5
    # what a frame has is what its photos have; the third query is in none
    frame_of, blind, sees = found.queries[SEES].frame, found.queries[BLIND], found.queries[SEES]
    assert frame_of is not None
    assert frame_of.num_matched == sees.num_matched + blind.num_matched
    agreeing = [len(set(query.inlier_keypoints.tolist())) for query in (sees, blind)]
    assert agreeing[0] > 100 > 30 > agreeing[1] and frame_of.num_agreeing == sum(agreeing)
    other = found.queries[QUERIES[1]]
    assert other.frame is None
    np.testing.assert_array_equal(other.pose.tvec, alone.poses[QUERIES[1]].tvec)
    # and all of it is read back, and is not that of a run without the rig
    again = localize.main(files.localization(frames=[frame(files)]), output)
    assert again.skipped
    assert [q.frame for q in again.queries.values()] == [frame_of, None, frame_of]
    with refused("poses.txt", "frames"):
        localize.main(files.localization(), output)


def test_a_run_that_was_stopped_goes_on_with_whole_frames(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, output = files.localization(frames=[frame(files)]), tmp_path / "poses.txt"
    whole = localize.main(inputs, tmp_path / "whole.txt")
    finish = QueryPoses.finish
    asked: list[list[str]] = []

    def stop(self: QueryPoses, matched: Matched, *solved: Any) -> object:
        asked.append([query.name for query, _ in matched.task.photos])
        if asked[-1] == [QUERIES[1]] and len(asked) < 3:
            raise KeyboardInterrupt
        return finish(self, matched, *solved)

    monkeypatch.setattr(QueryPoses, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        localize.main(inputs, output, workers=1)
    found = localize.main(inputs, output, workers=1)
    assert asked == [[SEES, BLIND], [QUERIES[1]], [QUERIES[1]]]  # the frame once
    for name in QUERIES:
        np.testing.assert_array_equal(found.poses[name].tvec, whole.poses[name].tvec)


# ---- the files that say which photos were taken at once ----


def as_rig_config(folder: Path, pose: Pose) -> Path:
    other = {
        "image_prefix": "query/night/", "cam_from_rig_rotation": pose.qvec.tolist(),
        "cam_from_rig_translation": pose.tvec.tolist(), "camera_model_name": "PINHOLE",
        "camera_params": list(CAMERA.params),
    }  # fmt: skip
    first = {"image_prefix": "query/day/", "ref_sensor": True}
    path = folder / "rig_config.json"
    path.write_text(json.dumps([{"cameras": [first, other]}]))
    return path


def as_model(folder: Path, pose: Pose) -> Path:
    model = pycolmap.Reconstruction()
    rig = pycolmap.Rig(rig_id=3)
    for number in (1, 2):
        camera = CAMERA.to_pycolmap()
        camera.camera_id = number
        model.add_camera(camera)
        if number == 1:
            rig.add_ref_sensor(camera.sensor_id)
        else:
            rig.add_sensor(camera.sensor_id, pose.to_rigid3d())
    model.add_rig(rig)
    placed = pycolmap.Frame(frame_id=5, rig_id=3, rig_from_world=pycolmap.Rigid3d())
    images = []
    for number, name in ((1, "query/day/a.jpg"), (2, "query/night/a.jpg")):
        image = pycolmap.Image(name=name, camera_id=number, image_id=number)
        image.frame_id = 5
        placed.add_data_id(image.data_id)
        images.append(image)
    model.add_frame(placed)
    for image in images:
        model.add_image(image)
    model.register_frame(5)
    (folder / "model").mkdir()
    model.write(folder / "model")
    return folder / "model"


def as_kapture(folder: Path, pose: Pose) -> Path:
    sensors = folder / "kapture" / "sensors"
    sensors.mkdir(parents=True)
    params = ", ".join(map(str, CAMERA.params))
    size = f"{CAMERA.width}, {CAMERA.height}"
    (sensors / "sensors.txt").write_text(
        f"left, , camera, PINHOLE, {size}, {params}\nright, , camera, PINHOLE, {size}, {params}\n"
        "gps, , gnss, EPSG:4326\n"
    )
    values = ", ".join(repr(float(value)) for value in [*pose.qvec, *pose.tvec])
    (sensors / "rigs.txt").write_text(f"car, left, 1, 0, 0, 0, 0, 0, 0\ncar, right, {values}\n")
    (sensors / "records_camera.txt").write_text(
        "17, left, query/day/a.jpg\n17, right, query/night/a.jpg\n18, left, query/day/b.jpg\n"
    )
    return folder / "kapture"


@pytest.mark.parametrize("write", [as_rig_config, as_model, as_kapture])
def test_frames_are_the_same_from_every_file(
    tmp_path: Path, write: Callable[[Path, Pose], Path]
) -> None:
    if write is as_model and not hasattr(pycolmap, "Rig"):
        pytest.skip("this pycolmap has no rigs")
    half = np.sqrt(0.5)
    pose = Pose(np.array([half, 0, half, 0]), np.array([0.1, 0.2, 0.3]))
    path = write(tmp_path, pose)
    names = ["query/day/a.jpg", "c.jpg", "query/night/a.jpg"]
    (found,), others = frames_from(path, names)
    assert [name for _, name in found.photos] == ["query/day/a.jpg", "query/night/a.jpg"]
    assert others == ["c.jpg"]
    first, second = (camera.cam_from_rig for camera, _ in found.photos)
    np.testing.assert_allclose(first.qvec, [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(first.tvec, [0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(second.qvec, pose.qvec, atol=1e-12)
    np.testing.assert_allclose(second.tvec, pose.tvec, atol=1e-12)
    assert found.photos[1][0].intrinsics(CAMERA.width, CAMERA.height) == CAMERA
    assert frames_of_queries(str(path), names)[0].photos[1][1] == "query/night/a.jpg"
    with refused(f"--rig {path}", "no two of the 2 queries"):
        frames_of_queries(str(path), names[:2])


def test_what_is_no_rig(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(files.root.name, "kapture"):
        frames_from(files.root, QUERIES)
    with refused("map", "no frame"):
        frames_from(files.root / "map", QUERIES)
    with refused("--rig dataset", "says nothing"):
        frames_of_queries("dataset", QUERIES)
    with refused("--rig", "--engine native"):
        RunOptions(engine="hloc", rig="rig_config.json")
    with pytest.raises(SystemExit):
        main(
            ["run", str(tmp_path), "--outputs", str(tmp_path / "out"), "--rig", "a.json",
             "--protocol", "local-features"]
        )  # fmt: skip
    error_line(capsys.readouterr().err, "--rig", "local-features")


def test_the_command_of_the_stage(files: Files, tmp_path: Path) -> None:
    listed = tmp_path / "queries.txt"
    camera = f"PINHOLE {CAMERA.width} {CAMERA.height} {' '.join(map(str, CAMERA.params))}"
    listed.write_text("".join(f"{name} {camera}\n" for name in QUERIES))
    first = {"image_prefix": "query/day/a", "ref_sensor": True}
    pose = blind_from_rig(files)
    other = {
        "image_prefix": "query/night/blind", "cam_from_rig_rotation": pose.qvec.tolist(),
        "cam_from_rig_translation": pose.tvec.tolist(),
    }  # fmt: skip
    config = tmp_path / "rig_config.json"
    config.write_text(json.dumps([{"cameras": [first, other]}]))
    arguments = [
        "poses", "--map", str(files.root / "map"), "--queries", str(listed),
        "--pairs", str(files.pairs("query")), "--features", str(files.features),
        "--matches", str(files.matches("query")), "--rig", str(config),
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "poses.txt")])
    assert done.exit_code == 0 and "3 of 3 queries localized" in done.stdout
    found = read_poses(tmp_path / "poses.txt")
    assert position_error(found[BLIND], files.scene.poses[BLIND]) < 0.03
