"""No photo of a folder is lost in silence: links, formats, names, broken files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.intrinsics import camera_from_exif
from samfeat_hloc.colmap.readable import readable
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files import images
from samfeat_hloc.files.image_folders import list_images, look
from samfeat_hloc.files.images import read_image
from samfeat_hloc.localization import features
from samfeat_hloc.parallel.image_checks import broken_images, refuse_broken
from samfeat_hloc.training.photos import PhotoFolder, pack

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def save(path: Path, format: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, format=format, **options)
    return path


def cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_what_is_there_is_listed(tmp_path: Path) -> None:
    for name in ["b.PNG", "db/2.jpg", "db/1.jpg"]:
        save(tmp_path / name)
    (tmp_path / "note.txt").write_text("a note\n")
    (tmp_path / "db" / "._1.jpg").touch()
    assert list_images(tmp_path) == ["b.PNG", "db/1.jpg", "db/2.jpg"]
    assert look(tmp_path).left_out == {}
    with refused(problem="image folder"):
        list_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with refused(problem="no image"):
        list_images(tmp_path / "empty")


def test_links_are_followed_and_their_loops_end(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "photos"
    for i in range(10):
        save(elsewhere / f"{i}.jpg")
    save(folder / "own.jpg")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "single.jpg").symlink_to(elsewhere / "0.jpg")
    (folder / "again").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    found = look(folder)
    assert found.names == [*(f"linked/{i}.jpg" for i in range(10)), "own.jpg", "single.jpg"]
    assert set(found.left_out) == {"again/", "linked/back/"}
    (tmp_path / "only").symlink_to(elsewhere)
    assert len(list_images(tmp_path / "only")) == 11 + 1  # those behind "back" too
    (folder / "gone.jpg").symlink_to(elsewhere / "none.jpg")
    os.mkfifo(folder / "pipe.jpg")
    for name in ("itself.jpg", ".itself.jpg"):
        (folder / name).symlink_to(folder / name)
    assert {"gone.jpg", "pipe.jpg", "itself.jpg", ".itself.jpg"} < look(folder).left_out.keys()


def test_every_photo_is_taken_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["a.jpg", "b.jfif", "c.webp", "d.bmp", "e.tiff"]:
        save(tmp_path / name, "JPEG" if name == "b.jfif" else None)
    optional = {"f.avif": "AVIF", "g.jp2": "JPEG2000"}
    written = [name for name in optional if f".{name[2:]}" in images.EXTENSIONS]
    for name in written:
        save(tmp_path / name, optional[name])
    raw = b"\0\0\0\x18ftypheic" + bytes(64)
    for name in ["h.cr2", "i.jxl", "j"]:
        (tmp_path / name).write_bytes(raw if name != "j" else (tmp_path / "a.jpg").read_bytes())
    (tmp_path / "l.mov").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(64))
    save(tmp_path / ".trash" / "k.jpg")
    with caplog.at_level("WARNING"):
        taken = list_images(tmp_path)
    assert taken == ["a.jpg", "b.jfif", "c.webp", "d.bmp", "e.tiff", *written]
    assert look(tmp_path).left_out.keys() == {"h.cr2", "i.jxl", "j", "l.mov", ".trash/"}
    assert f"{len(taken)} images are taken, 5 left out" in caplog.text
    for name in taken:
        assert read_image(tmp_path / name).shape == PIXELS.shape
    everything = {path.name for path in tmp_path.iterdir()}
    assert everything == {name.rstrip("/") for name in [*taken, *look(tmp_path).left_out]}


def test_heic_is_read_where_it_can_be_and_named_where_not(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    if ".heic" in images.EXTENSIONS:
        import pillow_heif

        pillow_heif.register_heif_opener()
        save(tmp_path / "b.heic", "HEIF")
        assert list_images(tmp_path) == ["a.jpg", "b.heic"]
        assert read_image(tmp_path / "b.heic").shape == PIXELS.shape
        return
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    found = look(tmp_path)
    assert found.names == ["a.jpg"] and "samfeat-hloc[heif]" in found.left_out["b.heic"]
    with pytest.raises(SamfeatError) as caught:
        read_image(tmp_path / "b.heic")
    assert "HEIC" in caught.value.problem and "samfeat-hloc[heif]" in caught.value.mend


def test_names_that_a_list_would_lose_are_all_refused_at_once(tmp_path: Path) -> None:
    for name in ["#1.jpg", "#2.jpg", "my photo.jpg", "a.jpg", "in/#3.jpg"]:
        save(tmp_path / name)
    with pytest.raises(SamfeatError) as caught:
        list_images(tmp_path)
    assert "3 of 5" in str(caught.value)
    for name in ["#1.jpg", "#2.jpg", "my photo.jpg"]:
        assert name in str(caught.value)
    for number in range(30):  # not a page of names
        save(tmp_path / f"my photo {number}.jpg")
    with refused(problem=("33 of 35", "and 29 more too", "samfeat check")):
        list_images(tmp_path)


def test_training_takes_names_that_no_list_could_hold(tmp_path: Path) -> None:
    """It writes no list."""
    for name in ["#1.jpg", "my photo.jpg", "a.jpg"]:
        save(tmp_path / "photos" / name)
    assert PhotoFolder.open(tmp_path / "photos").names == ("#1.jpg", "a.jpg", "my photo.jpg")
    assert len(pack(tmp_path / "photos", tmp_path / "packed")) == 3


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the owner may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "closed" / "b.jpg").parent.chmod(0)
    try:
        with refused(problem="closed"):
            look(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_all_broken_images_are_told_before_work_starts(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(8)]
    for name in names:
        save(tmp_path / name)
    for name in names[2:6]:
        cut(tmp_path / name)
    save(tmp_path / "page.png")
    (tmp_path / "page.png").write_text("<!DOCTYPE html><html>not found</html>")
    names.append("page.png")
    model = SAMFeat()
    with pytest.raises(SamfeatError) as caught:
        features.main(tmp_path, names, tmp_path / "f.h5", model=model, options=ExtractOptions())
    for name in [*names[2:6], "page.png"]:
        assert name in caught.value.problem
    assert "5 of 9" in caught.value.problem
    assert f"samfeat check {tmp_path}" in caught.value.mend
    assert not list(tmp_path.glob("f.h5*"))
    with refused(problem="4 of 8"):
        PhotoFolder.open(without(tmp_path, "page.png"))


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def test_images_broken_within_are_told_together_too(tmp_path: Path) -> None:
    """They begin and end as they should: only decoding shows it."""
    names = [f"{i}.png" for i in range(5)]
    for name in names:
        save(tmp_path / name)
    for name in names[3:]:
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
        (tmp_path / name).write_bytes(data)
    refuse_broken(tmp_path, names)
    assert list(broken_images(tmp_path, names, decode=True)) == names[3:]
    with pytest.raises(SamfeatError) as caught:
        features.main(
            tmp_path, names, tmp_path / "f.h5", model=SAMFeat(), options=ExtractOptions(),
            workers=1, batch_size=1,
        )  # fmt: skip
    assert "3.png" in caught.value.problem and "4.png" in caught.value.problem


def test_check_tells_everything(tmp_path: Path) -> None:
    for name in ["a.jpg", "b.jpg", "#c.jpg"]:
        save(tmp_path / name)
    cut(tmp_path / "b.jpg")
    (tmp_path / "d.cr2").write_bytes(b"raw")
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SamfeatError) and "2 of 3" in done.exception.problem
    for name in ["b.jpg", "#c.jpg", "d.cr2"]:
        assert name in done.output
    assert "1 of 4 photos can be used" in done.output
    for name in ["b.jpg", "#c.jpg"]:
        (tmp_path / name).unlink()
    assert CliRunner().invoke(app, ["check", str(tmp_path)]).exit_code == 0


def test_colmap_is_given_what_it_does_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pycolmap

    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 50.0, 0xA405: 50})
    save(tmp_path / "p" / "a.jpg", quality=100)
    names = ["a.jpg", "in/b.webp"]
    save(tmp_path / "p" / names[1], lossless=True, exif=exif.tobytes())
    if ".avif" in images.EXTENSIONS:
        names.append("c.avif")
        save(tmp_path / "p" / "c.avif")
    with readable(tmp_path / "p", names[:1], tmp_path) as folder:
        assert folder == tmp_path / "p"
    with caplog.at_level(logging.INFO), readable(tmp_path / "p", names, tmp_path) as folder:
        for name in names:
            read = pycolmap.Bitmap.read(str(folder / name), True).to_array()
            np.testing.assert_array_equal(read, read_image(tmp_path / "p" / name))
    assert not folder.exists()
    assert f"{len(names) - 1} of {len(names)}" in caplog.text
    camera = camera_from_exif(tmp_path / "p" / names[1])
    assert camera.params[0] == pytest.approx(np.hypot(96, 128) * 50 / np.hypot(24, 36), rel=0.01)


def test_an_ending_that_lies_is_no_matter(tmp_path: Path) -> None:
    """A WebP called .jpg: read, and converted for COLMAP."""
    save(tmp_path / "p" / "a.jpg", "WEBP")
    assert read_image(tmp_path / "p" / "a.jpg").shape == PIXELS.shape
    with readable(tmp_path / "p", ["a.jpg"], tmp_path) as folder:
        assert images.image_format(folder / "a.jpg") == "PNG"


@pytest.mark.parametrize(
    ("content", "word", "mend"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-LFS", "git lfs pull"),
        (b"<html><body>404</body></html>", "web page", "download"),
        (b"PK\x03\x04" + bytes(50), "zip", "unpack"),
        (b"%PDF-1.4 ", "PDF", ""),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "a video", "samfeat frames"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "a video", "samfeat frames"),
        (b"\x1aE\xdf\xa3" + bytes(50), "a video", "samfeat frames"),
    ],
)
def test_what_a_file_is_that_is_no_image(
    content: bytes, word: str, mend: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(SamfeatError) as caught:
        read_image(path)
    assert word in caught.value.problem and mend in caught.value.mend
