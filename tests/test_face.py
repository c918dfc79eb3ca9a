"""The package as it is imported: its names, images in every form, two images matched."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

import samfeat_hloc
from samfeat_hloc import Camera, ExtractOptions, SAMFeat
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.options import ExtractKeywords
from samfeat_hloc.files.image_forms import as_photo, as_rgb

ROOT = Path(__file__).parents[1]
SHIFT = (24, 16)


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Random shapes (240, 320, 3)."""
    rng = np.random.default_rng(3)
    image = np.full((240, 320, 3), 90, np.uint8)
    for _ in range(150):
        x, y, w, h = (int(v) for v in rng.integers([0, 0, 4, 4], [320, 240, 40, 40]))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    return image


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip


def test_import_is_light_and_every_name_is_there() -> None:
    heavy = "torch", "pycolmap", "numpy", "cv2", "PIL", "h5py"
    code = f"""
import sys, samfeat_hloc as s
print([name for name in {heavy} if name in sys.modules])
from samfeat_hloc import *
print(SAMFeat.__name__, Camera.__name__, Localizer.__name__, match.__name__, run.__name__)
print(next(iter(PRESETS)), s.__version__ != "", set(s.__all__) <= set(dir(s)))
"""
    assert python(code).stdout.splitlines() == [
        "[]",
        "SAMFeat Camera Localizer match run",
        "samfeat_aachen True True",
    ]
    with pytest.raises(AttributeError, match="Samfeat"):
        samfeat_hloc.Samfeat  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("order", "warned"),
    [
        ("import pycolmap, samfeat_hloc", True),
        ("import samfeat_hloc, pycolmap", False),
        ("import zlib, pycolmap, samfeat_hloc", False),
    ],
)
def test_pycolmap_before_it_is_warned_of(order: str, warned: bool) -> None:
    said = python(order).stderr
    assert ("RuntimeWarning: pycolmap" in said) == warned, said
    assert said.startswith("<string>:1:") == warned, said  # the line that imports it


def test_extract_takes_images_in_every_form(
    model: SAMFeat, photo: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), photo[..., ::-1])
    whole = torch.from_numpy(photo).permute(2, 0, 1)
    expected = model.extract(photo)
    assert expected["image_size"].tolist() == [320, 240]
    forms = [
        path, str(path), Image.open(path), Image.fromarray(photo), whole, whole / 255, photo / 255
    ]  # fmt: skip
    for form in forms:
        assert torch.equal(model.extract(form)["keypoints"], expected["keypoints"])
    for found in model.extract(forms):
        assert torch.equal(found["keypoints"], expected["keypoints"])


def test_grey_images(photo: np.ndarray) -> None:
    grey = photo[..., 0]
    expected = np.stack([grey] * 3, axis=2)
    tensor = torch.from_numpy(grey.copy())[None]
    for form in (grey, Image.fromarray(grey), tensor, tensor / 255, np.float32(grey) / 255):
        assert np.array_equal(as_rgb(form), expected)


def test_a_pillow_image_is_as_it_is_stored_and_tells_its_orientation(
    photo: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(path, exif=exif)
    for form in (path, Image.open(path)):
        stored, orientation = as_photo(form)
        assert np.array_equal(stored, photo)
        assert orientation == 6
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SamfeatError) as caught:
        as_rgb(Image.open(path))
    assert caught.value.subject == str(path)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.int32),
        np.full((4, 4, 3), 200.0),
        np.full((4, 4, 3), np.nan, np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
        torch.zeros(4, 4, 3),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.int32),
        torch.full((3, 8, 8), 200.0),
        torch.full((3, 8, 8), -1.0),
        torch.full((3, 8, 8), torch.nan),
        [1, 2, 3],
    ],
)
def test_what_is_no_image_is_refused(wrong: object) -> None:
    with pytest.raises(SamfeatError) as caught:
        as_rgb(wrong)  # type: ignore[arg-type]
    assert caught.value.subject == "image"
    assert caught.value.mend


def test_keywords_of_extract_are_the_options() -> None:
    assert list(ExtractKeywords.__annotations__) == [field.name for field in fields(ExtractOptions)]


def test_match(model: SAMFeat, photo: np.ndarray) -> None:
    """Two crops of a photo: the matches lie where the crops say, on either side."""
    right, down = SHIFT
    found = samfeat_hloc.match(photo[:-down, :-right], photo[down:, right:], model=model)
    count = len(found.matches)
    assert count > 100
    assert found.matches.shape == (count, 2)
    assert found.matches.dtype == np.int64
    assert found.scores.shape == (count,)
    assert 0.9 < np.median(found.scores) <= 1
    error = np.linalg.norm(found.matched0 - found.matched1 - SHIFT, axis=1)
    assert np.mean(error < 0.5) > 0.9
    assert len(np.unique(found.matches[:, 0])) == len(np.unique(found.matches[:, 1])) == count


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_match_of_a_turned_photo(quarters: int, model: SAMFeat, photo: np.ndarray) -> None:
    """The photo turned to the right: matches are where the turn says, in the pixels given."""
    height, width = photo.shape[:2]
    turned = np.ascontiguousarray(np.rot90(photo, -quarters))
    found = samfeat_hloc.match(photo, turned, model=model, turned=True)
    assert found.turn == 90 * quarters
    x, y = found.matched0.T
    right, below = width - 1 - x, height - 1 - y
    places = {0: (x, y), 1: (below, x), 2: (right, below), 3: (y, right)}
    error = np.linalg.norm(found.matched1 - np.stack(places[quarters], axis=1), axis=1)
    assert len(error) > 100
    assert np.mean(error < 0.5) > 0.9
    if quarters == 2:  # without it nothing is left
        upright = samfeat_hloc.match(photo, turned, model=model)
        assert len(upright.matches) < len(error) / 2


def test_presets_of_match(photo: np.ndarray) -> None:
    few = ExtractOptions(max_keypoints=10)
    assert len(samfeat_hloc.match(photo, photo, preset=few).keypoints0) == 10
    with pytest.raises(SamfeatError) as caught:
        samfeat_hloc.match(photo, photo, preset="samfeat_achen")
    assert caught.value.subject == "preset"
    assert "samfeat_aachen" in caught.value.mend


def test_match_where_nothing_is_found(model: SAMFeat) -> None:
    wall = np.full((64, 64, 3), 128, np.uint8)
    found = samfeat_hloc.match(wall, wall, model=model, preset=ExtractOptions(border=32))
    assert (found.keypoints0.shape, found.matches.shape) == ((0, 2), (0, 2))
    assert (found.matched0.shape, found.scores.shape) == ((0, 2), (0,))


def test_cameras_of_pycolmap() -> None:
    params = [500.0, 320.0, 240.0, 0.1]
    theirs = pycolmap.Camera(model="SIMPLE_RADIAL", width=640, height=480, params=params)
    ours = Camera.of(theirs)
    assert ours == Camera("SIMPLE_RADIAL", 640, 480, tuple(params))
    assert Camera.of(ours) is ours
    with pytest.raises(SamfeatError) as caught:
        Camera.of({"model": "SIMPLE_RADIAL"})  # type: ignore[arg-type]
    assert "pycolmap.Camera" in caught.value.mend
