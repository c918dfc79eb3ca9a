"""Up from the accelerometers that phones write into their photos."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from samfeat_hloc.colmap import alignment
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.colmap.registration import ImageEntry, empty_model
from samfeat_hloc.files.gravity import down_in_camera
from samfeat_hloc.files.positions import gps_of
from samfeat_hloc.pipelines import align_models

CAMERA = Camera("PINHOLE", 64, 48, (60.0, 60.0, 32.0, 24.0))
FRONT = "iPhone 12 front camera 2.71mm f/2.2"


def maker_note(acceleration: tuple[float, float, float], order: str = ">") -> bytes:
    """Apple's, with another tag before the accelerometer's."""
    name = b"MM" if order == ">" else b"II"
    head = b"Apple iOS\0\0\x01" + name
    tags = struct.pack(f"{order}H", 2) + struct.pack(f"{order}HHIi", 1, 9, 1, 14)
    tags += struct.pack(f"{order}HHII", 8, 10, 3, 14 + 2 + 24 + 4) + b"\0" * 4
    parts = [part for value in acceleration for part in (round(value * 100000), 100000)]
    return head + tags + struct.pack(f"{order}6i", *parts)


def photo(path: Path, note: bytes | None, lens: str = "iPhone 12 back camera") -> Path:
    exif = Image.Exif()
    block = exif.get_ifd(0x8769)
    block[0xA434] = lens
    if note is not None:
        block[0x927C] = note
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("held", "orientation", "acceleration", "down"),
    [
        ("upright, which is stored on its side", 6, (0, -1, 0), (1, 0, 0)),
        ("upside down", 8, (0, 1, 0), (-1, 0, 0)),
        ("its top to the left", 1, (-1, 0, 0), (0, 1, 0)),
        ("its top to the right", 3, (1, 0, 0), (0, -1, 0)),
        ("upright, its back turned to the floor", 6, (0, -0.8, -0.6), (0.8, 0, 0.6)),
        ("upright, its back turned to the sky", 6, (0, -0.8, 0.6), (0.8, 0, -0.6)),
        ("a little to its right", 6, (0.6, -0.8, 0), (0.8, -0.6, 0)),
        ("upright, and then turned upright by a program", 1, (0, -0.8, -0.6), (0, 0.8, 0.6)),
    ],
)
@pytest.mark.parametrize("order", [">", "<"])
def test_the_accelerometer_of_a_photo(
    tmp_path: Path, held: str, orientation: int, acceleration: tuple[float, float, float],
    down: tuple[float, float, float], order: str,
) -> None:  # fmt: skip
    path = photo(tmp_path / "a.jpg", maker_note(acceleration, order))
    assert down_in_camera(path, orientation) == pytest.approx(down, abs=1e-5)


def test_the_accelerometer_of_a_tiff(tmp_path: Path) -> None:
    """Whose EXIF Pillow reads from the file, when it is asked."""
    note = maker_note((0, -1, 0))
    block = {0xA434: "iPhone 12 back camera", 0x927C: note}
    Image.new("RGB", (64, 48)).save(tmp_path / "a.tif", tiffinfo={0x8769: block})
    assert down_in_camera(tmp_path / "a.tif", 6) == pytest.approx((1, 0, 0), abs=1e-5)
    assert gps_of(tmp_path / "a.tif") is None


def test_photos_that_do_not_tell(tmp_path: Path) -> None:
    good = maker_note((0, -1, 0))
    for note in (
        None, b"Nikon\0", b"Apple iOS\0", good[:40], good[:13] + b"X" + good[14:],
        maker_note((0, -0.5, 0)),  # moved
        maker_note((0, -0.1, -0.995)),  # of the floor
        good[:-4] + b"\0\0\0\0",  # a denominator of 0
    ):  # fmt: skip
        assert down_in_camera(photo(tmp_path / "a.jpg", note), 6) is None
    assert down_in_camera(photo(tmp_path / "a.jpg", good, FRONT), 6) is None


def pitched(number: int) -> Pose:
    """World to camera of a photo taken 20 degrees upwards, turned about the vertical (z up)."""
    level = Pose.from_matrix(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.zeros(3))
    half = np.deg2rad(20) / 2
    pitch = Pose(np.array([np.cos(half), np.sin(half), 0, 0]), np.zeros(3))
    half = np.deg2rad(4 * number) / 2
    about = Pose(np.array([np.cos(half), 0, 0, np.sin(half)]), np.array([number, 0.0, 0]))
    return pitch @ level @ about


def model_of(images: Path, wrong: int, *, told: bool = True) -> pycolmap.Reconstruction:
    """Twelve photos upwards at a facade in coordinates of their own; of some the accelerometer is
    wrong by 45 degrees."""
    names = [f"{number}.jpg" for number in range(12)]
    poses = {name: pitched(number) for number, name in enumerate(names)}
    for number, name in enumerate(names):
        down = poses[name].rotation @ [0, 0, -1]
        if number < wrong:
            half = np.sqrt(0.5)
            down = np.array([down[0], half * (down[1] - down[2]), half * (down[1] + down[2])])
        # the phone with its top to the left, whose photos are stored upright
        note = maker_note((-down[1], -down[0], -down[2]))
        photo(images / name, note if told else None)
    entries = {name: ImageEntry(number, 1, CAMERA) for number, name in enumerate(names, 1)}
    model = empty_model(entries, poses)
    quaternion = np.array([0.3, -0.2, 0.5, 0.7])
    turn = pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion))
    model.transform(pycolmap.Sim3d(0.31, turn, np.array([3.0, -2.0, 5.0])))
    return model


def off_vertical(model: pycolmap.Reconstruction) -> float:
    """Degrees between z and up as it was."""
    image = next(image for image in model.images.values() if image.name == "0.jpg")
    up = image.cam_from_world().rotation.matrix() @ [0, 0, 1]
    return float(np.degrees(np.arccos(np.clip(up @ (pitched(0).rotation @ [0, 0, 1]), -1, 1))))


@pytest.mark.parametrize(
    ("wrong", "told", "method", "degrees"),
    [(0, True, "gravity", 0.01), (4, True, "gravity", 0.01), (0, False, "upright", 22.0)],
)
def test_photos_that_look_up_are_levelled_by_it(
    tmp_path: Path, wrong: int, told: bool, method: str, degrees: float
) -> None:
    images, sparse = tmp_path / "images", tmp_path / "sparse"
    (sparse / "0").mkdir(parents=True)
    model_of(images, wrong, told=told).write_binary(str(sparse / "0"))
    (done,) = align_models.main(sparse, images, None)
    assert done.method == method and not done.metric
    assert done.levelled == (12 - wrong if told else 0)
    model = pycolmap.Reconstruction(str(sparse / "0"))
    assert off_vertical(model) < degrees
    line = align_models.in_words(done)
    assert "scale: arbitrary" in line
    if told:
        assert f"the accelerometers of {12 - wrong} photos" in line
        assert done.tilt == pytest.approx(20, abs=2.5)
    else:  # the photos look up, and the model with them
        assert off_vertical(model) > 15 and "as the photos are on average" in line
    assert align_models.alignments_in(sparse) == [done]


def test_two_photos_or_contradicting_ones_do_not_level(tmp_path: Path) -> None:
    model = model_of(tmp_path, 7)
    names = sorted(image.name for image in model.images.values())
    downs = {name: down_in_camera(tmp_path / name, 1) for name in names}
    given = {name: down for name, down in downs.items() if down is not None}
    scattered = {
        name: np.roll(down, number) for number, (name, down) in enumerate(sorted(given.items()))
    }
    for few in ({name: given[name] for name in names[-2:]}, scattered, {}):
        assert alignment.make_upright(model, {}, few).method == "upright"
