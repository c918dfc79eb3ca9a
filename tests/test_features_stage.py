"""The features stage: hloc's file, any photo, resumed where it stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from test_h5store import assert_equal

from samfeat_hloc.feature import extraction
from samfeat_hloc.feature.extraction import extract_batch, prepare
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files import provenance
from samfeat_hloc.files.feature_readers import FeatureReader
from samfeat_hloc.localization import decoded_photos, features, matches

OPTIONS = ExtractOptions(resize=64, max_keypoints=100, detection_threshold=0.0, precision="float32")


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    torch.manual_seed(0)
    return SAMFeat().eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of noise with structure, two sizes, one lying on its side by EXIF."""
    folder = tmp_path / "images"
    random = np.random.default_rng(0)
    for i in range(6):
        height, width = (120, 160) if i % 2 else (160, 120)
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / ("db" if i < 4 else "query/day") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return folder


NAMES = ["db/0.png", "db/1.png", "db/2.png", "db/3.png", "query/day/4.png", "query/day/5.png"]


class Counting:
    """Extraction that says what went through it."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.sizes: list[int] = []
        self.fail_after = fail_after

    def __call__(
        self, model: features.Extractor, images: Sequence[np.ndarray], options: ExtractOptions
    ) -> list[dict[str, np.ndarray]]:
        if self.fail_after is not None and len(self.sizes) >= self.fail_after:
            raise KeyboardInterrupt
        assert len({image.shape for image in images}) == 1
        self.sizes.append(len(images))
        return extract_batch(model, images, options)


def run(photos: Path, output: Path, model: SAMFeat, names: Sequence[str] = NAMES, **more) -> Path:  # type: ignore[no-untyped-def]
    keywords = {"options": OPTIONS, "batch_size": 2, "workers": 2, **more}
    return features.main(photos, names, output, model=model, **keywords)


def test_file_is_hlocs(photos: Path, tmp_path: Path, model: SAMFeat) -> None:
    output = run(photos, tmp_path / "f.h5", model)
    with h5py.File(output) as file:
        assert set(file) == {"db", "query"} and set(file["query/day"]) == {"4.png", "5.png"}
        group = file["db/1.png"]
        count = len(group["keypoints"])
        assert 0 < count <= 100
        assert group["keypoints"].dtype == np.float32 and group["keypoints"].shape == (count, 2)
        assert group["keypoint_scores"].shape == (count,)
        assert group["descriptors"].shape == (128, count)
        assert group["descriptors"].dtype == np.float16
        assert group["image_size"][()].tolist() == [160, 120]
        assert group["keypoints"].attrs["uncertainty"] == pytest.approx(160 / 64)
        keypoints = group["keypoints"][()]
        assert (keypoints >= 0).all() and (keypoints <= [159, 119]).all()
        expected = extract_batch(model, [photos / "db/1.png"], OPTIONS)[0]
        assert np.abs(keypoints - expected["keypoints"]).max() < 0.01
    record = provenance.read_hdf5(output)
    assert record is not None and record["config"]["resize"] == 64
    assert record["weights_sha256"] == model.weights_sha256


def test_skips_adds_and_redoes(photos: Path, tmp_path: Path, model: SAMFeat) -> None:
    output, count = tmp_path / "f.h5", Counting()
    run(photos, output, model, NAMES[:4], extract=count)
    assert count.sizes == [2, 2]
    run(photos, output, model, NAMES[:4], extract=count)
    assert count.sizes == [2, 2]
    before = provenance.file_hash(output)
    run(photos, output, model, extract=count)  # two more, of two sizes
    assert count.sizes == [2, 2, 1, 1] and provenance.file_hash(output) != before
    Image.new("RGB", (120, 160), (9, 9, 9)).save(photos / "db/0.png")
    run(photos, output, model, extract=count)  # one has changed; its batch is done again
    assert count.sizes == [2, 2, 1, 1, 2]
    with refused(problem=("max_keypoints", "100", "50")):
        options = ExtractOptions(**{**OPTIONS.asdict(), "max_keypoints": 50})
        run(photos, output, model, options=options)
    other = SAMFeat().eval()
    other.weights_sha256 = "f" * 64
    with refused(problem="weights_sha256"):
        run(photos, output, other)
    run(photos, output, other, overwrite=True, extract=count)
    assert sum(count.sizes) == 8 + 6


def test_an_image_of_the_same_size_in_bytes_is_noticed(
    photos: Path, tmp_path: Path, model: SAMFeat
) -> None:
    """One pixel in the middle of a file without compression; not a copied folder's dates."""
    for name in NAMES[:4]:
        with Image.open(photos / name) as photo:
            photo.save(photos / name.replace(".png", ".bmp"))
    names = [name.replace(".png", ".bmp") for name in NAMES[:4]]
    output, count = tmp_path / "f.h5", Counting()
    run(photos, output, model, names, extract=count)
    path = photos / names[1]
    content = bytearray(path.read_bytes())
    os.utime(path, (0, 0))
    run(photos, output, model, names, extract=count)
    assert count.sizes == [2, 2]
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)
    run(photos, output, model, names, extract=count)
    assert count.sizes == [2, 2, 2]
    run(photos, output, model, names, extract=count)
    assert count.sizes == [2, 2, 2]


def test_features_pooled_otherwise_are_not_taken(
    photos: Path, tmp_path: Path, model: SAMFeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, several = tmp_path / "one.h5", tmp_path / "several.h5"
    pooled = replace(OPTIONS, scales=(0.7, 1.0))
    run(photos, one, model)
    run(photos, several, model, options=pooled)
    monkeypatch.setattr(extraction, "COARSE_COSTS", extraction.COARSE_COSTS + 1)
    run(photos, one, model, extract=Counting(fail_after=0))  # of one scale it is as it was
    with refused(problem="coarse_costs"):
        run(photos, several, model, options=pooled)


def test_interrupted_run_goes_on(photos: Path, tmp_path: Path, model: SAMFeat) -> None:
    whole, output = run(photos, tmp_path / "whole.h5", model), tmp_path / "f.h5"
    with pytest.raises(KeyboardInterrupt):
        run(photos, output, model, extract=Counting(fail_after=2))
    assert not output.exists()
    count = Counting()
    run(photos, output, model, extract=count)
    assert len(count.sizes) == 2
    assert_equal(output, whole)


def test_exif_orientation(photos: Path, tmp_path: Path, model: SAMFeat) -> None:
    """A photo lying on its side has the features of the upright one, in stored pixels."""
    upright = Image.open(photos / "db/1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(photos / "side.png", exif=exif)
    output = run(photos, tmp_path / "f.h5", model, ["db/1.png", "side.png"], batch_size=1)
    with h5py.File(output) as file:
        expected, found = file["db/1.png/keypoints"][()], file["side.png/keypoints"][()]
        assert file["side.png/image_size"][()].tolist() == [120, 160]
        assert np.array_equal(file["db/1.png/descriptors"], file["side.png/descriptors"])
    turned = np.stack([expected[:, 1], 159 - expected[:, 0]], axis=1)
    assert np.abs(found - turned).max() < 1e-3


def test_image_without_keypoints(
    photos: Path, tmp_path: Path, model: SAMFeat, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(model, images, options):  # type: ignore[no-untyped-def]
        found = extract_batch(model, images, options)
        return [
            {**f, "keypoints": f["keypoints"][:0], "keypoint_scores": f["keypoint_scores"][:0],
             "descriptors": f["descriptors"][:, :0]}
            for f in found
        ]  # fmt: skip

    output = run(photos, tmp_path / "f.h5", model, NAMES[:1], extract=nothing)
    assert "no keypoints in db/0.png" in caplog.text
    with h5py.File(output) as file:
        assert file["db/0.png/keypoints"].shape == (0, 2)
        assert file["db/0.png/descriptors"].shape == (128, 0)


def test_bad_images(photos: Path, tmp_path: Path, model: SAMFeat) -> None:
    output = tmp_path / "f.h5"
    with refused(problem=("db/7.png", "db/8.png")):
        run(photos, output, model, [*NAMES, "db/7.png", "db/8.png"])
    with refused("image name '../images/db/0.png'", ".."):
        run(photos, output, model, ["../images/db/0.png"])
    with refused(photos, "no images"):
        run(photos, output, model, [])
    with refused("absent", "image folder"):
        run(tmp_path / "absent", output, model)
    whole = (photos / "query/day/5.png").read_bytes()
    (photos / "query/day/5.png").write_bytes(whole[: len(whole) // 2])
    count = Counting()
    with refused("query/day/5.png", "truncated"):
        run(photos, output, model, extract=count)
    assert not count.sizes  # told before work starts
    half = len(whole) // 2
    (photos / "query/day/5.png").write_bytes(whole[:half] + bytes(64) + whole[half + 64 :])
    with refused("query/day/5.png", "truncated"):
        run(photos, output, model)  # which only decoding shows
    assert not output.exists()
    (photos / "query/day/5.png").write_bytes(whole)
    count = Counting()
    run(photos, output, model, extract=count)
    assert sum(count.sizes) == 1  # all but the broken one had been kept


@pytest.mark.parametrize("storage", ["full", "quantised"])
def test_other_storage_is_read_as_any_file(
    storage: str, photos: Path, tmp_path: Path, model: SAMFeat
) -> None:
    """As hloc reads a file (`dataset.__array__()`), and through our own reader."""
    half = run(photos, tmp_path / "half.h5", model)
    other = run(photos, tmp_path / "other.h5", model, storage=storage)
    with h5py.File(half) as a, h5py.File(other) as b, FeatureReader(other) as reader:
        for name in NAMES:
            for key, error in (("keypoints", 0.0051), ("descriptors", 0.001)):
                stored = b[name][key].__array__()
                assert stored.dtype == np.float32
                difference = np.abs(stored - a[name][key].__array__().astype(np.float32))
                assert difference.max() <= error
            assert b[name]["keypoints"].attrs["uncertainty"] == a[name]["keypoints"].attrs[
                "uncertainty"
            ]  # fmt: skip
            assert (reader.descriptors(name) == b[name]["descriptors"][()].T).all()
            sizes = [f[name]["descriptors"].id.get_storage_size() for f in (a, b)]
            assert sizes[1] < sizes[0] if storage == "quantised" else sizes[1] == 2 * sizes[0]
    for path in (half, other):
        pairs = tmp_path / "pairs.txt"
        pairs.write_text("db/0.png db/2.png\n")
        matches.main(pairs, path, path.with_suffix(".matches.h5"))
    found = []
    for path in (half, other):
        with h5py.File(path.with_suffix(".matches.h5")) as file:
            found.append(file["db-0.png/db-2.png/matches0"][()])
    assert len(found[0]) == len(found[1]) and (found[0] == found[1]).mean() > 0.9
    with refused("other.h5", "storage"):
        run(photos, other, model)  # another form is another file
    with refused("storage half-way", "quantised"):
        run(photos, tmp_path / "no.h5", model, storage="half-way")


def test_decoders_that_resize_and_batches_in_turns_give_the_same(
    photos: Path, tmp_path: Path, model: SAMFeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExtractOptions(resize=96, max_keypoints=100, precision="float32")
    before = run(photos, tmp_path / "before.h5", model, options=options)
    monkeypatch.setitem(features._TURNS, "cpu", 2)
    sizes: list[tuple[int, ...]] = []

    def seen(image: Any, options: ExtractOptions) -> Any:
        sizes.append(image.shape)
        return prepare(image, options)

    monkeypatch.setattr(decoded_photos, "prepare", seen)
    after = run(photos, tmp_path / "after.h5", model, options=options)
    # Batches of other sizes may round a sum otherwise, so the last bit of a float16 may differ.
    with h5py.File(before) as one, h5py.File(after) as other:
        for name in NAMES:
            for key in ("keypoints", "keypoint_scores", "image_size"):
                np.testing.assert_allclose(other[name][key], one[name][key], rtol=1e-5, atol=1e-3)
            np.testing.assert_allclose(
                other[name]["descriptors"], one[name]["descriptors"], rtol=2**-10, atol=2**-14
            )
    assert len(sizes) == len(NAMES)
