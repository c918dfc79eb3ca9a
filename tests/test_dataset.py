from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from tiny_dataset import CAMERA, build

from samfeat_hloc.colmap.cameras import CAMERA_MODELS, Camera
from samfeat_hloc.colmap.intrinsics import camera_from_text
from samfeat_hloc.colmap.model import find_model, read_content
from samfeat_hloc.colmap.poses import Pose, read_poses, write_poses
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.datasets.queries import read_queries
from samfeat_hloc.errors import SamfeatError

DAY = "queries/day_time_queries_with_intrinsics.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "dataset")


@pytest.fixture
def town_model(shared: Path, tmp_path: Path) -> Path:
    """A copy of the town's binary model that may be broken."""
    model = tmp_path / "model"
    model.mkdir()
    for path in (shared / "data" / "town" / "3D-models" / "aachen_v_1_1").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    return model


def refusal(folder: Path) -> str:
    with pytest.raises(SamfeatError) as caught:
        AachenDataset.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_town(shared: Path) -> None:
    town = AachenDataset.open(shared / "data" / "town")
    assert town.conditions == ["day", "night"]
    assert [sum(q.condition == c for q in town.queries) for c in town.conditions] == [17, 17]
    assert len(town.db_names) == 34 and town.num_points == 9236
    assert town.queries[0].base_name == "castle-P30_0001.jpg"
    assert town.ground_truth is not None
    assert set(town.ground_truth) == set(town.query_names)

    model = pycolmap.Reconstruction(str(town.reference_model))
    assert sorted(image.name for image in model.images.values()) == town.db_names
    for image in model.images.values():
        cam_from_world = image.cam_from_world
        cam_from_world = cam_from_world() if callable(cam_from_world) else cam_from_world
        pose = town.db_poses[image.name]
        np.testing.assert_allclose(pose.centre, image.projection_center(), atol=1e-9)
        np.testing.assert_allclose(pose.to_rigid3d().matrix(), cam_from_world.matrix(), atol=1e-9)
        np.testing.assert_allclose(Pose.from_rigid3d(cam_from_world).qvec, pose.qvec, atol=1e-12)
        np.testing.assert_allclose(
            pose.inverse().to_rigid3d().matrix(), cam_from_world.inverse().matrix(), atol=1e-9
        )


def test_a_tiny_dataset_with_a_text_model(root: Path) -> None:
    dataset = AachenDataset.open(root)
    assert dataset.db_names == ["db/1.jpg", "db/2.jpg"]
    assert dataset.query_names[2] == "query/night/c.jpg"
    np.testing.assert_allclose(dataset.db_poses["db/2.jpg"].centre, [5, 0, 0])
    (root / "queries" / "ground_truth.txt").unlink()
    assert AachenDataset.open(root).ground_truth is None


def test_bom_windows_line_ends_comments_and_blank_lines(root: Path) -> None:
    lines = ["# name model", "", f"query/day/a.jpg {CAMERA}", "  ", f" query/day/b.jpg\t{CAMERA} "]
    (root / DAY).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    queries = read_queries(root / DAY, "day")
    assert [query.name for query in queries] == ["query/day/a.jpg", "query/day/b.jpg"]
    assert queries[0].camera.params == (500.0, 500.0, 320.0, 240.0)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("query/day/a.jpg", "missing"),
        ("query/day/a.jpg PINHOLE 640 480", "missing"),
        ("query/day/a.jpg PINHOLE 640 480 500 500 320", "3 parameters, but PINHOLE has 4"),
        (f"query/day/a.jpg {CAMERA} 0", "5 parameters, but PINHOLE has 4"),
        ("query/day/a.jpg PINHOL 640 480 500 500 320 240", "'PINHOL'"),
        ("query/day/my a.jpg PINHOLE 640 480 500 500 320 240", "too many values"),
        ("query/day/a.jpg PINHOLE 640.5 480 500 500 320 240", "two positive integers"),
        ("query/day/a.jpg PINHOLE -640 480 500 500 320 240", "two positive integers"),
        ("query/day/a.jpg PINHOLE 0 480 500 500 320 240", "two positive integers"),
        ("query/day/a.jpg PINHOLE 640 480 nan 500 320 240", "not a finite number"),
        ("query/day/a.jpg PINHOLE 640 480 500 inf 320 240", "not a finite number"),
        ("query/day/a.jpg PINHOLE 640 480 5_0 500 320 240", "not a finite number"),
        ("query/day/a.jpg PINHOLE 640 480 500 x 320 240", "could not convert"),
        ("query/day/a.jpg PINHOLE 640 480 500 -500 320 240", "focal length -500.0 is not positive"),
        ("query/day/a.jpg SIMPLE_RADIAL 640 480 0 320 240 0.1", "focal length 0.0 is not positive"),
        (f"../secret.jpg {CAMERA}", "climbs out"),
        (f"/etc/a.jpg {CAMERA}", "absolute"),
        (f"query/day/b.jpg {CAMERA}", "on line 1 already"),
    ],
)
def test_malformed_query_lines_are_named_with_their_number(
    root: Path, line: str, wrong: str
) -> None:
    (root / DAY).write_text(f"query/day/b.jpg {CAMERA}\n\n{line}\n")
    with refused(f"{root / DAY}:3", wrong):
        AachenDataset.open(root)


def test_missing_and_empty_parts(root: Path, tmp_path: Path) -> None:
    assert "dataset folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")
    for part, wrong in [
        ("images_upright", "images_upright"),
        ("queries", "query lists"),
        ("3D-models", "reference model"),
        ("3D-models/aachen_v_1_1", "no COLMAP model"),
    ]:
        kept = tmp_path / "kept"
        (root / part).rename(kept)
        assert wrong in refusal(root)
        kept.rename(root / part)
    (root / DAY).write_text("# nothing yet\n")
    assert "no queries" in refusal(root)
    for path in (root / "queries").glob("*_time_*"):
        path.unlink()
    assert "no query list" in refusal(root)


def test_images_that_are_not_there_are_counted(root: Path) -> None:
    for name in ("day/a", "day/b", "night/c", "night/d"):
        (root / "images_upright" / "query" / f"{name}.jpg").unlink()
    message = refusal(root)
    assert "4 of the 4 images" in message and "query/night/c.jpg and 1 more" in message
    shutil.rmtree(root / "images_upright" / "db")
    build(root.with_name("other"))
    shutil.rmtree(root.with_name("other") / "images_upright" / "db")
    assert "2 of the 2 images" in refusal(root.with_name("other"))


def test_a_query_in_two_lists(root: Path) -> None:
    night = root / "queries" / "night_time_queries_with_intrinsics.txt"
    night.write_text(night.read_text() + f"query/day/a.jpg {CAMERA}\n")
    assert refusal(root).startswith(f"{night}: 'query/day/a.jpg' ")


def test_other_places_of_the_reference_model(root: Path) -> None:
    models = root / "3D-models"
    (models / "aachen_v_1_1").rename(models / "mine")
    assert find_model(models) == models / "mine"
    shutil.copytree(models / "mine", models / "second")
    assert "several models" in refusal(root)
    shutil.copytree(models / "mine", models, dirs_exist_ok=True)
    assert find_model(models) == models
    shutil.copytree(models / "mine", models / "aachen_v_1_1")
    assert find_model(models) == models / "aachen_v_1_1"


def test_a_reference_model_needs_images_but_no_points(root: Path, tmp_path: Path) -> None:
    model = root / "3D-models" / "aachen_v_1_1"
    (model / "points3D.txt").write_text("# none\n")
    assert AachenDataset.open(root).num_points == 0
    (model / "images.txt").write_text("# none\n")
    assert "no images" in refusal(root)
    empty = tmp_path / "empty_model"
    empty.mkdir()
    pycolmap.Reconstruction().write_binary(str(empty))
    with refused(problem="no images"):
        read_content(empty)


def test_a_camera_that_is_given_has_no_name_before_it() -> None:
    with refused("--camera 'PINHOLE 1 2'", "(3 values)", "write 'MODEL width height params...'"):
        camera_from_text("PINHOLE 1 2")


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ((500.0, 320.0, 240.0), "3 parameters, but PINHOLE has 4"),
        ((500.0, -500.0, 320.0, 240.0), "focal length -500.0 is not positive"),
        ((500.0, 500.0, float("nan"), 240.0), "not a number"),
    ],
)
def test_cameras_that_cannot_be(params: tuple[float, ...], problem: str) -> None:
    """pycolmap reads three parameters of a PINHOLE, and one that is not there."""
    with refused("camera", problem):
        Camera.of(Camera("PINHOLE", 640, 480, params))
    with refused("camera", "unknown camera model 'PINHOLLE'", "PINHOLE (4)"):
        Camera.of(Camera("PINHOLLE", 640, 480, params))


def test_camera_models_are_pycolmaps() -> None:
    known = {name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"}
    for name in known & CAMERA_MODELS.keys():
        number, num_params, num_focal = CAMERA_MODELS[name]
        model = getattr(pycolmap.CameraModelId, name)
        assert int(model.value if hasattr(model, "value") else model) == number
        if num_focal:
            camera = pycolmap.Camera(model=name, width=640, height=480, params=[500.0] * num_params)
            assert len(camera.focal_length_idxs()) == num_focal
    assert known <= CAMERA_MODELS.keys()


def test_a_text_model_says_the_same_as_the_binary_one(town_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    pycolmap.Reconstruction(str(town_model)).write_text(str(text))
    from_binary, from_text = read_content(town_model), read_content(text)
    assert from_binary.poses.keys() == from_text.poses.keys()
    assert from_binary.num_points == from_text.num_points
    for name, pose in from_text.poses.items():
        np.testing.assert_allclose(pose.centre, from_binary.poses[name].centre, atol=1e-6)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D", "rigs", "frames"])
def test_broken_binaries_are_refused_before_colmap_sees_them(town_model: Path, name: str) -> None:
    path = town_model / f"{name}.bin"
    data = path.read_bytes()
    many = struct.pack("<Q", 1 << 60) + data[8:]
    for broken in (b"", data[:5], data[: len(data) // 2], data[:-1], data + b"\0", many):
        path.write_bytes(broken)
        with refused(f"{name}.bin", "damaged"):
            read_content(town_model)
    path.write_bytes(data)
    assert read_content(town_model).num_points == 9236


def test_rigs_of_several_sensors_are_walked(town_model: Path) -> None:
    if not hasattr(pycolmap, "Rig"):
        pytest.skip("this pycolmap has no rigs")
    model = pycolmap.Reconstruction(str(town_model))
    first, second = list(model.cameras.values())[:2]
    rig = pycolmap.Rig(rig_id=1000)
    rig.add_ref_sensor(first.sensor_id)
    rig.add_sensor(second.sensor_id, pycolmap.Rigid3d())
    model.add_rig(rig)
    model.write_binary(str(town_model))
    assert read_content(town_model).num_points == 9236


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_in_a_model_are_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    model = tmp_path_factory.getbasetemp() / "any_model"
    model.mkdir(exist_ok=True)
    cameras = struct.pack("<QIiQQ4d", 1, 1, 1, 640, 480, 500, 500, 320, 240)
    (model / "cameras.bin").write_bytes(cameras)
    (model / "images.bin").write_bytes(struct.pack("<Q", 1) + data)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 1) + data)
    with pytest.raises(SamfeatError):
        read_content(model)


WORDS = [
    "a.jpg",
    "query/b.jpg",
    "PINHOLE",
    "OPENCV",
    "640",
    "480",
    "500",
    "0",
    "1",
    "-1",
    "nan",
    "1e999",
    "#",
    "..",
    "1_0",
    "٣",
]
BREAKS = ["\n", "\r\n", "\ufeff", "\u2028", "\x85", "9" * 5000]
TOKENS = st.sampled_from(WORDS + BREAKS)
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(TOKENS, max_size=40).map(" ".join),
    st.lists(st.sampled_from(["a.jpg 1 0 0 0 1 2 3", f"a.jpg {CAMERA}", "", "a 1 1"])).map(
        "\n".join
    ),
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_any_text_is_parsed_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for parse in (lambda: read_queries(path, "day"), lambda: read_poses(path)):
        try:
            parse()
        except SamfeatError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, which=st.sampled_from(["cameras", "images", "points3D"]))
def test_any_text_in_a_model_is_read_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, which: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "any_text"
    if not root.exists():
        build(root)
    model = root / "3D-models" / "aachen_v_1_1"
    path = model / f"{which}.txt"
    kept = path.read_bytes()
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_content(model)
    except SamfeatError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(kept)


def test_poses_round_trip_exactly(shared: Path, tmp_path: Path) -> None:
    truth = read_poses(shared / "data" / "town" / "queries" / "ground_truth.txt")
    path = write_poses(tmp_path / "new" / "poses.txt", truth)
    again = read_poses(path)
    assert list(again) == list(truth)
    for name, pose in truth.items():
        np.testing.assert_array_equal(again[name].qvec, pose.qvec)
        np.testing.assert_array_equal(again[name].tvec, pose.tvec)
    assert [entry.name for entry in path.parent.iterdir()] == ["poses.txt"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("b.jpg 1 0 0 0 0 0", "7 values where 8"),
        ("my b.jpg 1 0 0 0 0 0 0", "9 values where 8"),
        ("b.jpg 1 0 0 0 0 0 nan", "not a finite number"),
        ("b.jpg 1 0 0 0 0 0 inf", "not a finite number"),
        ("b.jpg 1 0 0 0 0 0 zero", "could not convert"),
        ("b.jpg 0 0 0 0 0 0 0", "length 0 instead of 1"),
        ("b.jpg 1e300 1e308 0 0 0 0 0", "instead of 1"),
        ("b.jpg 1.01 0 0 0 0 0 0", "length 1.01 instead of 1"),
        ("a.jpg 1 0 0 0 0 0 0", "line 1 already"),
        ("../b.jpg 1 0 0 0 0 0 0", "climbs out"),
    ],
)
def test_malformed_pose_lines_are_named_with_their_number(
    tmp_path: Path, line: str, wrong: str
) -> None:
    path = tmp_path / "poses.txt"
    path.write_text(f"a.jpg 1 0 0 0 0 0 0\n# comment\n{line}\n")
    with refused(f"{path}:3", wrong):
        read_poses(path)


def test_nearly_unit_quaternions_are_normalised(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    path.write_text("a.jpg 0.707 0.707 0 0 1 2 3\n")
    qvec = read_poses(path)["a.jpg"].qvec
    np.testing.assert_allclose(qvec, [math.sqrt(0.5), math.sqrt(0.5), 0, 0])


@pytest.mark.parametrize("values", [(0, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, math.nan, 0, 0)])
def test_bad_poses_leave_the_old_file(tmp_path: Path, values: tuple[float, ...]) -> None:
    path = write_poses(tmp_path / "poses.txt", {"a.jpg": Pose(np.eye(4)[0], np.zeros(3))})
    before = path.read_text()
    with refused(path, "'b.jpg'"):
        write_poses(path, {"b.jpg": Pose(np.array(values[:4]), np.array(values[4:]))})
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1
    with refused(problem="white space"):
        write_poses(path, {"my b.jpg": Pose(np.eye(4)[0], np.zeros(3))})
