"""What a teacher says of a photo arrives at the right places of the views."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc.files.h5store import SegmentWriter
from samfeat_hloc.files.provenance import made_by
from samfeat_hloc.geometry.homographies import (
    HomographyOptions,
    pixel_grid,
    sample_views,
    transform,
)
from samfeat_hloc.teachers.cache import FORMAT, Taught, TeacherCache, pack
from samfeat_hloc.training.homography_pairs import HomographySource
from samfeat_hloc.training.keypoint_labels import KeypointLabels, labels_in_views
from samfeat_hloc.training.pairs import PairOptions
from samfeat_hloc.training.photos import PhotoSet
from samfeat_hloc.training.taught import warp_taught

SIDE = 96


def ramp(height: int, width: int) -> np.ndarray:
    """A map (2, h, w) that holds where on the photo each of its cells lies, from 0 to 1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([(x + 0.5) / width, (y + 0.5) / height])


def views_of(sizes: torch.Tensor) -> torch.Tensor:
    options = HomographyOptions(rotation=50.0)
    return sample_views(sizes, SIDE, options, torch.Generator().manual_seed(3))[0]


def test_maps_of_any_resolution_cover_the_photo() -> None:
    sizes = torch.tensor([[300.0, 200.0], [240.0, 300.0], [300.0, 300.0]])
    entries = [
        Taught(
            ramp(h, w),
            np.repeat(np.arange(2 * w)[None], 2 * h, 0).astype(np.int32),
            ramp(3 * h, 3 * w)[0],
        )
        for h, w in ((40, 60), (75, 60))
    ]
    aside = torch.tensor([[1.0, 0, -130], [0, 1, -80], [0, 0, 1]])  # part of the views is no photo
    to_photo = aside @ views_of(sizes)
    views = warp_taught([*entries, None], sizes, to_photo, SIDE)
    assert views.known.tolist() == [1, 1, 0]
    assert views.embedding.shape == (3, 2, SIDE // 8, SIDE // 8)
    assert (views.groups[2] == -1).all() and (views.edges[2] == 0).all()

    pixels = pixel_grid(SIDE, SIDE).expand(3, -1, 2)
    where = (transform(to_photo, pixels) + 0.5) / sizes[:, None]
    inside = ((where > 0.02) & (where < 0.98)).all(-1)
    cells = pixel_grid(SIDE, SIDE, 8.0).expand(3, -1, 2)
    at_cells = (transform(to_photo, cells) + 0.5) / sizes[:, None]
    cells_inside = ((at_cells > 0.1) & (at_cells < 0.9)).all(-1)
    for b, columns in enumerate((120, 120)):
        edges = views.edges[b].flatten()[inside[b]]
        assert float((edges - where[b, inside[b], 0]).abs().max()) < 0.004
        expected = (where[b, inside[b], 0] * columns).floor()
        found = views.groups[b].flatten()[inside[b]]
        assert float((found - expected).abs().max()) <= 1  # rounding at a boundary
        assert float((found == expected).float().mean()) > 0.99
        embedding = views.embedding[b].flatten(1).T[cells_inside[b]]
        assert float((embedding - at_cells[b, cells_inside[b]]).abs().max()) < 0.01
    outside = ((where < 0) | (where > 1)).any(-1)
    assert outside[:2].any()
    assert (views.groups.flatten(1)[outside] == -1).all()
    assert (views.edges.flatten(1)[outside] == 0).all()


def test_labels_in_views(tmp_path: Path) -> None:
    path = tmp_path / "labels.h5"
    grid = np.meshgrid(np.arange(5.0, 299, 7), np.arange(3.0, 199, 7))
    on_photo = np.stack(grid, -1).reshape(-1, 2).astype(np.float32)
    scores = np.random.default_rng(0).permutation(len(on_photo)).astype(np.float32)
    with h5py.File(path, "w") as file:
        group = file.create_group("a/one.jpg")
        # The file knows the photo at twice the size that training sees.
        group["keypoints"] = 2 * (on_photo + 0.5) - 0.5
        group["keypoint_scores"] = scores
        group["image_size"] = np.array([600, 400])
    labels = KeypointLabels(path)
    assert labels.names == ["a/one.jpg"]
    sizes = torch.tensor([[300.0, 200.0]])
    to_photo = views_of(sizes)
    seen = torch.ones(1, SIDE, SIDE)
    points, present = labels_in_views([labels.read("a/one.jpg")], sizes, to_photo, seen, 6)
    back = transform(to_photo, points)[0][present[0] > 0]
    inverse = torch.linalg.inv(to_photo)
    there = transform(inverse, torch.from_numpy(on_photo)[None])[0].round()
    inside = ((there >= 0) & (there < SIDE)).all(-1)
    best = torch.from_numpy(scores).masked_fill(~inside, -1).topk(6).indices
    assert len(back) == 6 and torch.allclose(back, torch.from_numpy(on_photo)[best], atol=1e-2)
    points, present = labels_in_views([labels.read("a/one.jpg")], sizes, to_photo, 0 * seen, 6)
    assert float(present.sum()) == 0
    with refused(mend="samfeat label"):
        labels.read("other.jpg")


@pytest.fixture()
def photos() -> PhotoSet:
    rng = np.random.default_rng(4)
    canvases = rng.integers(0, 255, (3, 20, 20, 3), dtype=np.uint8)
    canvases = np.stack([cv2.resize(c, (200, 200)) for c in canvases])
    sizes = torch.tensor([[200, 200], [200, 160], [150, 200]])
    for canvas, (width, height) in zip(canvases, sizes.tolist(), strict=True):
        canvas[height:], canvas[:, width:] = 0, 0
    names = ("a.jpg", "b/c.jpg", "d.jpg")
    return PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), sizes, names)


def test_a_source_with_a_teacher_and_labels(photos: PhotoSet, tmp_path: Path) -> None:
    entry = Taught(
        np.concatenate([ramp(20, 20), np.ones((1, 20, 20), np.float32)]),
        (ramp(100, 100)[0] > 0.5).astype(np.int32),
        np.full((100, 100), 0.25, np.float32),
    )
    record = made_by("teach", {}, {})
    with SegmentWriter(tmp_path / "cache.h5", record) as writer:
        writer.add({name: pack(entry, (200, 200), "") for name in photos.names[:2]})
        text = h5py.string_dtype()
        root = {"format": FORMAT, "teacher": "test", "weights_sha256": ""}
        writer.finish(attributes={key: np.array(v, dtype=text) for key, v in root.items()})
    cache = TeacherCache(tmp_path / "cache.h5")
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        grid = np.stack(np.meshgrid(np.arange(5, 195, 10), np.arange(5, 155, 10)), -1)
        for name, size in zip(photos.names, photos.sizes.tolist(), strict=True):
            group = file.create_group(name)
            group["keypoints"] = grid.reshape(-1, 2).astype(np.float32)
            group["image_size"] = np.array(size)
    labels = KeypointLabels(tmp_path / "labels.h5")
    source = HomographySource(photos, HomographyOptions(), cache, labels)
    options = PairOptions(crop=SIDE, points=64, keypoints=32, night=0.0)
    batch = source.batch(8, options, torch.Generator().manual_seed(0))
    assert batch.teacher0 is not None and batch.teacher0.shape[2:] == (SIDE // 8, SIDE // 8)
    assert 0 < float(batch.taught.sum()) < 8  # the third photo has not been taught
    taught = batch.taught > 0
    both = taught[:, None] & (batch.groups0 >= 0) & (batch.groups1 >= 0)
    assert float((batch.groups0 == batch.groups1)[both].float().mean()) > 0.97
    assert set(batch.groups0[~taught].flatten().tolist()) == {-1}
    assert float((batch.edges0[taught] - 0.25).abs().median()) < 0.01
    assert float(batch.present.sum()) > 20
    again = source.batch(8, options, torch.Generator().manual_seed(0))
    assert torch.equal(batch.teacher0, again.teacher0) and torch.equal(batch.image1, again.image1)

    more = PhotoSet(photos.canvases, photos.sizes, (*photos.names[:2], "new.jpg"))
    with refused(problem="1 photos"):
        HomographySource(more, HomographyOptions(), None, labels)
