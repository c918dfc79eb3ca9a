"""Pairs of generated house fronts: what corresponds, what is hidden, light, and the recipe."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.geometry.homographies import HomographyOptions, transform
from samfeat_hloc.geometry.photometric import relight_night
from samfeat_hloc.scenes import (
    DAY,
    NIGHT,
    City,
    correspond,
    illuminate,
    light_in,
    look_at,
    project,
    render,
    textures,
)  # fmt: skip
from samfeat_hloc.scenes.relief import BACKGROUND, Front, build_front, street_things
from samfeat_hloc.scenes.render import free_sight, rolled
from samfeat_hloc.training import ablation, losses, processes, scene_pairs
from samfeat_hloc.training.data import open_data
from samfeat_hloc.training.homography_pairs import HomographySource
from samfeat_hloc.training.pairs import PairOptions, hidden_from
from samfeat_hloc.training.photos import PhotoSet, pack
from samfeat_hloc.training.posed_views import PosedOptions
from samfeat_hloc.training.recipe import LossOptions, read_recipe
from samfeat_hloc.training.scene_pairs import Pictures, SceneSource
from samfeat_hloc.training.trainer import batch_losses

RECIPE = Path("configs/homographies.yaml")
SIDE = 96
OPTIONS = PairOptions(crop=SIDE, points=64, keypoints=64, night=0.5, unseen=16)


@cache
def walls() -> list[np.ndarray]:
    """Five photos of different shapes, with corners everywhere."""
    rng = np.random.default_rng(5)
    made = []
    for high, wide in ((240, 320), (300, 200), (256, 256), (200, 300), (240, 320)):
        wall = textures.masonry(rng, high, wide, (150, 130, 110), (14, 30), variation=40.0)
        for _ in range(25):
            bill = textures.poster(rng, *rng.integers(20, 60, 2).tolist())
            y, x = (int(rng.integers(room - 60)) for room in (high, wide))
            wall[y : y + bill.shape[0], x : x + bill.shape[1]] = bill
        made.append(np.ascontiguousarray(wall[..., :3]))
    return made


@cache
def source() -> SceneSource:
    canvases = np.zeros((5, 480, 480, 3), np.uint8)
    for canvas, wall in zip(canvases, walls(), strict=True):
        canvas[: wall.shape[0], : wall.shape[1]] = wall
    sizes = torch.tensor([wall.shape[1::-1] for wall in walls()])
    return SceneSource(PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), sizes))


@cache
def drawn(seed: int) -> tuple[Front, Pictures]:
    """A scene, and two pictures of it."""
    made: list[Front] = []

    def kept(*arguments: object) -> Front:
        made.append(build_front(*arguments))  # type: ignore[arg-type]
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_pairs, "build_front", kept)
        rng = np.random.default_rng(seed)
        pictures = scene_pairs.picture(walls(), rng, SIDE, PosedOptions())
    return made[0], pictures


def first_hit(city: City, place: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """How far along ways (N, 3) from a place the first surface is, by trying every surface."""
    nearest = np.full(len(ways), np.inf)
    for origin, u, v, extent, normal in zip(
        city.origins, city.u, city.v, city.extents, city.normals, strict=True
    ):
        if (place - origin) @ normal <= 0:
            continue  # seen from behind
        with np.errstate(divide="ignore", invalid="ignore"):
            far = ((origin - place) @ normal) / (ways @ normal)
        at = place + far[:, None] * ways - origin
        inside = (at @ u >= 0) & (at @ u <= extent[0]) & (at @ v >= 0) & (at @ v <= extent[1])
        nearest = np.where(inside & (far > 0) & (far < nearest), far, nearest)
    return nearest


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_points_go_where_rays_through_the_scene_say(seed: int) -> None:
    front, pictures = drawn(seed)
    view0, view1 = pictures.views
    there, back = (
        scene_pairs._reprojection([pictures.views], k, torch.device("cpu")) for k in (0, 1)
    )
    rng = np.random.default_rng(seed)
    keypoints = rng.integers(2, SIDE - 2, (600, 2)) + rng.uniform(-0.4, 0.4, (600, 2))
    fx, fy, cx, cy = view0.camera.params
    rays = np.c_[(keypoints + 0.5 - (cx, cy)) / (fx, fy), np.ones(len(keypoints))]
    ways = rays @ view0.pose.rotation
    depth = first_hit(front.city, view0.pose.centre, ways)
    points = view0.pose.centre + depth[:, None] * ways
    moved = there(torch.from_numpy(keypoints).float()[None])[0].numpy()
    # At an edge the pixel's centre may show another surface than the point beside it.
    centre_rays = np.c_[(keypoints.round() + 0.5 - (cx, cy)) / (fx, fy), np.ones(600)]
    centre = first_hit(front.city, view0.pose.centre, centre_rays @ view0.pose.rotation)
    inner = np.isfinite(depth) & np.isfinite(centre)
    inner[inner] = np.abs(centre[inner] - depth[inner]) < 0.01 * depth[inner]
    assert inner.sum() > 300
    expected, ahead = project(view1.camera, view1.pose, points[inner])
    error = np.linalg.norm(expected - 0.5 - moved[inner], axis=1)[ahead > 0]
    assert np.quantile(error, 0.98) < 0.01  # pixels; the rest lie beside an edge

    # What is said to be seen is what the city's own correspondences say is visible.
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    visible = correspond(view0, view1, grid).visible
    seen = scene_pairs.mutually_seen(there, back, tolerance=scene_pairs.SAME)
    seen = seen[0].numpy().ravel() > 0
    assert 0.1 < visible.mean() < 1
    assert (seen != visible).mean() < 0.002

    # And seen pixels look alike in both views, far more than pixels that are not each other's.
    there_xy = there(torch.from_numpy(grid[seen]).float()[None])[0].numpy()
    looks0 = view0.image.reshape(-1, 3)[seen].astype(float)
    looks1 = cv2.remap(view1.image, there_xy[:, 0], there_xy[:, 1], cv2.INTER_LINEAR).reshape(-1, 3)
    same = np.abs(looks0 - looks1).mean()
    other = np.abs(looks0 - np.roll(looks1, len(looks1) // 2, 0)).mean()
    assert same < 0.5 * other


def test_what_is_hidden_is_not_matched() -> None:
    hidden_ones = 0
    for seed in (1, 2, 3):
        front, pictures = drawn(seed)
        view0, view1 = pictures.views
        there, back = (
            scene_pairs._reprojection([pictures.views], k, torch.device("cpu")) for k in (0, 1)
        )
        seen = scene_pairs.mutually_seen(there, back, tolerance=scene_pairs.SAME)
        grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
        found = correspond(view0, view1, grid)
        inside = ((found.keypoints >= 0) & (found.keypoints <= SIDE - 1)).all(1)
        shown = inside & (found.surface >= 0)
        sight = np.zeros(len(grid), bool)
        sight[shown] = free_sight(front.city, view1.pose.centre, found.points3D[shown])
        # Clearly hidden: what stands before the point is nearer by a twentieth at the least.
        at = found.keypoints[shown].round().astype(int)
        _, depth = project(view1.camera, view1.pose, found.points3D[shown])
        before = np.zeros(len(grid), bool)
        before[shown] = view1.depth[at[:, 1], at[:, 0]] < 0.95 * depth
        occluded = shown & ~sight & before
        hidden_ones += occluded.sum()
        assert not seen[0].numpy().ravel()[occluded].any()
        shows = (there.inverse_depth > 0).float()
        far = hidden_from(seen, shows, OPTIONS.too_close)[0].numpy().ravel() > 0
        assert not (far & found.visible).any() and not far[found.surface < 0].any()
    assert hidden_ones > 200


def test_batches_hold_what_the_losses_need_and_depend_on_the_seed_alone() -> None:
    def batch(seed: int, **changed: object) -> object:
        return source().batch(3, replace(OPTIONS, **changed), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]

    made, again, other = batch(3), batch(3), batch(4)
    for name, value in made.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    assert {"image0", "there.matrix", "back.inverse_depth"} < made.tensors().keys()
    assert not torch.equal(made.image0, other.image0)
    assert made.image1.shape == (3, 3, SIDE, SIDE)
    assert 0 <= float(made.image1.min()) <= float(made.image1.max()) < 1.001
    assert made.valid.mean() > 0.9 and made.present.sum() > 10 and made.matrix01 is None

    # Any point goes to the other view and back, by the scene's depth.
    there, back = made.moves
    torch.testing.assert_close(there(made.points0), made.points1)
    apart = (back(made.points1) - made.points0).norm(dim=-1)[made.valid > 0]
    assert apart.median() < 0.01 and (apart < 0.5).float().mean() > 0.95
    for one in (made.select(torch.tensor([1])), made.select(torch.tensor([1, 2]))):
        torch.testing.assert_close(one.moves[0](one.points0), one.points1)

    # Unseen keypoints lie where the other view shows nothing, far from what it does show.
    near = F.max_pool2d(made.valid0[:, None], 17, 1, 8)[:, 0]
    assert made.unseen0.shape == (3, 16, 3) and made.unseen0[..., 2].sum() > 5
    for row, points in zip(near, made.unseen0, strict=True):
        x, y = points[points[:, 2] > 0][:, :2].long().T
        assert not row[y, x].any()
    assert batch(3, unseen=0).unseen0 is None

    torch.manual_seed(0)
    model = SAMFeat()
    maps = model(made.network_input)
    parts = batch_losses(maps, made, LossOptions())
    without = batch_losses(maps, replace(made, unseen0=None, unseen1=None), LossOptions())
    assert parts["matching"] > without["matching"]  # more to be told apart
    assert all(torch.equal(parts[name], without[name]) for name in parts if name != "matching")
    torch.stack(list(parts.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_unseen_descriptors_are_negatives_of_the_other_images_points() -> None:
    generator = torch.Generator().manual_seed(1)
    d0, d1 = (F.normalize(torch.randn(1, 3, 8, generator=generator), dim=-1) for _ in range(2))
    u0, u1 = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (2, 4))
    close = torch.eye(3)[None]
    found = losses.matching_loss(d0, d1, torch.ones(1, 3), close, unseen0=u0, unseen1=u1)
    rows = torch.cat([d0[0] @ d1[0].t(), d0[0] @ u1.t()], 1) / 0.05
    columns = torch.cat([d1[0] @ d0[0].t(), d1[0] @ u0.t()], 1) / 0.05
    target = torch.arange(3)
    expected = (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2
    torch.testing.assert_close(found, expected)


def test_of_homographies_what_lies_outside_the_other_view_is_unseen() -> None:
    pairs = HomographySource(source().photos, HomographyOptions(shift=0.4))
    made, plain = (
        pairs.batch(6, replace(OPTIONS, unseen=count), torch.Generator().manual_seed(2))
        for count in (16, 0)
    )
    assert plain.unseen0 is None and torch.equal(made.image1, plain.image1)
    for points, matrix in (
        (made.unseen0, made.matrix01), (made.unseen1, torch.linalg.inv(made.matrix01)),
    ):  # fmt: skip
        there = transform(matrix, points[..., :2])
        beyond = (there < -1).any(-1) | (there > SIDE).any(-1)
        present = points[..., 2] > 0
        # The others lie beyond the edge of the photo, which the second view shows.
        assert present.sum() > 20 and beyond[present].float().mean() > 0.8


def test_light_on_a_picture_is_the_light_on_the_city() -> None:
    front, _ = drawn(1)
    city = front.city
    camera = Camera("PINHOLE", 120, 90, (110.0, 110.0, 60.0, 45.0))
    wide, _ = front.size
    pose = look_at(np.array((wide / 2, -9.0, 1.6)), np.pi / 2, 0.1)
    plain = render(city, camera, pose)
    alike = {}
    for name, light in (("day", DAY), ("lamps", replace(NIGHT, glow=0.0))):
        whole = render(illuminate(city, light), camera, pose).image.astype(float)
        lit = plain.image * light_in(plain, city, light) ** (1 / 2.2)
        shown = plain.surface >= 0
        alike[name] = np.abs(lit.clip(0, 255) - whole)[shown].mean() / whole[shown].mean()
    assert max(alike.values()) < 0.08, alike
    # Nothing casts a shadow on itself from behind, and nothing but the street does so here.
    unlit = light_in(plain, city, DAY, casting=len(city.origins) - 1)
    shaded = light_in(plain, city, DAY, casting=BACKGROUND)
    assert (unlit >= shaded - 1e-6).all() and (unlit > shaded + 0.1).any()
    # Windows that shine are lit by night without a lamp.
    dark = replace(NIGHT, lamps=0.0)
    glowing = light_in(plain, city, dark, glow=front.glow)
    added = (glowing - light_in(plain, city, dark)).sum(-1)
    assert np.array_equal(added > 1e-3, (front.glow[plain.surface] > 0) & (plain.surface >= 0))


def test_by_night_the_lamps_of_the_scene_light_the_second_view() -> None:
    views = torch.full((2, 3, 32, 32), 0.5)
    lamplight = torch.full((2, 3, 32, 32), 0.02)
    lamplight[..., :16] = 1.0
    dark = relight_night(views, torch.Generator().manual_seed(0), lamplight=lamplight)
    assert float(dark[..., :16].mean()) > 2 * float(dark[..., 16:].mean())
    for seed in range(1, 9):
        _, pictures = drawn(seed)
        sky = pictures.views[1].surface < 0
        assert np.isfinite(pictures.lamplight).all() and (pictures.lamplight >= 0).all()
        if sky.mean() > 0.05:
            break
    assert pictures.lamplight[sky].max() < 0.05  # and the sky is dark


def test_a_rolled_camera_turns_its_picture() -> None:
    pose = look_at(np.array((1.0, 2.0, 3.0)), 0.3, -0.2)
    turned = rolled(pose, 0.4)
    np.testing.assert_allclose(turned.centre, pose.centre, atol=1e-12)
    c, s = np.cos(0.4), np.sin(0.4)
    roll = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1)))
    np.testing.assert_allclose(turned.rotation, roll @ pose.rotation, atol=1e-12)


def test_walls_are_photos_and_things_stand_on_the_ground() -> None:
    rng = np.random.default_rng(0)
    front = build_front(walls(), street_things(), rng, np.zeros((256, 1024, 3), np.uint8))
    city = front.city
    # Cut or set back, the wall shows every texel of its photo once: windows have no holes.
    wall = walls()[0]
    flat = np.isclose(city.normals, (0, -1, 0)).all(1)
    own = flat & (city.origins[:, 0] > -1e-6) & (city.origins[:, 1] > -0.01)
    parts = [p for p, k in zip(city.paints, own, strict=True) if k and np.shares_memory(p, wall)]
    assert len(parts) > 8 and sum(len(p) * p.shape[1] for p in parts) > 0.8 * wall[..., 0].size
    for thing in street_things():
        corners = np.array([corner for corner, *_ in thing.rectangles])
        assert corners[:, 2].min() > -0.01 and corners[:, 2].max() < 6
        assert np.abs(corners[:, :2]).max() < 5


def test_processes_draw_what_threads_draw(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), walls()[number % 5][..., ::-1])
    photos = pack(folder, tmp_path / "photos.pack")
    options = PairOptions(crop=64, points=16, keypoints=16)
    batches = [
        SceneSource(photos, processes=count).batch(2, options, torch.Generator().manual_seed(3))
        for count in (0, 2)
    ]
    by_threads, by_processes = (batch.tensors() for batch in batches)
    assert by_threads.keys() == by_processes.keys()
    for name, expected in by_threads.items():
        torch.testing.assert_close(by_processes[name], expected, rtol=0, atol=0)


def test_processes_are_for_machines_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for count, world, expected in ((32, "1", 16), (8, "1", 8), (8, "4", 2), (4, "4", 0)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        monkeypatch.setenv("WORLD_SIZE", world)
        assert processes.beside(cuda) == expected
        assert processes.beside(torch.device("cpu")) == 0


def test_the_recipe_draws_scenes_of_its_photos(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(26):
        cv2.imwrite(str(folder / f"{number:02d}.png"), walls()[number % 5][..., ::-1])
    given = [f"data.images={folder}", f"output={tmp_path / 'run'}", "pairs.crop=64"]
    device = torch.device("cpu")
    both = open_data(read_recipe(RECIPE, [*given, "data.mix.scenes=1"]), device).source
    assert [type(part) for part in both.sources] == [HomographySource, SceneSource]
    assert both.sources[1].photos.names == both.sources[0].photos.names  # none held back
    alone = read_recipe(RECIPE, [*given, "data.mix.scenes=1", "data.mix.homographies=0"])
    opened = open_data(alone, device)
    assert isinstance(opened.source, SceneSource) and len(opened.source.photos.names) == 25
    assert isinstance(open_data(read_recipe(RECIPE, given), device).source, HomographySource)
    with refused("homographies.yaml", "data.mix.scenes", "data.images"):
        read_recipe(RECIPE, ["data.synthetic=1", "data.mix.scenes=1"])
    agreeing = [*given, "data.mix.scenes=1", "losses.agreement=1"]
    assert read_recipe(RECIPE, agreeing).losses.agreement == 1
    with refused("homographies.yaml", "losses.agreement"):  # known at the map's points alone
        read_recipe(RECIPE, [*agreeing, "data.model=map"])

    arm = ablation.variant(read_recipe(RECIPE, given), "+scenes, unseen", 1)
    assert arm.data.mix.scenes == 1 and arm.pairs.unseen == ablation.UNSEEN
    assert ablation.variant(read_recipe(RECIPE, given), "baseline", 1).data.mix.scenes == 0
    assert not any("scenes" in name for name in ablation.TEACHERS_ARMS)
