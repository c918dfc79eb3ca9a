"""One reader of COLMAP models: binary and text say the same, as pycolmap does, or why not."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mapped_scene
import numpy as np
import pycolmap
import pytest
from mapped_scene import CAMERA
from refusals import refused
from street_run import pose_at

from samfeat_hloc.colmap import model as model_module
from samfeat_hloc.colmap.model import open_in_pycolmap, read_content, read_model
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files import stamps
from samfeat_hloc.localization import localize, mapping, pairs, places
from samfeat_hloc.pipelines.summary import map_figures


@pytest.fixture
def town_model(shared: Path, tmp_path: Path) -> Path:
    source = shared / "data" / "town" / "3D-models" / "aachen_v_1_1"
    folder = shutil.copytree(source, tmp_path / "binary")
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def text_model(town_model: Path, tmp_path: Path) -> Path:
    text = tmp_path / "text"
    text.mkdir()
    pycolmap.Reconstruction(str(town_model)).write_text(str(text))
    return text


def old_model(folder: Path, scale: float = 1.0, points: bool = True) -> Path:
    """Two images in COLMAP's old text form, without rigs and frames; quaternions times `scale`."""
    folder.mkdir(parents=True, exist_ok=True)
    params = " ".join(map(str, CAMERA.params))
    (folder / "cameras.txt").write_text(
        f"7 {CAMERA.model} {CAMERA.width} {CAMERA.height} {params}\n"
    )
    lines = []
    for i in range(2):
        pose = pose_at(float(i))
        values = " ".join(repr(float(v)) for v in [*(pose.qvec * scale), *pose.tvec])
        lines += [f"{i + 1} {values} 7 db/{i}.jpg", "5 6 3 8 9 -1" if points else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    track = "3 0 10 1.7 128 127 126 0.5 1 0 2 0\n" if points else ""
    (folder / "points3D.txt").write_text(track)
    return folder


def test_text_and_binary_are_the_same_arrays(town_model: Path, text_model: Path) -> None:
    binary, text = read_model(town_model), read_model(text_model)
    assert list(binary.images) == list(text.images) and binary.cameras == text.cameras
    for name in ("point_ids", "xyz", "colors", "track_lengths"):
        np.testing.assert_array_equal(getattr(binary, name), getattr(text, name))
    np.testing.assert_allclose(binary.errors, text.errors)
    for name, image in binary.images.items():
        other = text.images[name]
        assert (image.image_id, image.camera_id) == (other.image_id, other.camera_id)
        np.testing.assert_array_equal(image.points, other.points)
        np.testing.assert_allclose(image.pose.qvec, other.pose.qvec, atol=1e-15)


@pytest.mark.parametrize("scale", [1.0005, 1.002, 0.995])
def test_quaternions_near_unit_length_are_normalised(tmp_path: Path, scale: float) -> None:
    model = old_model(tmp_path / "scaled", scale)
    for image in (read_model(model).images["db/1.jpg"].pose, read_content(model).poses["db/1.jpg"]):
        np.testing.assert_allclose(image.qvec, pose_at(1.0).qvec, atol=1e-15)
    for image in open_in_pycolmap(model).images.values():
        matrix = image.cam_from_world().matrix()[:, :3]
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


def test_a_quaternion_far_from_unit_length_is_refused_with_its_line(tmp_path: Path) -> None:
    model = old_model(tmp_path / "scaled", 1.02)
    for read in (read_model, read_content, open_in_pycolmap):
        with pytest.raises(SamfeatError) as caught:
            read(model)
        assert caught.value.subject == f"{model / 'images.txt'}:1"
        assert "'db/0.jpg' has length 1.02 instead of 1" in caught.value.problem


@pytest.mark.parametrize("count", [2, 3])
def test_images_without_lines_of_observations_are_refused(tmp_path: Path, count: int) -> None:
    model = old_model(tmp_path / "model")
    lines = (model / "images.txt").read_text().splitlines()[::2]
    lines += [lines[-1].replace("db/1.jpg", "db/2.jpg")] * (count - 2)
    (model / "images.txt").write_text("# IMAGE_ID ...\n" + "\n".join(lines) + "\n")
    for read in (read_model, read_content):
        with pytest.raises(SamfeatError) as caught:
            read(model)
        assert caught.value.subject == f"{model / 'images.txt'}:3"  # of the second image
        assert "no line of observations of image 'db/0.jpg'" in caught.value.problem
        assert "an empty line below every image" in caught.value.mend


def test_a_model_without_points_is_a_model(tmp_path: Path) -> None:
    text = old_model(tmp_path / "text", points=False)
    binary = tmp_path / "binary"
    binary.mkdir()
    pycolmap.Reconstruction(str(text)).write_binary(str(binary))
    for folder in (text, binary):
        model = read_model(folder)
        assert list(model.images) == ["db/0.jpg", "db/1.jpg"] and len(model.point_ids) == 0
        assert model.num_observations == 0 and model.mean_reprojection_error == 0
        assert model.camera_of("db/1.jpg") == CAMERA
        assert read_content(folder).num_points == 0


def test_the_last_image_may_lack_its_empty_line(tmp_path: Path) -> None:
    model = old_model(tmp_path / "model", points=False)
    path = model / "images.txt"
    path.write_text(path.read_text().rstrip("\n"))
    assert len(read_model(model).images) == 2


def test_poses_are_those_of_frames_and_rigs(tmp_path: Path) -> None:
    """Two cameras of a rig, as pycolmap places them; a frame that contradicts the images."""
    if not hasattr(pycolmap, "Rig"):
        pytest.skip("this pycolmap has no rigs")
    folder = old_model(tmp_path / "rigs")
    (folder / "cameras.txt").write_text(
        "\n".join(f"{i} PINHOLE 640 480 500 500 320 240" for i in (7, 8)) + "\n"
    )
    half = np.sqrt(0.5)
    sensor = Pose(np.array([half, 0, half, 0]), np.array([0.1, 0.2, 0.3]))
    rig = pose_at(3.0)
    right = sensor @ rig
    assert np.allclose(right.rotation, sensor.rotation @ rig.rotation)
    assert np.allclose(right.centre, rig.centre - rig.rotation.T @ sensor.rotation.T @ sensor.tvec)

    def numbers(pose: Pose) -> str:
        return " ".join(repr(float(v)) for v in [*pose.qvec, *pose.tvec])

    (folder / "rigs.txt").write_text(f"1 2 CAMERA 7 CAMERA 8 1 {numbers(sensor)}\n")
    (folder / "frames.txt").write_text(f"1 1 {numbers(rig)} 2 CAMERA 7 1 CAMERA 8 2\n")
    images = f"1 {numbers(rig)} 7 db/0.jpg\n\n2 {numbers(right)} 8 db/1.jpg\n\n"
    (folder / "images.txt").write_text(images)
    (folder / "points3D.txt").write_text("")
    binary = tmp_path / "binary"
    binary.mkdir()
    reference = pycolmap.Reconstruction(str(folder))
    reference.write_binary(str(binary))
    for model in (folder, binary):
        for name, image in read_model(model).images.items():
            expected = next(i for i in reference.images.values() if i.name == name)
            matrix = np.c_[image.pose.rotation, image.pose.tvec]
            np.testing.assert_allclose(matrix, expected.cam_from_world().matrix(), atol=1e-12)

    (folder / "images.txt").write_text(images.replace(numbers(right), numbers(rig)))
    with refused("frames.txt", "db/1.jpg"):
        read_model(folder)


BROKEN: dict[str, tuple[str, Callable[[str], str], str]] = {
    "camera": ("cameras", lambda t: t.replace("PINHOLE", "PINHOLES"), ":1"),
    "size": ("cameras", lambda t: t.replace("640", "0"), ":1"),
    "observations": ("images", lambda t: t.replace("8 9 -1", "8 9 x", 1), ":2"),
    "short": ("images", lambda t: t.replace("8 9 -1", "8 9", 1), ":2"),
    "foreign point": ("images", lambda t: t.replace("5 6 3", "5 6 4", 1), ""),
    "foreign camera": ("images", lambda t: t.replace(" 7 db/1", " 8 db/1"), ""),
    "name twice": ("images", lambda t: t.replace("db/1", "db/0"), ""),
    "colour": ("points3D", lambda t: t.replace("128", "300"), ":1"),
    "point twice": ("points3D", lambda t: t * 2, ""),
}


@pytest.mark.parametrize("what", BROKEN)
def test_damaged_text_is_named_with_its_line(tmp_path: Path, what: str) -> None:
    part, damage, line = BROKEN[what]
    model = old_model(tmp_path / "model")
    assert len(read_model(model).point_ids) == 1
    path = model / f"{part}.txt"
    path.write_text(damage(path.read_text()))
    with pytest.raises(SamfeatError) as caught:
        read_model(model)
    assert caught.value.subject == f"{path}{line}"


def test_a_model_is_read_once(town_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "TICK", 0)
    reads = []
    real = model_module._read
    monkeypatch.setattr(model_module, "_read", lambda folder: reads.append(folder) or real(folder))
    first = read_model(town_model)
    assert read_model(town_model) is first
    moved = town_model.rename(town_model.with_name("moved"))  # as a map that is put in its place
    assert read_model(moved) is first and len(reads) == 1
    assert read_content(moved).poses.keys() == first.images.keys()
    with pytest.raises(ValueError, match="read-only"):
        first.xyz[0] = 0
    # another file in its place, of the same length
    images = (moved / "images.bin").read_bytes()
    changed = bytearray(images)
    struct.pack_into("<d", changed, 8 + 4 + 32, 12.5)
    for extra in ("rigs.bin", "frames.bin"):  # which have the poses too
        (moved / extra).unlink()
    (moved / "images.bin").write_bytes(changed)
    again = read_model(moved)
    assert again is not first and len(reads) == 2
    assert next(iter(again.images.values())).pose.tvec[0] == 12.5


def test_a_point_that_is_nowhere_is_refused_in_binary_files_too(town_model: Path) -> None:
    path = town_model / "points3D.bin"
    data = bytearray(path.read_bytes())
    struct.pack_into("<d", data, 8 + 8, np.nan)  # x of the first, behind their number and its id
    path.write_bytes(data)
    with pytest.raises(SamfeatError, match="point is not finite") as caught:
        read_model(town_model)
    assert caught.value.subject == str(path)


def test_a_copy_with_the_time_of_what_lay_there_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "points3D.bin"
    path.write_bytes(b"old")
    before, stat = stamps.Stamp.of(path), path.stat()
    path.write_bytes(b"new")  # in the same place, as a copy comes to lie where one was deleted
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = stamps.Stamp.of(path)
    assert after[:4] == before[:4] and after != before
    assert not stamps.settled([after])


def test_a_run_reads_each_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pycolmap reads the reference model too: the triangulation is its own."""
    monkeypatch.setattr(stamps, "TICK", 0)
    files = mapped_scene.build(tmp_path / "scene")
    reads: list[Path] = []
    real = model_module._read
    monkeypatch.setattr(model_module, "_read", lambda folder: reads.append(folder) or real(folder))
    pairs.from_covisibility(files.reference, tmp_path / "pairs.txt", num_matched=3)
    map_dir = mapping.main(files.mapping(), files.root / "map")
    map_figures(map_dir)
    inputs = files.localization()
    kept = places.main(inputs, tmp_path / "pairs-places.txt")
    localize.main(replace(inputs, pairs=kept), tmp_path / "poses.txt")
    read_content(map_dir)
    assert [folder.name for folder in reads] == ["aachen_v_1_1", "model"]  # renamed to "map" later
