"""Keypoint labels of posed photos arrive at the right places of the views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import posed_city
import pytest
import torch
from refusals import refused

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.training.keypoint_labels import KeypointLabels, PhotoLabels
from samfeat_hloc.training.megadepth import MegadepthSource
from samfeat_hloc.training.pairs import PairBatch, PairOptions
from samfeat_hloc.training.posed_pairs import PosedSource
from samfeat_hloc.training.posed_scene import PosedScene

SIDE = 96
OPTIONS = PairOptions(crop=SIDE, points=32, keypoints=48, night=0.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its photos, depth maps, and labels: every other point that a photo sees, in a file
    that knows the photos at twice their size."""
    root = tmp_path_factory.mktemp("labelled")
    posed_city.write_model(root / "model", root / "images")
    (root / "depth").mkdir()
    content = posed_city.scene()
    with h5py.File(root / "labels.h5", "w") as file:
        for image in content.images:
            assert image.depth is not None
            np.save(root / "depth" / Path(image.name).stem, image.depth())
            places = image.project(content.xyz[image.points[::2]])[0]
            group = file.create_group(image.name)
            group["keypoints"] = (2 * (places + 0.5) - 0.5).astype(np.float32)
            group["image_size"] = 2 * np.array((image.camera.width, image.camera.height))
    return root


def to_labels(batch: PairBatch, source: PosedSource, k: int, seed: int) -> np.ndarray:
    """How far the corners of views k are from the nearest label, pixels of the view."""
    drawn = draws(source, batch, seed)
    corners = (batch.corners0, batch.corners1)[k].numpy()
    distances = []
    for row, pair in enumerate(drawn):
        view = pair[k]
        labels = view.source.pinhole_labels()
        to_view = view.calibration @ np.linalg.inv(view.source.calibration)
        places = labels.keypoints @ to_view[:2, :2].T + to_view[:2, 2]
        there = corners[row][batch.present[row].numpy() > 0]
        distances.append(np.linalg.norm(there[:, None] - places[None], axis=2).min(1))
    return np.concatenate(distances)


def draws(source: PosedSource, batch: PairBatch, seed: int) -> list:
    """The views that a batch was made of."""
    from samfeat_hloc.training.posed_views import draw_views

    first = int(torch.randint(2**62, (1,), generator=generator(seed)))
    found = []
    for index in range(len(batch.image0)):
        rng = np.random.default_rng((first, index))
        scene = source.scenes[rng.integers(len(source.scenes))]
        found.append(draw_views(scene, SIDE, source.options, rng, source._cache)[0])
    return found


def test_labels_with_depth(on_disk: Path) -> None:
    labels = KeypointLabels(on_disk / "labels.h5")
    source = PosedSource.open(
        on_disk / "model", on_disk / "images", on_disk / "depth", labels=labels
    )
    batch = source.batch(4, OPTIONS, generator(2))
    assert batch.present.sum() > 30
    assert to_labels(batch, source, 0, 2).max() < 0.01
    # In the second view they are where depth takes them; that photo's labels are partly others.
    assert (to_labels(batch, source, 1, 2) < 0.2).mean() > 0.25
    assert float(batch.labels0.sum()) == pytest.approx(float(batch.present.sum()), rel=0.05)
    plain = PosedSource.open(on_disk / "model", on_disk / "images", on_disk / "depth")
    other = plain.batch(4, OPTIONS, generator(2))
    assert torch.equal(other.valid0, batch.valid0)
    assert not torch.equal(other.labels0, batch.labels0)


def test_labels_without_depth(on_disk: Path) -> None:
    labels = KeypointLabels(on_disk / "labels.h5")
    source = PosedSource.open(on_disk / "model", on_disk / "images", labels=labels)
    batch = source.batch(4, OPTIONS, generator(5))
    for k in (0, 1):
        assert to_labels(batch, source, k, 5).max() < 0.01
    # Detection counts wherever there is photo, descriptors at the map's points as ever.
    assert float(batch.valid0.mean()) > 0.9
    assert float(batch.labels1.sum()) >= 0.95 * float(batch.present.sum())
    plain = PosedSource.open(on_disk / "model", on_disk / "images")
    other = plain.batch(4, OPTIONS, generator(5))
    assert torch.equal(other.points0, batch.points0) and torch.equal(other.valid, batch.valid)
    assert float(other.valid0.mean()) < 0.5


def test_photos_without_labels_are_named_when_opened(on_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    path.write_bytes((on_disk / "labels.h5").read_bytes())
    with h5py.File(path, "a") as file:
        del file["0001.png"]
    with refused("images", ("1", "0001.png"), "samfeat label"):
        PosedSource.open(on_disk / "model", on_disk / "images", labels=KeypointLabels(path))
    scene = posed_city.scene()
    one = replace(
        scene.images[0], labels=lambda: PhotoLabels(np.zeros((0, 2)), np.zeros(0), (1, 1))
    )
    mixed = PosedScene((one, *scene.images[1:]), scene.xyz, scene.pairs)
    with refused("posed photos", "keypoint labels"):
        PosedSource([mixed])


def test_megadepths_labels_have_longer_names(on_disk: Path, tmp_path: Path) -> None:
    scene = tmp_path / "Undistorted_SfM" / "0007"
    scene.mkdir(parents=True)
    (scene / "sparse-txt").symlink_to(on_disk / "model")
    (scene / "images").symlink_to(on_disk / "images")
    depths = tmp_path / "depth_undistorted"
    depths.mkdir()
    (depths / "0007").symlink_to(on_disk / "depth")
    with h5py.File(tmp_path / "labels.h5", "w") as file, h5py.File(on_disk / "labels.h5") as known:
        for name in known:
            known.copy(name, file, f"0007/images/{name}")
    labels = KeypointLabels(tmp_path / "labels.h5")
    source = MegadepthSource.open(tmp_path, least_depth_bytes=0, labels=labels)
    assert source._posed.labelled
    assert source.batch(2, OPTIONS, generator(0)).present.sum() > 10


def test_labels_of_a_photo_with_distortion() -> None:
    image = posed_city.scene().images[0]
    camera = Camera("OPENCV", 320, 240, (260.0, 262.0, 158.0, 121.0, -0.2, 0.05, 0.002, -0.001))
    rng = np.random.default_rng(0)
    straight = rng.uniform((10, 10), (310, 230), (50, 2))
    bent = replace(image, camera=camera)
    stored = bent.stored(straight)
    assert np.abs(stored - straight).max() > 3
    np.testing.assert_allclose(bent.pinhole(stored), straight, atol=1e-3)
    known = PhotoLabels(stored.astype(np.float32), np.ones(50, np.float32), (320, 240))
    labels = replace(bent, labels=lambda: known).pinhole_labels()
    np.testing.assert_allclose(labels.keypoints, straight, atol=1e-3)
