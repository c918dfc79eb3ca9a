"""Pairs of posed photos: against the exact geometry of a rendered city, and on real photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import posed_city
import pytest
import torch
from refusals import refused

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.geometry.homographies import pixel_grid
from samfeat_hloc.scenes import correspond
from samfeat_hloc.training.corners import gaussian_blur
from samfeat_hloc.training.depth_maps import find_depth_map, read_depth_map
from samfeat_hloc.training.pairs import PairBatch, PairOptions
from samfeat_hloc.training.posed_pairs import PosedSource, reprojection
from samfeat_hloc.training.posed_scene import PosedImage, PosedScene, read_scene
from samfeat_hloc.training.posed_views import Cache, PosedOptions, View, draw_views, look
from samfeat_hloc.training.reprojection import mutually_seen, sample_inverse_depth

SIDE = 128
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene() -> PosedScene:
    return posed_city.scene()


def same(first: PairBatch, second: PairBatch) -> bool:
    tensors, others = first.tensors(), second.tensors()
    return tensors.keys() == others.keys() and all(
        torch.equal(tensors[name], others[name]) for name in tensors
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_correspondences_are_exact_and_what_is_hidden_is_dropped(scene: PosedScene) -> None:
    rendered = {
        image.name: view for image, view in zip(scene.images, posed_city.views(), strict=True)
    }
    grid = pixel_grid(SIDE, SIDE)
    rng = np.random.default_rng(3)
    hidden, seen_there = 0, 0
    for _ in range(8):
        pair, _ = draw_views(scene, SIDE, PosedOptions(), rng, Cache(0))
        there, back = reprojection([pair], 0, CPU), reprojection([pair], 1, CPU)
        seen = mutually_seen(there, back)[0].flatten().numpy() > 0
        # random places between the pixels, through the renderer's own planes
        points = torch.from_numpy(rng.uniform(0, SIDE - 1, (2000, 2))).float()
        moved = there(points[None])[0].numpy()
        known = sample_inverse_depth(there.inverse_depth, points[None])[0].numpy() > 0
        expected, visible = through_the_city(pair, rendered, points.numpy())
        inside = ((expected > 0) & (expected < SIDE - 1)).all(1)
        error = np.linalg.norm(moved - expected, axis=1)
        whole = known & inside & visible & on_one_surface(pair[0], points.numpy())
        assert whole.sum() > 100
        assert error[whole].max() < 0.1
        assert np.quantile(error[known & inside & visible], 0.99) < 1, "nor much between two"
        # pixels that count as seen are visible, and the hidden ones do not count
        expected, visible = through_the_city(pair, rendered, grid.numpy())
        inside = ((expected >= 0) & (expected <= SIDE - 1)).all(1)
        clear = on_one_surface(pair[0], grid.numpy()) & on_one_surface(pair[1], expected)
        assert (visible & inside)[seen & clear].mean() > 0.999
        assert (visible & inside)[seen].mean() > 0.95
        assert seen[visible & inside].mean() > 0.8
        hidden += (inside & ~visible & clear).sum()
        seen_there += (seen & inside & ~visible & clear).sum()
    assert hidden > 1000, "the pairs show occlusion"
    assert seen_there < 0.01 * hidden


def on_one_surface(view: View, points: np.ndarray) -> np.ndarray:
    """Whether the depth map's pixels around a place are of one surface."""
    assert view.taught is not None
    groups = view.taught[1].astype(np.float32)
    alike = cv2.dilate(groups, np.ones((5, 5))) == cv2.erode(groups, np.ones((5, 5)))
    column, row = points.round().astype(int).clip(0, len(groups) - 1).T
    return alike[row, column]


def through_the_city(
    pair: tuple[View, View], rendered: dict, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """View points by the renderer: to the picture, by its planes to the other, to its view."""
    to_photo = [view.source.calibration @ np.linalg.inv(view.calibration) for view in pair]
    at = points @ to_photo[0][:2, :2].T + to_photo[0][:2, 2]
    found = correspond(rendered[pair[0].source.name], rendered[pair[1].source.name], at)
    back = np.linalg.inv(to_photo[1])
    return np.nan_to_num(found.keypoints @ back[:2, :2].T + back[:2, 2], nan=-1e3), found.visible


def test_a_batch_of_pairs_with_depth(scene: PosedScene) -> None:
    options = PairOptions(crop=SIDE, night=0.0, points=64, keypoints=64)
    batch = PosedSource([scene]).batch(6, options, generator())
    assert batch.image0.shape == batch.image1.shape == (6, 3, SIDE, SIDE)
    assert batch.valid.mean() > 0.8
    assert batch.present.sum(1).min() >= 5
    assert bool(torch.isfinite(batch.points1).all() & torch.isfinite(batch.corners1).all())
    assert look_alike(batch)
    # the teacher is the geometry: the same group on both sides, but at edges
    assert batch.teacher0 is not None
    assert batch.teacher0.shape == (6, 32, SIDE // 8, SIDE // 8)
    assert batch.taught.tolist() == [1] * 6
    valid = batch.valid > 0
    assert (batch.groups0 == batch.groups1)[valid].float().mean() > 0.9


def look_alike(batch: PairBatch, share: float = 0.6) -> bool:
    """Whether matched places look more alike than others, whatever the light."""
    side = batch.image0.shape[-1]

    def grey_at(images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        grid = (2 * points[:, :, None] + 1) / side - 1
        blurred = gaussian_blur(images.mean(1, keepdim=True), 1.0)
        found = torch.nn.functional.grid_sample(blurred, grid, align_corners=False)[:, 0, :, 0]
        return (found - found.mean(1, keepdim=True)) / found.std(1, keepdim=True)

    first, second = grey_at(batch.image0, batch.points0), grey_at(batch.image1, batch.points1)
    valid = batch.valid > 0
    wrong = valid & valid.roll(1, dims=1)
    right = (first - second)[valid].abs().mean()
    return bool(right < share * (first - second.roll(1, dims=1))[wrong].abs().mean())


def test_equal_generators_give_equal_batches(scene: PosedScene) -> None:
    options = PairOptions(crop=64, points=32, keypoints=32)
    first = PosedSource([scene], workers=1).batch(3, options, generator(7))
    again = PosedSource([scene], workers=4, cache_bytes=300_000).batch(3, options, generator(7))
    other = PosedSource([scene]).batch(3, options, generator(8))
    assert same(first, again)
    assert not same(first, other)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, images/ and depth/ in the three formats of depth maps."""
    root = tmp_path_factory.mktemp("posed")
    posed_city.write_model(root / "model", root / "images", "db/")
    (root / "depth" / "db").mkdir(parents=True)
    for number, image in enumerate(posed_city.scene().images):
        assert image.depth is not None
        depth, stem = image.depth(), root / "depth" / "db" / image.name
        if number % 3 == 0:
            height, width = depth.shape
            head = f"{width}&{height}&1&".encode()
            Path(f"{stem}.geometric.bin").write_bytes(head + depth.astype("<f4").tobytes())
        elif number % 3 == 1:
            np.save(stem.with_suffix(".npy"), depth)
        else:
            with h5py.File(stem.with_suffix(".h5"), "w") as file:
                file.create_dataset("depth", data=depth, compression="gzip")
    return root


def test_a_model_on_disk_gives_the_batches_of_the_scene(on_disk: Path, scene: PosedScene) -> None:
    options = PairOptions(crop=64, points=32, keypoints=32)
    bare = replace(scene, images=tuple(replace(image, taught=None) for image in scene.images))
    opened = PosedSource.open(on_disk / "model", on_disk / "images", on_disk / "depth")
    expected = PosedSource([bare]).batch(4, options, generator())
    found = opened.batch(4, options, generator())
    assert torch.equal(expected.image0, found.image0)
    torch.testing.assert_close(expected.points1, found.points1, atol=1e-3, rtol=0)
    assert found.teacher0 is None


def test_points_of_the_model_stand_in_for_depth(on_disk: Path) -> None:
    options = PairOptions(crop=SIDE, night=0.0, points=64, keypoints=64)
    source = PosedSource.open(on_disk / "model", on_disk / "images")
    batch = source.batch(6, options, generator(1))
    assert batch.valid.sum(1).min() > 10
    assert look_alike(batch)
    # detection is asked for next to the labels alone
    assert 0.02 < batch.valid0.mean() < 0.9
    assert float((batch.labels0 * (1 - batch.valid0)).sum()) < 0.02 * float(batch.labels0.sum())
    exact = PosedSource([posed_city.scene()])
    assert source.with_depth is False
    assert exact.with_depth is True


def test_real_photos_match_at_the_points_of_their_map(shared: Path) -> None:
    town = shared / "data" / "town"
    source = PosedSource.open(town / "3D-models" / "aachen_v_1_1", town / "images_upright")
    options = PairOptions(crop=192, night=0.0)
    batch = source.batch(6, options, generator(2))
    assert batch.valid.sum(1).min() >= 16
    assert look_alike(batch, 0.7)
    assert same(batch, source.batch(6, options, generator(2)))


def test_lens_distortion_is_undone(scene: PosedScene) -> None:
    plain = scene.images[0]
    fx, _, cx, cy = plain.camera.params
    camera = Camera("SIMPLE_RADIAL", plain.camera.width, plain.camera.height, (fx, cx, cy, -0.12))
    # the photo that a lens with this distortion takes
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    stored = np.stack([x, y], -1).reshape(-1, 2)
    rays = np.asarray(camera.to_pycolmap().cam_from_img(stored))
    at = (rays * fx + (cx, cy) - 0.5).reshape(*x.shape, 2).astype(np.float32)
    photo = cv2.remap(plain.photo(), at[..., 0], at[..., 1], cv2.INTER_CUBIC)
    bent = PosedImage("bent", camera, plain.pose, plain.points, lambda: photo)
    assert np.abs(bent.stored(bent.project(scene.xyz)[0]) - plain.project(scene.xyz)[0]).max() > 4
    matrix = np.array([[1.4, 0.2, 40], [-0.2, 1.4, 50], [0, 0, 1]])
    views = [look(image, matrix, 96, 1600, Cache(0)) for image in (plain, bent)]
    both = views[0].inside & views[1].inside
    assert both.mean() > 0.7
    difference = np.abs(views[0].image.astype(float) - views[1].image)[both]
    shifted = np.abs(views[0].image.astype(float) - np.roll(views[1].image, 2, 1))[both]
    assert difference.mean() < 0.25 * shifted.mean()
    np.testing.assert_allclose(views[0].calibration, views[1].calibration, atol=1e-9)


def test_inverse_depth_is_exact_on_planes_and_unknown_at_edges() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = 0.5 + 0.01 * x + 0.003 * y
    points = torch.tensor([[[1.25, 2.5], [5.9, 4.9], [6.0, 5.0], [6.2, 3.0], [-0.1, 2.0]]])
    found = sample_inverse_depth(plane[None], points)[0]
    expected = 0.5 + 0.01 * points[0, :3, 0] + 0.003 * points[0, :3, 1]
    torch.testing.assert_close(found[:3], expected)
    assert found[3:].tolist() == [0, 0]
    plane[:, 4:] *= 2  # another surface
    plane[0] = 0  # unknown
    edge = torch.tensor([[[3.5, 3.0], [3.0, 3.0], [4.0, 3.0], [2.0, 0.5]]])
    assert (sample_inverse_depth(plane[None], edge)[0] > 0).tolist() == [False, True, True, False]


def test_depth_maps_are_read_or_refused(tmp_path: Path) -> None:
    depth = np.array([[1.5, np.nan, -2], [np.inf, 0, 3]], np.float32)
    np.save(tmp_path / "a.npy", depth)
    np.testing.assert_array_equal(read_depth_map(tmp_path / "a.npy"), [[1.5, 0, 0], [0, 0, 3]])
    assert find_depth_map(tmp_path, "a.jpg") == tmp_path / "a.npy"
    assert find_depth_map(tmp_path, "b.jpg") is None
    large = np.arange(1.0, 7501).reshape(75, 100).astype(np.float32)
    for number, kwargs in enumerate(
        ({"compression": "gzip", "chunks": (32, 48)}, {"compression": "lzf"}, {})
    ):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("depth", data=large, **kwargs)
        np.testing.assert_array_equal(read_depth_map(tmp_path / f"{number}.h5"), large)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        part = file.create_dataset("depth", (90, 90), "f4", chunks=(30, 30), compression="gzip")
        part[:30, :30] = 2
    assert read_depth_map(tmp_path / "part.h5").sum() == 1800
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.geometric.bin").write_bytes(b"30&20&1&" + b"\0" * 100)
    (tmp_path / "not.h5").write_bytes(b"text")
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    for name in ("objects.npy", "cut.geometric.bin", "not.h5", "cube.npy"):
        with refused(name, "depth map"):
            read_depth_map(tmp_path / name)


def test_what_is_missing_is_said_when_opened(on_disk: Path, tmp_path: Path) -> None:
    model, images, depth = (on_disk / part for part in ("model", "images", "depth"))
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ((empty / "x", images, None), "empty/x", "no such"),
        ((empty, images, None), "empty", "COLMAP model"),
        ((model, empty, None), "model", "6 images"),
        ((model, images, empty), "model", "depth maps"),
    ]
    for paths, subject, problem in cases:
        with refused(subject, problem):
            PosedSource.open(*paths)
    turned = tmp_path / "turned"
    for path in (images / "db").iterdir():
        (turned / "db").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(turned / "db" / path.name), cv2.imread(str(path)).swapaxes(0, 1))
    with refused(problem=("240 x 320", "320 x 240")):
        PosedSource.open(model, turned)
    scene = read_scene(model, images, depth)
    with refused("posed photos", "one scene"):
        PosedSource([])
    millimetres = tuple(
        replace(image, depth=lambda image=image: 1000 * image.depth()) for image in scene.images
    )
    with refused(problem="depth map"):
        PosedSource([replace(scene, images=millimetres)])
    lonely = tmp_path / "lonely"
    posed_city.write_model(lonely / "model", lonely / "images")
    text = (lonely / "model" / "images.txt").read_text().splitlines()
    (lonely / "model" / "images.txt").write_text(f"{text[0]}\n\n{text[2]}\n\n")
    (lonely / "model" / "points3D.txt").write_text("1 0 0 1 9 9 9 0.1\n")
    with refused(problem="share"):
        PosedSource.open(lonely / "model", lonely / "images")
