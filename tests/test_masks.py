"""Masks of photos: nothing is found where they are black, and what is found elsewhere stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import error_line, refused
from test_extract import photo  # noqa: F401  # a fixture

from samfeat_hloc.cli import main
from samfeat_hloc.feature import rootsift
from samfeat_hloc.feature.extraction import Masked, extract_batch, recorded
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files import provenance
from samfeat_hloc.files.masks import Masks, as_mask
from samfeat_hloc.localization import features, global_descriptors
from samfeat_hloc.pipelines.run_options import RunOptions

WAYS = {
    "one scale": ExtractOptions(max_keypoints=200, precision="float32"),
    "resized": ExtractOptions(resize=200, max_keypoints=200, precision="float32"),
    "several scales": ExtractOptions(
        scales=(0.5, 1.0, 1.4), max_keypoints=200, precision="float32"
    ),
    "official": ExtractOptions.from_keywords({"official": True, "max_keypoints": 50}),
}


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


def blob(shape: tuple[int, ...]) -> np.ndarray:
    """A mask (H, W) bool, black in an ellipse off the middle and at the left."""
    height, width = shape[:2]
    mask = np.full((height, width), 255, np.uint8)
    cv2.ellipse(mask, (2 * width // 3, height // 2), (width // 5, height // 4), 20, 0, 360, 0, -1)
    mask[:, : width // 8] = 0
    return mask > 0


def shown(keypoints: np.ndarray, mask: np.ndarray) -> np.ndarray:
    x, y = np.floor(keypoints + 0.5).astype(int).T
    return mask[y, x]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_keypoints_are_the_best_of_what_is_shown(
    model: SAMFeat,
    photo: np.ndarray,  # noqa: F811
    options: ExtractOptions,
) -> None:
    """As if the hidden ones had been struck from the list of all keypoints."""
    mask = blob(photo.shape)
    found = extract_batch(model, [Masked(photo, mask)], options)[0]
    assert shown(found["keypoints"], mask).all()
    every = ExtractOptions(**{**options.asdict(), "max_keypoints": None})
    everything = extract_batch(model, [photo], every)[0]
    keep = np.flatnonzero(shown(everything["keypoints"], mask))[: options.max_keypoints]
    assert not shown(everything["keypoints"], mask).all()
    assert options.max_keypoints is not None
    # those that a fraction of a pixel moved into the hidden part took a place
    assert options.max_keypoints - 12 < len(found["keypoints"]) <= options.max_keypoints
    expected = {tuple(xy) for xy in everything["keypoints"][keep].round(2).tolist()}
    same = [tuple(xy) in expected for xy in found["keypoints"].round(2).tolist()]
    assert np.mean(same) > 0.95
    first = found["keypoints"][:20]
    assert np.allclose(first, everything["keypoints"][keep][:20], atol=1e-3)
    whole = extract_batch(model, [Masked(photo, np.ones_like(mask))], options)[0]
    plain = extract_batch(model, [photo], options)[0]
    for key in ("keypoints", "keypoint_scores", "descriptors"):
        assert np.array_equal(whole[key], plain[key])  # type: ignore[literal-required]


def test_a_batch_gives_what_each_image_gives(
    model: SAMFeat,
    photo: np.ndarray,  # noqa: F811
) -> None:
    options = WAYS["resized"]
    mask = blob(photo.shape)
    images = [photo, photo[::-1].copy(), photo[:, ::-1].copy()]
    masks = [mask, None, torch.from_numpy(mask[::-1].copy())]
    together = model.extract(images, mask=masks, **options.asdict())
    for image, its, found in zip(images, masks, together, strict=True):
        alone = model.extract(image, mask=its, **options.asdict())
        assert torch.allclose(found["keypoints"], alone["keypoints"], atol=1e-3)
        assert torch.allclose(found["descriptors"], alone["descriptors"], atol=1e-4)
    assert (together[1]["keypoints"][:, 0] < photo.shape[1] // 8).any()
    nothing = model.extract(photo, mask=np.zeros_like(mask))
    assert nothing["keypoints"].shape == (0, 2) and nothing["descriptors"].shape == (128, 0)


def test_rootsift_has_its_number_too(photo: np.ndarray) -> None:  # noqa: F811
    mask = blob(photo.shape)
    options = ExtractOptions(max_keypoints=100, resize=200)
    found = rootsift.extract_batch(None, [Masked(photo, mask)], options)[0]
    assert shown(found["keypoints"], mask).all() and len(found["keypoints"]) == 100
    everything = rootsift.extract_batch(None, [photo], ExtractOptions(resize=200))[0]
    keep = np.flatnonzero(shown(everything["keypoints"], mask))[:60]
    assert np.allclose(found["keypoints"][:60], everything["keypoints"][keep])


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:  # noqa: F811
    """Two photos, and one lying on its side by EXIF; masks of the first and the last beside."""
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    Image.fromarray(photo).save(folder / "a/1.jpg", quality=95)
    Image.fromarray(photo[:, ::-1]).save(folder / "a/2.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise to see it upright
    Image.fromarray(np.rot90(photo)).save(folder / "side.png", exif=exif)
    (tmp_path / "masks/a").mkdir(parents=True)
    mask = blob(photo.shape)
    Image.fromarray(mask).save(tmp_path / "masks/a/1.jpg.png")  # of one bit
    Image.fromarray(np.rot90(mask) * np.uint8(7)).save(tmp_path / "masks/side.png.png")
    return folder


NAMES = ["a/1.jpg", "a/2.png", "side.png"]


def test_the_features_stage(
    photos: Path,
    tmp_path: Path,
    photo: np.ndarray,  # noqa: F811
    model: SAMFeat,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keywords: dict[str, Any] = {"model": model, "options": WAYS["resized"]}
    masks, output = Masks(tmp_path / "masks"), tmp_path / "f.h5"
    plain = features.main(photos, NAMES, tmp_path / "plain.h5", **keywords)
    with caplog.at_level("INFO"):
        features.main(photos, NAMES, output, masks=masks, **keywords)
    assert "2 of 3 photos have one" in caplog.text
    mask = blob(photo.shape)
    with h5py.File(output) as file, h5py.File(plain) as without:
        assert shown(file["a/1.jpg/keypoints"][()], mask).all()
        assert shown(file["side.png/keypoints"][()], np.rot90(mask)).all()
        assert not shown(without["side.png/keypoints"][()], np.rot90(mask)).all()
        assert np.array_equal(file["a/2.png/keypoints"], without["a/2.png/keypoints"])
        assert len(file["a/1.jpg/keypoints"]) > 190
    # The global descriptors know nothing of what is hidden either.
    vectors = global_descriptors.main(output, NAMES, [], tmp_path / "g.h5", clusters=4)
    with h5py.File(vectors) as file, h5py.File(output) as of:
        words = file.attrs["vocabulary"]
        rows = of["side.png/descriptors"][()].T.astype(np.float32)
        assert np.allclose(
            file["side.png/global_descriptor"], global_descriptors.vlad(rows, words), atol=1e-6
        )
    record = provenance.read_hdf5(output)
    assert record is not None and record["config"]["masks"] is True
    assert recorded(record["config"]) == WAYS["resized"]
    # Without them, or with them on other features: another file.
    with refused("f.h5", "masks was true"):
        features.main(photos, NAMES, output, **keywords)
    with refused("plain.h5", "masks was null"):
        features.main(photos, NAMES, plain, masks=masks, **keywords)
    # COLMAP's second name is found too.
    (tmp_path / "masks/side.png.png").rename(tmp_path / "masks/side.png")
    assert masks.path("side.png") == tmp_path / "masks/side.png"
    assert features.main(photos, NAMES, output, masks=masks, extract=None, **keywords) == output
    # A mask that has changed, and one that is gone: these photos are done again.
    before = provenance.file_hash(output)
    Image.fromarray(np.rot90(~mask)).save(tmp_path / "masks/side.png")
    (tmp_path / "masks/a/1.jpg.png").unlink()
    features.main(photos, NAMES, output, masks=masks, **keywords)
    assert provenance.file_hash(output) != before
    with h5py.File(output) as file, h5py.File(plain) as without:
        assert shown(file["side.png/keypoints"][()], np.rot90(~mask)).all()
        assert np.array_equal(file["a/1.jpg/keypoints"], without["a/1.jpg/keypoints"])


def test_masks_that_do_not_fit_are_told_before_any_work(
    photos: Path,
    tmp_path: Path,
    photo: np.ndarray,  # noqa: F811
    model: SAMFeat,
) -> None:
    def run(folder: Path) -> None:
        features.main(
            photos, NAMES, tmp_path / "f.h5", model=model, options=WAYS["resized"],
            masks=Masks(folder), extract=None,  # type: ignore[arg-type]
        )  # fmt: skip

    with refused("absent", "no such folder"):
        run(tmp_path / "absent")
    (tmp_path / "others").mkdir()
    Image.fromarray(blob(photo.shape)).save(tmp_path / "others/1.png")
    with refused("others", ("no mask", "3 photos", "but 1.png"), "a/1.jpg.png"):
        run(tmp_path / "others")
    (tmp_path / "empty").mkdir()
    with refused("empty", "no mask of any of the 3 photos in it", "a/1.jpg.png"):
        run(tmp_path / "empty")
    upright = tmp_path / "masks/side.png.png"
    Image.fromarray(blob(photo.shape)).save(upright)  # as it is seen
    height, width = photo.shape[:2]
    with refused(upright, (f"{width}x{height}", f"{height}x{width}", "stored"), "EXIF"):
        run(tmp_path / "masks")
    Image.fromarray(blob((60, 80))).save(tmp_path / "masks/a/1.jpg.png")
    with refused("masks/a/1.jpg.png", ("80x60", f"{width}x{height}", "2 of 2 masks")):
        run(tmp_path / "masks")
    with refused("images", "a/2.png in it is the photo itself"):
        run(photos)
    Path(tmp_path / "masks/a/1.jpg.png").write_bytes(b"no image")
    with refused("masks/a/1.jpg.png", "not an image"):
        run(tmp_path / "masks")
    assert not (tmp_path / "f.h5").exists()


def test_files_that_are_no_mask_of_a_photo_are_named(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: photos / name for name in NAMES}
    masks = Masks(tmp_path / "masks")
    with caplog.at_level("INFO"):
        masks.check(files)
    assert caplog.messages == ["masks: 2 of 3 photos have one"]
    caplog.clear()
    for name in ("a/2.jpg", "gone.jpg.png"):  # a mask that is no PNG; one whose photo is missing
        (tmp_path / "masks" / name).write_bytes(b"")
    (tmp_path / "masks/.DS_Store").write_bytes(b"")
    with caplog.at_level("INFO"):
        masks.check(files)
    assert caplog.messages[1] == (
        f"masks without a photo here, not used: 2 in {masks.folder} (a/2.jpg, gone.jpg.png)"
    )


def test_every_command_takes_them(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them look for the photos' masks before any work, and none is there."""
    (tmp_path / "none").mkdir()
    pose = "1 0 0 0 0 0 0"
    (tmp_path / "poses.txt").write_text("".join(f"{name} {pose}\n" for name in NAMES))
    width, height = Image.open(photos / NAMES[0]).size
    camera = f"PINHOLE {width} {height} 300 300 {width / 2} {height / 2}"
    posed = ["--poses", str(tmp_path / "poses.txt"), "--camera", camera]
    posed += ["--images", str(photos)]
    for command in (
        ["features", "--images", str(photos), "--output", str(tmp_path / "f.h5")],
        ["reconstruct", str(photos), "--outputs", str(tmp_path / "out")],
        ["map", "build", *posed, "--output", str(tmp_path / "map")],
        ["localize", str(photos / NAMES[0]), "--map", str(tmp_path / "map")],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--masks", str(tmp_path / "none")])
        assert ended.value.code == 1
        error_line(capsys.readouterr().err, "none", "no mask")
    with refused("--masks", "native"):
        RunOptions(engine="hloc", masks=tmp_path)


def test_every_form_of_a_mask(tmp_path: Path) -> None:
    expected = np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)
    deep = Image.fromarray(expected.astype(np.uint16))  # 1 of 65,535 is not black
    blue = Image.fromarray(expected[..., None] * np.array([0, 0, 1], dtype=np.uint8))
    for number, image in enumerate(
        [Image.fromarray(expected), deep, blue, blue.convert("RGBA"), blue.quantize(2)]
    ):
        image.save(tmp_path / f"{number}.png")
        assert np.array_equal(as_mask(tmp_path / f"{number}.png", (3, 2)), expected)
        assert np.array_equal(as_mask(image, (3, 2)), expected)
    for form in (expected, expected.astype(np.int64) * -3, torch.from_numpy(expected).float()):
        assert np.array_equal(as_mask(form, (3, 2)), expected)
    for wrong in (3, None, [[1]]):
        with refused("mask"):
            as_mask(wrong, (3, 2))  # type: ignore[arg-type]
    with refused("mask", "(2, 3, 2)"):
        as_mask(np.ones((2, 3, 2)), (3, 2))
    with refused("mask", ("3x2", "2x3", "stored")):
        as_mask(expected, (2, 3))


def test_extract_refuses_what_does_not_fit(model: SAMFeat) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    with refused("mask", ("64x48", "32x24"), "size"):
        model.extract(image, mask=np.ones((24, 32)))
    for masks in ([None], np.ones((48, 64))):
        with refused("mask", "2 images", "list"):
            model.extract([image, image], mask=masks)  # type: ignore[call-overload]
