"""Rigs: photos taken at once, localized together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from refusals import error_line, refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app, main
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.pointless_matches import Matched, PosedImage, agreeing
from samfeat_hloc.colmap.pose_refinement import View, refined
from samfeat_hloc.colmap.poses import Pose, read_poses
from samfeat_hloc.colmap.rig_config import frames_of, read_rig_config
from samfeat_hloc.colmap.rig_pose import estimate_rig_pose
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.maps import building
from samfeat_hloc.maps.localizer import Localizer
from samfeat_hloc.maps.sources import sources_in
from samfeat_hloc.pipelines import run
from samfeat_hloc.pipelines.run_options import RunOptions
from samfeat_hloc.scenes import DAY, build_city, illuminate, render, write_demo
from samfeat_hloc.scenes.render import look_at

CAMERA = Camera("PINHOLE", 320, 240, (260.0, 260.0, 160.0, 120.0))
PLACE = np.array([8.0, -2.0, 1.6])
YAWS = {"left": 40.0, "front": 0.0, "right": -40.0}
OFFSETS = {"left": -0.3, "front": 0.0, "right": 0.3}


def turned(degrees: float, centre: tuple[float, float, float]) -> Pose:
    """cam_from_rig of a camera at a place in the rig, turned about its vertical axis."""
    half = np.deg2rad(degrees) / 2
    qvec = np.array([np.cos(half), 0, np.sin(half), 0])
    rotation = Pose(qvec, np.zeros(3)).rotation
    return Pose(qvec, -rotation @ np.array(centre))


RIG = {name: turned(YAWS[name], (OFFSETS[name], 0, 0)) for name in YAWS}
RIG_FROM_WORLD = look_at(PLACE, np.pi / 2, np.deg2rad(5))


def correspondences(
    cams_from_rig: list[Pose], counts: list[int], outliers: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    keypoints, points = [], []
    for cam_from_rig, count in zip(cams_from_rig, counts, strict=True):
        pose = cam_from_rig @ RIG_FROM_WORLD
        xy, depth = rng.uniform([0, 0], [320, 240], (count, 2)), rng.uniform(4, 20, (count, 1))
        rays = np.column_stack([(xy - [160, 120]) / 260, np.ones(count)])
        points.append((rays * depth - pose.tvec) @ pose.rotation)
        wrong = rng.random(count) < outliers
        xy = xy + rng.normal(0, 0.5, xy.shape)
        xy[wrong] = rng.uniform([0, 0], [320, 240], (int(wrong.sum()), 2))
        keypoints.append(xy)
    return keypoints, points


@pytest.mark.parametrize(
    ("cams_from_rig", "counts"),
    [
        (list(RIG.values()), [40, 40, 40]),
        ([turned(60, (0, 0, 0)), turned(0, (0, 0, 0))], [60, 60]),  # one centre
        ([turned(30, (1, 0, 0))], [100]),  # one camera beside the rig's origin
        ([turned(0, (0, 0, 0)), turned(90, (1, 0, 0))], [100, 0]),  # one sees nothing
    ],
)
def test_the_pose_of_a_rig(cams_from_rig: list[Pose], counts: list[int]) -> None:
    cameras = [CAMERA.to_pycolmap()] * len(cams_from_rig)
    for outliers in (0.0, 0.6):
        made = correspondences(cams_from_rig, counts, outliers)
        found = estimate_rig_pose(*made, cameras, cams_from_rig)
        assert found is not None
        pose, inliers = found
        assert position_error(pose, RIG_FROM_WORLD) < 0.1
        assert rotation_error(pose, RIG_FROM_WORLD) < 0.5
        assert [len(kept) for kept in inliers] == counts
        assert np.concatenate(inliers).sum() > 0.9 * (1 - outliers) * sum(counts) * 0.9
    few = [[arrays[0][:3], *(array[:0] for array in arrays[1:])] for arrays in made]
    assert estimate_rig_pose(*few, cameras, cams_from_rig) is None
    none = [[array[:0] for array in arrays] for arrays in made]
    assert estimate_rig_pose(*none, cameras, cams_from_rig) is None


def test_a_rig_is_refined_where_the_loss_of_all_its_photos_is_least() -> None:
    cams_from_rig = list(RIG.values())
    keypoints, points = correspondences(cams_from_rig, [60, 0, 40], 0.0)
    camera = CAMERA.to_pycolmap()
    elsewhere = turned(5, (0.4, 0.1, -0.5)) @ RIG_FROM_WORLD
    image = PosedImage.of(projected(elsewhere, points[0]), elsewhere, camera)
    views = []
    for cam_from_rig, xy, xyz in zip(cams_from_rig, keypoints, points, strict=True):
        views.append(View(camera, xy, xyz, None, cam_from_rig))
    rows = np.arange(60)
    pointless = agreeing(
        RIG["left"] @ RIG_FROM_WORLD, camera, keypoints[0], [Matched(rows, rows, image)], 3.0
    )
    views[0] = views[0]._replace(pointless=pointless)
    start = turned(1, (0.05, -0.02, 0.03)) @ RIG_FROM_WORLD
    found = refined(start, views)

    def loss(pose: Pose) -> float:
        total = 0.0
        for view in views:
            assert view.cam_from_rig is not None
            posed = view.cam_from_rig @ pose
            error = projected(posed, view.points) - view.keypoints
            total += float(np.log1p((error**2).sum(1)).sum())
        left = RIG["left"] @ pose
        of_lines = pointless.seen(left.rotation, left.tvec).errors()
        return total + 0.25 * float(np.log1p(of_lines**2).sum())

    assert loss(found) < loss(RIG_FROM_WORLD) < loss(start)
    for axis in np.eye(3):
        for size in (1, -1):
            turn = Pose(np.append(1, 1e-5 * size * axis), np.zeros(3))
            assert loss(turn @ found) > loss(found)
            assert loss(Pose(found.qvec, found.tvec + 1e-4 * size * axis)) > loss(found)


def projected(pose: Pose, points: np.ndarray) -> np.ndarray:
    inside = points @ pose.rotation.T + pose.tvec
    return inside[:, :2] / inside[:, 2:] * 260 + [160, 120]


# ---- rig_config.json ----


def entry(name: str, **changes: Any) -> dict[str, Any]:
    if name == "front":
        made: dict[str, Any] = {"image_prefix": "front/", "ref_sensor": True}
    else:
        made = {
            "image_prefix": f"{name}/",
            "cam_from_rig_rotation": RIG[name].qvec.tolist(),
            "cam_from_rig_translation": RIG[name].tvec.tolist(),
        }
    made |= {"camera_model_name": "PINHOLE", "camera_params": list(CAMERA.params)}
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def write_config(path: Path, *cameras: dict[str, Any]) -> Path:
    path.write_text(json.dumps([{"cameras": list(cameras)}]))
    return path


def test_a_configuration_is_read_as_colmap_reads_it(tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "rig.json", entry("left"), entry("front"), entry("right", camera_model_name=None)
    )
    (cameras,) = read_rig_config(path)
    (theirs,) = pycolmap.read_rig_config(path)
    for ours, other in zip(cameras, theirs.cameras, strict=True):
        assert ours.prefix == other.image_prefix
        if not other.ref_sensor:
            expected = Pose.from_rigid3d(other.cam_from_rig)
            np.testing.assert_allclose(ours.cam_from_rig.qvec, expected.qvec, atol=1e-12)
            np.testing.assert_allclose(ours.cam_from_rig.tvec, expected.tvec, atol=1e-12)
    assert cameras[0].intrinsics(320, 240) == CAMERA
    assert cameras[2].intrinsics(320, 240) is None


def test_frames_are_photos_of_one_name_behind_their_prefixes(tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "rig.json", entry("front", image_prefix="cam1"),
        entry("left", image_prefix="cam10/"), entry("right", image_prefix="b/"),
    )  # fmt: skip
    names = ["cam1/2.jpg", "cam10/2.jpg", "b/1.jpg", "cam10/1.jpg", "c.jpg", "cam1/1.jpg"]
    frames, others = frames_of(read_rig_config(path), names)
    found = {frame.name: [name for _, name in frame.photos] for frame in frames}
    # the longest prefix counts
    assert found == {
        "/1.jpg": ["cam1/1.jpg"], "/2.jpg": ["cam1/2.jpg"],
        "1.jpg": ["cam10/1.jpg", "b/1.jpg"], "2.jpg": ["cam10/2.jpg"],
    }  # fmt: skip
    assert others == ["c.jpg"]


@pytest.mark.parametrize(
    ("content", "subject", "problem"),
    [
        ("{", "rig.json", "not JSON"),
        ("{}", "rig.json", "list of rigs"),
        ([{}], "rig 1", "cameras"),
        ([{"cameras": [entry("left")]}], "rig 1", "0 cameras have ref_sensor"),
        ([{"cameras": [entry("front"), entry("front")]}], "rig 1", "2 cameras"),
        ([{"cameras": [entry("front"), {"a": 1}]}], "rig 1", "image_prefix"),
        ([{"cameras": [entry("front"), entry("left", cam_from_rig_translation=None)]}],
         "camera 'left/'", "cam_from_rig_translation"),
        ([{"cameras": [entry("front"), entry("left", cam_from_rig_rotation=[1, 1, 0, 0])]}],
         "cam_from_rig_rotation", "unit length"),
        ([{"cameras": [entry("front"), entry("left", cam_from_rig_translation=[0, "1", 0])]}],
         "cam_from_rig_translation", "3 numbers"),
        ([{"cameras": [entry("front", camera_model_name="PIN")]}], "camera_model_name", "PIN"),
        ([{"cameras": [entry("front", camera_params=[1, 2])]}], "camera_params", "4 numbers"),
        ([{"cameras": [entry("front", camera_params=[-1, 1, 1, 1])]}], "camera_params", "positive"),
        ([{"cameras": [entry("front"), entry("left"), entry("left")]}], "rig.json", "twice"),
    ],
)  # fmt: skip
def test_configurations_that_are_none(
    tmp_path: Path, content: Any, subject: str, problem: str
) -> None:
    path = tmp_path / "rig.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with refused(subject, problem):
        read_rig_config(path)
    with refused("none.json"):
        read_rig_config(tmp_path / "none.json")


# ---- in a map of the demo's city ----


@pytest.fixture(scope="module")
def map_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(2)
    root = tmp_path_factory.mktemp("demo")
    dataset = write_demo(root / "dataset", num_db=10, num_queries=1, size=(320, 240))
    outputs = run.run(dataset, root / "outputs", RunOptions(preset="samfeat_fast")).outputs
    building.build(sources_in(outputs), root / "demo.map")
    return root / "demo.map"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of the rig, the second 2 m farther along the street."""
    folder = tmp_path_factory.mktemp("rig")
    city = illuminate(build_city(0), DAY)
    for name, cam_from_rig in RIG.items():
        (folder / name).mkdir()
        for frame, rig_from_world in frames().items():
            view = render(city, CAMERA, cam_from_rig @ rig_from_world)
            Image.fromarray(view.image).save(folder / name / frame)
    return folder


def frames() -> dict[str, Pose]:
    second = look_at(PLACE + np.array([2, 0, 0]), np.pi / 2, np.deg2rad(5))
    return {"1.png": RIG_FROM_WORLD, "2.png": second}


def test_a_rig_is_localized_where_its_photos_alone_are_not(map_dir: Path, photos: Path) -> None:
    localizer = Localizer.load(map_dir)
    few = replace(localizer.options, max_keypoints=30)
    localizer = Localizer(localizer.map, localizer.model, options=few)
    paths = [photos / name / "1.png" for name in RIG]
    alone = [localizer.localize(path, CAMERA) for path in paths]
    assert all(found.pose is None for found in alone)
    found = localizer.localize_rig(paths, [CAMERA] * 3, list(RIG.values()))
    assert found.pose is not None and found.poses is not None
    assert position_error(found.pose, RIG_FROM_WORLD) < 0.1
    assert rotation_error(found.pose, RIG_FROM_WORLD) < 0.5
    for pose, cam_from_rig in zip(found.poses, RIG.values(), strict=True):
        assert position_error(pose, cam_from_rig @ RIG_FROM_WORLD) < 0.1
    # points of the map project to where each photo has them
    rows = {point: row for row, point in enumerate(localizer.map.point_ids.tolist())}
    for pose, xy, points in zip(
        found.poses, found.inlier_keypoints, found.inlier_points, strict=True
    ):
        in_camera = localizer.map.xyz[[rows[p] for p in points.tolist()]] @ pose.rotation.T
        projected = CAMERA.to_pycolmap().img_from_cam(in_camera + pose.tvec)
        assert np.median(np.linalg.norm(projected - xy, axis=1)) < 1
    assert sum(found.num_agreeing) >= 30 and found.confidence > 0.9
    # the same from pycolmap's poses; the rig elsewhere is elsewhere
    rigid = [pose.to_rigid3d() for pose in RIG.values()]
    again = localizer.localize_rig(paths, [CAMERA] * 3, rigid)
    assert again.pose is not None
    np.testing.assert_allclose(again.pose.tvec, found.pose.tvec, atol=1e-9)


def test_what_is_no_rig(map_dir: Path, photos: Path) -> None:
    localizer = Localizer.load(map_dir)
    path = photos / "front" / "1.png"
    with refused("localize_rig", "1 images, 2 cameras"):
        localizer.localize_rig([path], [CAMERA, CAMERA], [RIG["front"]])
    with refused("localize_rig"):
        localizer.localize_rig([], [], [])
    with refused("images", "a str"):
        localizer.localize_rig(str(path), [CAMERA], [RIG["front"]])
    with refused("cameras", "a NoneType"):
        localizer.localize_rig([path], None, [RIG["front"]])  # type: ignore[arg-type]
    with refused("map_dir", "a NoneType"):
        Localizer.load(None)  # type: ignore[arg-type]
    with refused("cams_from_rig", "ndarray"):
        localizer.localize_rig([path], [CAMERA], [np.eye(4)])  # type: ignore[list-item]
    with refused("1.png", "EXIF"):
        localizer.localize_rig([path], [None], [RIG["front"]])
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    lost = localizer.localize_rig([noise] * 2, [CAMERA] * 2, [RIG["left"], RIG["right"]])
    assert lost.pose is None and lost.poses is None and lost.refused is not None


def test_the_command(map_dir: Path, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "rig.json", *(entry(name) for name in RIG))
    arguments = ["localize", "--map", str(map_dir), "--rig", str(config), str(photos)]
    output = tmp_path / "poses.txt"
    result = CliRunner().invoke(app, [*arguments, "--output", str(output)])
    assert result.exit_code == 0 and "2 of 2 frames localized" in result.stdout
    poses = read_poses(output)
    assert len(poses) == 6
    for frame, rig_from_world in frames().items():
        for name, cam_from_rig in RIG.items():
            assert position_error(poses[f"{name}/{frame}"], cam_from_rig @ rig_from_world) < 0.1
    result = CliRunner().invoke(app, [*arguments, "--json"])
    listed = json.loads(result.stdout)
    assert [one["frame"] for one in listed] == ["1.png", "2.png"]
    assert [photo["photo"] for photo in listed[0]["photos"]] == [f"{name}/1.png" for name in RIG]
    assert listed[0]["localized"] and listed[0]["photos"][1]["num_agreeing"] > 0


def test_a_frame_that_cannot_be_read_is_named_and_the_others_are_done(
    map_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "rig", tmp_path / "poses.txt"
    shutil.copytree(photos, folder)
    (folder / "left" / "1.png").write_bytes(b"")
    config = write_config(tmp_path / "rig.json", *(entry(name) for name in RIG))
    arguments = ["localize", "--map", str(map_dir), "--rig", str(config), str(folder)]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--output", str(output)])
    assert caught.value.code == 1
    told = capsys.readouterr()
    error_line(told.err, "1 of 2 frames", "could not be tried: 1.png")
    assert "left/1.png: the image file is empty" in told.out + told.err
    assert sorted(read_poses(output)) == sorted(f"{name}/2.png" for name in RIG)
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [one["localized"] for one in listed] == [False, True]
    assert "left/1.png" in listed[0]["error"]


def test_commands_that_do_not_fit(
    map_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "rig.json", entry("front"), entry("left"))
    arguments = ["localize", "--map", str(map_dir), "--rig", str(config), str(photos)]
    for more, subject, words in (
        ([], "rig.json", ("2 of 6 photos", "right/1.png")),
        (["--turns"], "--turns", ("--rig",)),
        (["--refine-focal"], "--refine-focal", ("--rig",)),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, *more])
        error_line(capsys.readouterr().err, subject, *words)
