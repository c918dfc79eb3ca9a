"""What is wrong in a benchmark's folder is told in one line that names the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from refusals import refused
from small_city import City

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.model_changes import changed, scaled, write_model
from samfeat_hloc.colmap.nvm import read_nvm
from samfeat_hloc.datasets.four_seasons import RELOCALIZATION, read_calibration
from samfeat_hloc.datasets.registry import open_dataset
from samfeat_hloc.datasets.seven_scenes import depth_name
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.localization import depth_points
from samfeat_hloc.pipelines.run import run
from samfeat_hloc.pipelines.run_options import RunOptions


@pytest.fixture(scope="session")
def roots(city: City, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {
        make.__name__: make(folder / make.__name__, city)
        for make in (
            layouts.aachen, layouts.aachen_v1, layouts.cambridge, layouts.cambridge_release,
            layouts.seven_scenes, layouts.colmap, layouts.robotcar, layouts.cmu,
            layouts.four_seasons, layouts.inloc,
        )
    }  # fmt: skip


def remove(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).write_text(text)

    return change


NVM = "3D-models/aachen_cvpr2018_db.nvm"
INTRINSICS = "3D-models/database_intrinsics.txt"
RETRIANGULATED = "CambridgeLandmarks_Colmap_Retriangulated_1024px/ShopFacade"
TEST_LIST = "7scenes_sfm_triangulated/heads/triangulated/list_test.txt"
VALIDATION = f"reference/{RELOCALIZATION['validation']}"
CUTOUT = "database/cutouts/DUC1/000/DUC_cutout_000_0_0.jpg"
DAY = "queries/day_time_queries_with_intrinsics.txt"

WRONG = [
    ("aachen", "aachen", remove("3D-models"), "reference model belongs in"),
    ("aachen", "aachen", write(DAY, "query/day/day_000.jpg PINHOLE 320\n"),
     r"day_time_queries_with_intrinsics\.txt:1: intrinsics are missing"),
    ("aachen", "aachen", write("queries/ground_truth.txt", "day_000.jpg 1 0 0\n"),
     r"ground_truth\.txt:1: 4 values where 8 are needed"),
    ("aachen", "aachen", remove("images_upright/query"), "2 of the 2 images"),
    ("aachen_v1", "aachen-v1", remove(NVM), r"aachen_cvpr2018_db\.nvm: no such file"),
    ("aachen_v1", "aachen-v1", edit(NVM, "NVM_V3", "NVM_V2"), "not an NVM model"),
    ("aachen_v1", "aachen-v1", edit(NVM, "\n8\n", "\n9000\n"), "cut off: .* of 9000 images"),
    ("aachen_v1", "aachen-v1", edit(NVM, "db/db_003.jpg ", "db/db_003.jpg x"), r"nvm:7: "),
    ("aachen_v1", "aachen-v1", edit(NVM, "db/db_003.jpg ", "db/db_002.jpg "), "is in it twice"),
    ("aachen_v1", "aachen-v1", write(NVM, "NVM_V3\n\n0\n\n0\n"), "no images in it"),
    ("aachen_v1", "aachen-v1", edit(INTRINSICS, "db/db_004.jpg", "db/x.jpg"),
     r"nvm:8: db/db_004.jpg has no line in database_intrinsics.txt"),
    ("aachen_v1", "aachen-v1", edit(INTRINSICS, "SIMPLE_RADIAL", "FISHY"), "unknown camera model"),
    ("aachen_v1", "aachen-v1", remove("images_upright/db/db_001.jpg"), "1 of the 8 images"),
    ("aachen_v1", "aachen-v1", remove(DAY), "0"),
    ("cambridge", "cambridge", remove(f"{RETRIANGULATED}/model_train/images.bin"), "lacks images"),
    ("cambridge", "cambridge", remove(f"{RETRIANGULATED}/list_query.txt"), "no such file"),
    ("cambridge", "cambridge",
     edit(f"{RETRIANGULATED}/list_query.txt", "seq2/frame00001.png", "seq2/frame00009.png"),
     "seq2/frame00009.png"),
    ("cambridge", "cambridge", remove("ShopFacade/seq2/frame00001.png"), "1 of the 2 images"),
    ("cambridge", "cambridge", remove("ShopFacade"), "no scene in it; unpack KingsCollege"),
    ("cambridge_release", "cambridge", remove("ShopFacade/reconstruction.nvm"), "no such folder"),
    ("cambridge_release", "cambridge", remove("ShopFacade/dataset_test.txt"), "no such file"),
    ("cambridge_release", "cambridge", edit("ShopFacade/dataset_test.txt", "png ", "png 1 "),
     r"dataset_test\.txt:4: not a position and a unit quaternion"),
    ("cambridge_release", "cambridge", edit("ShopFacade/reconstruction.nvm", "seq2", "seq9"),
     "so that its focal length is not known"),
    ("seven_scenes", "7scenes", remove(TEST_LIST), "no such file"),
    ("seven_scenes", "7scenes", edit(TEST_LIST, "seq-02", "seq-09"), "has no intrinsics, and is"),
    ("seven_scenes", "7scenes", edit(TEST_LIST, "seq-02", "../x"), r"list_test\.txt:1: .*climbs"),
    ("seven_scenes", "7scenes", remove("heads/seq-01"), "8 of the 8 images"),
    ("colmap", "colmap", remove("sparse/0/cameras.bin"), "no COLMAP model"),
    ("colmap", "colmap", remove("images"), "photos and queries belong there"),
    ("colmap", "colmap", edit("queries.txt", "query/day", "query/x"), "has no intrinsics"),
    ("colmap", "colmap", remove("queries.txt"), "no such file"),
    ("robotcar", "robotcar", remove("intrinsics/left_intrinsics.txt"), "no such file"),
    ("robotcar", "robotcar", edit("intrinsics/left_intrinsics.txt", "cx", "dx"), "it has no cx"),
    ("robotcar", "robotcar", edit("intrinsics/left_intrinsics.txt", "fx ", "fx a"),
     r"left_intrinsics\.txt:1: "),
    ("robotcar", "robotcar", remove("3D-models/overcast-reference.db"), "no such file"),
    ("robotcar", "robotcar", write("3D-models/overcast-reference.db", "SQLite"),
     "not a whole COLMAP database"),
    ("robotcar", "robotcar", write("robotcar_v2_train.txt", f"a.png {'2 ' * 16}\n"),
     r"robotcar_v2_train\.txt:1: the matrix is no rotation and translation"),
    ("robotcar", "robotcar", remove("images/night"), "1 of the 2 images"),
    ("robotcar", "robotcar", edit("robotcar_v2_train.txt", ".png ", ".png 1 "),
     r"robotcar_v2_train\.txt:1: 17 numbers where 16 are needed"),
    ("robotcar", "robotcar", edit("robotcar_v2_test.txt", "night/left", "night"), "images named"),
    ("cmu", "cmu", remove("slice2/sparse"), "sparse: no such folder"),
    ("cmu", "cmu", edit("intrinsics.txt", "OPENCV 320", "OPENCV"), r"intrinsics\.txt:2: "),
    ("cmu", "cmu", edit("intrinsics.txt", "c1 ", "c2 "), "is of no camera of intrinsics.txt"),
    ("cmu", "cmu", remove("slice2/test-images-slice2.txt"), "no such file"),
    ("cmu", "cmu", edit("slice2/camera-poses/slice.txt", "us.jpg ", "us.jpg 1 "),
     r"slice\.txt:1: 9 values"),
    ("inloc", "inloc", remove("query"), "no photos in it"),
    ("inloc", "inloc", remove("database/cutouts"), "no photos in it"),
    ("inloc", "inloc", remove(f"{CUTOUT}.mat"), "no such file, of database/cutouts/DUC1/000"),
    ("inloc", "inloc", remove("database/alignments/DUC1/transformations/DUC_trans_003.txt"),
     "no such file, of database/cutouts/DUC1/003"),
    ("four_seasons", "4seasons", remove("validation"), "no sequence in it"),
    ("four_seasons", "4seasons", remove("reference/poses.txt"), "no such file"),
    ("four_seasons", "4seasons", edit("reference/poses.txt", "1000, ", "1000, 5, "),
     r"poses\.txt:2: not a position and a unit quaternion"),
    ("four_seasons", "4seasons", remove("reference/RelocalizationFilesVal"), "no such file"),
    ("four_seasons", "4seasons", write(VALIDATION, "# times\n"), "no queries in it"),
    ("four_seasons", "4seasons", write(VALIDATION, "5 2000 0 0 0 0 0 0 1\n"),
     "5 has no pose in poses.txt"),
    ("four_seasons", "4seasons", edit(VALIDATION, " 2000 ", " 2000 1 "), "10 values where 2 or 9"),
    ("four_seasons", "4seasons", edit(VALIDATION, " 2000 ", " 2009 "), "1 of the 2 images named"),
    ("four_seasons", "4seasons",
     edit("reference/Calibration/undistorted_calib_1.txt", "Pinhole", "Radial"),
     "not a calibration; write 'Pinhole"),
    ("four_seasons", "4seasons",
     edit("reference/Calibration/undistorted_calib_stereo.txt", "1.0", "x"), "not a 4x4 matrix"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "benchmark", "change", "told"), WRONG)
def test_malformed_forms_are_told(
    roots: dict[str, Path],
    tmp_path: Path,
    made: str,
    benchmark: str,
    change: Callable[[Path], None],
    told: str,
) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(roots[made], root)
    change(root)
    queries = root / "queries.txt" if benchmark == "colmap" else None
    if told == "0":  # nothing is wrong: one list is enough
        assert len(open_dataset(root, benchmark).queries) == 1
        return
    scene = "slice2" if benchmark == "cmu" else None
    with pytest.raises(SamfeatError, match=told) as error:
        open_dataset(root, benchmark, scene, queries=queries)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_conditions_of_robotcar_that_are_not_there_are_named(
    roots: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "robotcar"
    shutil.copytree(roots["robotcar"], root)
    assert len(open_dataset(root, "robotcar").queries) == 2
    assert not caplog.records  # a list says what is asked for
    (root / "robotcar_v2_test.txt").unlink()
    assert len(open_dataset(root, "robotcar").queries) == 2
    assert "2 of the 9 conditions" in caplog.text and "dusk, night-rain" in caplog.text


def test_names_that_there_are_not(roots: dict[str, Path]) -> None:
    root = roots["cambridge"]
    for arguments, told in (
        ((root, "oxford"), "--benchmark oxford: choose from aachen, "),
        ((root, "cambridge", "OldHospital"), "--scene OldHospital: choose from those in .*Shop"),
        ((roots["aachen_v1"], "aachen-v1", "a"), "--scene a: Aachen Day-Night v1.0 has no scenes"),
        ((roots["colmap"], "colmap"), "give --queries LIST"),
    ):
        with pytest.raises(SamfeatError, match=told):
            open_dataset(*arguments)
    with refused("--truth"):
        open_dataset(root, "cambridge", truth=root)


def test_a_model_is_written_as_it_was_read(city: City, tmp_path: Path) -> None:
    model = read_model(city.model)
    written = read_model(write_model(model, tmp_path / "same"))
    assert written.cameras == model.cameras and list(written.images) == list(model.images)
    for name, image in model.images.items():
        assert np.array_equal(written.images[name].points, image.points)
        assert np.array_equal(written.images[name].pose.qvec, image.pose.qvec)
        assert np.array_equal(written.images[name].pose.tvec, image.pose.tvec)
    for key in ("point_ids", "xyz", "colors", "errors", "track_lengths"):
        assert np.array_equal(getattr(written, key), getattr(model, key))
    import pycolmap

    theirs = pycolmap.Reconstruction(str(tmp_path / "same"))
    assert theirs.compute_num_observations() == model.num_observations
    first = theirs.points3D[int(model.point_ids[0])]
    seen = {(e.image_id, e.point2D_idx) for e in first.track.elements}
    assert seen == {
        (image.image_id, int(k))
        for image in model.images.values()
        for k in np.flatnonzero(image.points == 0)
    }


def test_a_part_of_a_model(city: City, tmp_path: Path) -> None:
    model = read_model(city.model)
    names = list(model.images)[:3]
    part = changed(model, keep=lambda name: name in names, rename=lambda name: f"x/{name}")
    assert list(part.images) == [f"x/{name}" for name in names]
    assert 0 < len(part.point_ids) < len(model.point_ids) and part.track_lengths.min() >= 1
    for name in names:
        old, new = model.images[name], part.images[f"x/{name}"]
        assert np.array_equal(part.xyz[new.points], model.xyz[old.points])
    read = read_model(write_model(part, tmp_path / "part"))
    assert read.num_observations == part.num_observations


def test_scaled_intrinsics() -> None:
    camera = Camera("OPENCV", 1000, 500, (800.0, 810.0, 500.0, 250.0, 0.1, 0.2, 0.3, 0.4))
    half = scaled(camera, 500, 250)
    assert half.params == (400.0, 405.0, 250.0, 125.0, 0.1, 0.2, 0.3, 0.4)
    assert scaled(half, 1000, 500) == camera
    with refused(problem="shape"):
        scaled(camera, 500, 500)


def test_distortion_of_an_nvm_turns_its_sign(city: City, tmp_path: Path) -> None:
    from small_city import model_of, radial, write_nvm

    model = model_of(city, lambda name: name, camera=radial)
    write_nvm(tmp_path / "a.nvm", model, distortion=0.25)
    told: list[float] = []

    def camera_of(name: str, focal: float, distortion: float) -> Camera:
        told.append(distortion)
        return Camera("SIMPLE_PINHOLE", 320, 240, (focal, 160.0, 120.0))

    read = read_nvm(tmp_path / "a.nvm", camera_of)
    assert set(told) == {0.25}
    assert np.allclose(read.xyz, model.xyz) and np.array_equal(read.colors, model.colors)
    for name, image in model.images.items():
        assert np.allclose(read.images[name].pose.centre, image.pose.centre)
        assert set(read.images[name].points) == set(image.points[image.points >= 0])


def test_a_fisheye_calibration(tmp_path: Path) -> None:
    path = tmp_path / "calib_0.txt"
    path.write_text("KannalaBrandt 501 502 399.5 200.5 0.1 0.2 0.3 0.4\n800 400\ncrop\n800 400\n")
    params = (501.0, 502.0, 399.5, 200.5, 0.1, 0.2, 0.3, 0.4)
    assert read_calibration(path) == Camera("OPENCV_FISHEYE", 800, 400, params)


def test_robotcar_without_the_lists_of_version_2(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["robotcar"], tmp_path / "v1")
    for name in ("test", "train"):
        (tmp_path / "v1" / f"robotcar_v2_{name}.txt").unlink()
    dataset = open_dataset(tmp_path / "v1", "robotcar")
    assert dataset.query_names == ["dawn/rear/2000.jpg", "night/left/2000.jpg"]
    assert dataset.conditions == ["dawn", "night"] and dataset.ground_truth is None
    assert [q.name for q in dataset.to_submit] == dataset.query_names


def test_public_poses_are_read_as_they_are_meant(roots: dict[str, Path], city: City) -> None:
    """Matrices, centres and relative poses: all come out as world to camera."""
    for made, benchmark, scene in (
        ("robotcar", "robotcar", None), ("cmu", "cmu", "slice2"), ("cmu", "cmu", "slice11"),
        ("four_seasons", "4seasons", None), ("cambridge", "cambridge", None),
        ("cambridge_release", "cambridge", None), ("seven_scenes", "7scenes", None),
    ):  # fmt: skip
        dataset = open_dataset(roots[made], benchmark, scene)
        assert dataset.ground_truth
        for pose in dataset.ground_truth.values():
            far = [
                np.abs(pose.centre - shot.pose.centre).max()
                + np.abs(pose.rotation - shot.pose.rotation).max()
                for shot in city.queries
            ]
            assert min(far) < 1e-6, (made, far)


def test_scans_that_are_none(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["inloc"], tmp_path / "inloc")
    dataset = open_dataset(tmp_path / "inloc", "inloc")
    assert dataset.scan_of is not None
    points, matrix = dataset.scan_of(CUTOUT)
    assert points.shape == (240, 320, 3) and matrix.shape == (4, 4)
    aligned = tmp_path / "inloc" / "database/alignments/DUC1/transformations/DUC_trans_000.txt"
    aligned.write_text("\n".join(aligned.read_text().split("\n")[:9]))
    with pytest.raises(SamfeatError, match=r"DUC_trans_000\.txt: lines 8 to 11 are no 4x4 matrix"):
        dataset.scan_of(CUTOUT)
    (tmp_path / "inloc" / f"{CUTOUT}.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(SamfeatError, match=r"jpg\.mat: no scan \("):
        dataset.scan_of(CUTOUT)


def test_depth_maps_that_are_none(roots: dict[str, Path], city: City, tmp_path: Path) -> None:
    shutil.copytree(roots["seven_scenes"] / "depth", tmp_path / "depth")
    folder = tmp_path / "depth" / "7scenes_heads" / "train" / "depth"

    def depth_of(name: str) -> Path:
        return folder / depth_name(layouts.seven_scenes_name(name))

    wrong = depth_of(city.database[3].name)
    small = np.zeros((24, 32), np.uint16)
    for told, change in (
        (("32x24", "320x240"), lambda: cv2.imwrite(str(wrong), small)),
        ("channels", lambda: cv2.imwrite(str(wrong), np.zeros((240, 320, 3), np.uint8))),
        ("cannot be read", lambda: wrong.write_text("no image")),
        ("no such depth map", wrong.unlink),
    ):
        change()
        with refused(wrong.name, told):
            depth_points.main(city.model, depth_of, tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_lists_of_retrieved_images_that_are_wrong(roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(roots["seven_scenes"], root)
    path = root / "7scenes_densevlad_retrieval_top_10" / "heads_top10.txt"
    lines = path.read_text().splitlines()
    for text, told in (
        ("\n".join(lines[:8]), ("no pair for query", "1 of 2 queries")),
        ("\n".join([*lines, f"{lines[0].split()[0]} seq-09/frame-000000.color.png"]), "seq-09"),
    ):
        path.write_text(text)
        with refused("heads_top10.txt", told):
            run(root, tmp_path / "out", RunOptions(benchmark="7scenes"))
    assert not (tmp_path / "out").exists()
