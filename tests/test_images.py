from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files import jpeg
from samfeat_hloc.files.images import (
    check_name,
    exif_orientation,
    images_in,
    read_image,
    read_photo,
)
from samfeat_hloc.files.orientation import keypoints_to_stored, to_upright, turned

HLOC_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def as_hloc_reads(path: Path) -> np.ndarray:
    return cv2.imread(str(path), HLOC_FLAGS)[:, :, ::-1]


@pytest.fixture
def pixels() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (5, 6, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def test_pixels_are_those_that_hloc_reads(shared: Path) -> None:
    paths = sorted((shared / "data" / "town" / "images_upright").rglob("*.jpg"))[::8]
    paths += sorted((shared / "data" / "photos").rglob("*.jpg"))[::25]
    paths += sorted((shared / "data" / "planar").rglob("*.png"))[::4]
    for path in paths:
        image = read_image(path)
        assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(image, as_hloc_reads(path), err_msg=str(path))


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0, "quality": 97}])
def test_a_jpeg_is_decoded_as_pillow_does(
    tmp_path: Path, pixels: np.ndarray, how: dict[str, Any]
) -> None:
    path = tmp_path / "1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif, **how)
    found = jpeg.pixels(path.read_bytes())
    assert found is not None and found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(found, np.asarray(Image.open(path)))
    np.testing.assert_array_equal(found, read_photo(path)[0])
    assert read_photo(path)[1] == 6


def test_only_a_whole_jpeg_is_for_opencv(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "1.jpg"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    for cut in (len(whole) - 2, len(whole) // 2, 30):
        assert jpeg.pixels(whole[:cut]) is None
        path.write_bytes(whole[:cut])
        with refused(path, "truncated or broken"):
            read_photo(path)
    assert jpeg.pixels(whole + b"appended by a phone") is not None
    assert jpeg.pixels(b"\xff\xda no image \xff\xd9") is None


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_by_their_value_range(
    tmp_path: Path, ending: str, channels: int
) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    path = tmp_path / f"deep.{ending}"
    cv2.imwrite(str(path), values)
    wanted = (values >> 8).astype(np.uint8)
    wanted = np.repeat(wanted, 3, axis=2) if channels == 1 else wanted[:, :, 2::-1]
    np.testing.assert_array_equal(read_image(path), wanted)
    assert np.abs(read_image(path).astype(int) - as_hloc_reads(path)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_grey_alpha_and_palette(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    image = Image.fromarray(pixels).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(pixels[:, :, 0]))
    path = tmp_path / "image.png"
    image.save(path)
    read = read_image(path)
    assert read.shape == pixels.shape
    np.testing.assert_array_equal(read, as_hloc_reads(path))
    if mode == "RGBA":  # Transparency is dropped, not blended with some background.
        np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_not_inverted(tmp_path: Path, pixels: np.ndarray, adobe: bool) -> None:
    path = tmp_path / "print.jpg"
    Image.fromarray(pixels).convert("CMYK").save(path, quality=100)
    if not adobe:
        data = path.read_bytes()
        at = data.find(b"\xff\xee")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        path.write_bytes(data[:at] + data[at + 2 + length :])
    assert np.abs(read_image(path).astype(int) - as_hloc_reads(path)).max() <= 1
    if adobe:
        assert np.abs(read_image(path).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_told_but_not_applied(
    tmp_path: Path, pixels: np.ndarray, orientation: int, ending: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(pixels).save(path, exif=exif, **options.get(ending, {}))
    image = read_image(path)
    assert image.shape == pixels.shape
    assert np.abs(image.astype(int) - pixels).mean() < 2
    assert exif_orientation(path) == orientation
    if ending == "jpg":
        np.testing.assert_array_equal(image, as_hloc_reads(path))
        applied = cv2.imread(str(path))[:, :, ::-1]
        np.testing.assert_array_equal(to_upright(image, orientation), applied)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_keypoints_come_back_to_the_stored_image(orientation: int) -> None:
    stored = np.arange(7 * 5).reshape(7, 5)
    upright = to_upright(stored, orientation)
    y, x = (axis.ravel() for axis in np.indices(upright.shape))
    keypoints = np.stack([x, y], axis=1).astype(np.float32)
    back = keypoints_to_stored(keypoints, orientation, (5, 7))
    assert back.dtype == np.float32
    back_x, back_y = back.astype(int).T
    np.testing.assert_array_equal(stored[back_y, back_x], upright[y, x])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("quarters", range(4))
def test_turned_further(orientation: int, quarters: int) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    upright = to_upright(image, orientation)
    further = to_upright(image, turned(orientation, quarters))
    np.testing.assert_array_equal(further, np.rot90(upright, -quarters))


def test_an_invalid_orientation_counts_as_upright(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    assert exif_orientation(tmp_path / "a.jpg") == 1


def refusal(path: Path) -> str:
    with pytest.raises(SamfeatError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_broken_files_are_named(tmp_path: Path, pixels: np.ndarray) -> None:
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    for share in (0.02, 0.3, 0.9, 0.99):
        cut = tmp_path / "cut.jpg"
        cut.write_bytes(data[: int(share * len(data))])
        assert "truncated" in refusal(cut) or share < 0.1
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert "truncated" in refusal(tmp_path / "cut.png")
    Image.fromarray(noise).save(tmp_path / "whole.tif")
    data = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    refusal(tmp_path / "cut.tif")

    (tmp_path / "none.jpg").touch()
    assert "0 bytes" in refusal(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no photo\n" * 50)
    assert "not an image" in refusal(tmp_path / "text.jpg")
    assert "no such image" in refusal(tmp_path / "missing.jpg")
    assert "folder" in refusal(tmp_path)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    assert "32 bits" in refusal(tmp_path / "float.tif")


def test_the_first_of_several_images_is_read_and_said_once(
    tmp_path: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = [Image.fromarray(np.roll(pixels, 9 * page, axis=0)) for page in range(3)]
    first.save(tmp_path / "scan.tif", save_all=True, append_images=others)
    first.save(tmp_path / "walk.webp", save_all=True, append_images=others, lossless=True)
    first.save(tmp_path / "walk.gif", save_all=True, append_images=others)
    first.save(tmp_path / "one.tif")
    counts = {path.name: images_in(path) for path in tmp_path.iterdir()}
    assert counts == {"scan.tif": 3, "walk.webp": 3, "walk.gif": 3, "one.tif": 1}
    with caplog.at_level("WARNING"):
        read_image(tmp_path / "one.tif")
        assert not caplog.records
        for name in ("scan.tif", "walk.webp"):
            assert np.array_equal(read_image(tmp_path / name), pixels)
    (said,) = caplog.records
    assert "scan.tif" in said.getMessage() and "3 images" in said.getMessage()
    checked = CliRunner().invoke(app, ["check", str(tmp_path)])
    listed = [line.split()[1] for line in checked.output.splitlines() if line.startswith("several")]
    assert listed == ["scan.tif:", "walk.webp:"]  # a GIF is left out, and said so


def test_smaller_copies_and_phones_further_pictures_are_no_images(
    tmp_path: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Image.fromarray(pixels)
    small = whole.resize((16, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    whole.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[small])
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.n_frames == 2
        assert images_in(path) == 1
        assert read_image(path).shape == pixels.shape
    assert not caplog.records


def test_a_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    def png(width: int, height: int) -> Path:
        path = tmp_path / "bomb.png"
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        return path

    assert "megapixels" in refusal(png(50_000, 40_000))
    assert "megapixels" not in refusal(png(100, 100))


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=400), prefix=st.sampled_from([b"", b"\xff\xd8\xff", b"II*\0", b"P6"])
)
def test_any_bytes_are_an_image_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, prefix: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(prefix + data)
    try:
        assert read_image(path).shape[2] == 3
    except SamfeatError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b.jpg",
        "a\tb.jpg",
        "a\xa0b.jpg",
        "/a.jpg",
        "../a.jpg",
        "db/../../a.jpg",
        "C:a.jpg",
        "C:/a.jpg",
        "db\\a.jpg",
        "db//a.jpg",
        "./a.jpg",
        "db/",
        "a\x00.jpg",
        "a\x07.jpg",
        "#1.jpg",
    ],
)
def test_unfit_names_are_refused(name: str) -> None:
    with pytest.raises(SamfeatError):
        check_name(name)


@pytest.mark.parametrize("name", ["a.jpg", "db/1.jpg", "query/é/ü..jpg", "a..b/c.jpg"])
def test_fit_names_are_returned(name: str) -> None:
    assert check_name(name) == name
