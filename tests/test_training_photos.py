"""Photos packed into a file: the same pixels, flat memory, and no stale or broken files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc.files.images import read_image
from samfeat_hloc.files.locks import sole_run
from samfeat_hloc.geometry.homographies import HomographyOptions
from samfeat_hloc.training import photos
from samfeat_hloc.training.homography_pairs import make_pairs
from samfeat_hloc.training.pairs import PairOptions
from samfeat_hloc.training.photos import LONGEST, PackedPhotos, PhotoFolder, PhotoSet, pack

SIZES = ((480, 300), (120, 200), (1001, 777), (60, 33))  # width and height


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        name = f"b/{number}.jpg" if number % 2 else f"{number}.png"
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (width, height)))
    return folder


def in_memory(folder: Path) -> PhotoSet:
    """All photos of a folder, as plainly as can be."""
    canvases = np.zeros((4, LONGEST, LONGEST, 3), np.uint8)
    sizes, names = [], ("0.png", "2.png", "b/1.jpg", "b/3.jpg")
    for canvas, name in zip(canvases, names, strict=True):
        image = read_image(folder / name)
        if max(image.shape) > LONGEST:
            assert image.shape == (777, 1001, 3)
            image = cv2.resize(image, (480, 373), interpolation=cv2.INTER_AREA)
        canvas[: image.shape[0], : image.shape[1]] = image
        sizes.append(image.shape[1::-1])
    return PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.tensor(sizes), names)


def test_packed_photos_are_the_photos_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    plain, packed = in_memory(folder), pack(folder, tmp_path / "photos.pack")
    assert packed.names == plain.names == PhotoFolder.open(folder).names
    for drawn in ([2], [3, 0, 0, 1]):
        for found in (packed.read(drawn), PhotoFolder.open(folder).read(drawn)):
            assert torch.equal(found[0], plain.read(drawn)[0])
            assert torch.equal(found[1], plain.read(drawn)[1])
    some = PackedPhotos(packed.path, plain.names[1:3])
    assert torch.equal(some.read([1])[0], plain.read([2])[0])
    options = PairOptions(crop=64, points=16, keypoints=16)
    batches = [
        make_pairs(p, 5, options, HomographyOptions(), torch.Generator().manual_seed(3))
        for p in (plain, packed)
    ]
    for name, value in vars(batches[0]).items():
        other = getattr(batches[1], name)
        assert value is other or torch.equal(value, other), name


def test_photos_are_packed_once_and_anew_where_they_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "photos.pack"
    read: list[str] = []

    def counted(path: Path) -> np.ndarray:
        read.append(path.name)
        return read_image(path)

    monkeypatch.setattr(photos, "read_image", counted)
    pack(folder, path)
    pack(folder, path)
    assert sorted(read) == ["0.png", "1.jpg", "2.png", "3.jpg"]
    cv2.imwrite(str(folder / "b/3.jpg"), np.full((40, 40, 3), 7, np.uint8))
    changed = pack(folder, path)
    assert len(read) == 8
    assert changed.read([3])[1].tolist() == [[40, 40]]
    path.write_bytes(path.read_bytes()[:-100])  # cut off
    with refused("photos.pack", "packed photos"):
        PackedPhotos(path)
    assert torch.equal(pack(folder, path).read([3])[0], changed.read([3])[0])
    assert not list(path.parent.glob("*.tmp")) and not list(path.parent.glob("*.lock"))


def test_what_cannot_be_packed_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.pack"
    (folder / "b" / "2.jpg").write_bytes((folder / "b" / "1.jpg").read_bytes()[:300])
    with refused("b/2.jpg"):
        pack(folder, path)
    assert not list(tmp_path.glob("photos.pack*"))
    (folder / "b" / "2.jpg").unlink()
    path.write_text("my thesis")
    with refused("photos.pack", "packed photos", "data.packed"):
        pack(folder, path)
    assert path.read_text() == "my thesis"
    with (
        sole_run(tmp_path / "other.pack"),
        refused("other.pack", "process"),
    ):
        pack(folder, tmp_path / "other.pack")
    with refused("photos", "4", ("25", "data.validation")):
        PhotoFolder.open(folder).split()


def test_memory_does_not_grow_with_the_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    (tmp_path / "photos").mkdir()
    for number in range(60):
        photo = np.full((LONGEST, LONGEST, 3), number, np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number:02}.jpg"), photo)
    tracemalloc.start()
    try:
        packed = pack(tmp_path / "photos", tmp_path / "photos.pack")
        batches = [packed.read([i])[0][0, 0, 0, 0].item() for i in range(60)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert packed.path.stat().st_size > 60 * 3 * LONGEST**2
    assert peak < 15 * 3 * LONGEST**2  # a few that are decoded ahead, never all
    assert batches == sorted(batches) and batches[-1] == pytest.approx(59, abs=2)
