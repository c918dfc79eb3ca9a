"""Pairs of views of generated house fronts: every pair is a scene of its own, textured with photos.

Shape and cameras are known, so correspondences are exact, between pixels too, and so is which
keypoints the other view cannot see. Each view has a sun of its own; by night the lamps of the scene
light the second.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import repeat
from typing import Any

import numpy as np
import torch

from ..colmap.cameras import Camera
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..scenes import DAY, NIGHT, Rendering, light_in, look_at, render
from ..scenes.lighting import Light, panorama
from ..scenes.relief import BACKGROUND, Front, Pieces, build_front, street_things
from ..scenes.render import free_sight, intrinsics, rolled
from .pairs import PairBatch, PairOptions, complete_pairs, drawn_seed
from .photos import Photos
from .posed_pairs import stacked
from .posed_views import OFFSET, PosedOptions
from .reprojection import Reprojection, mutually_seen

PHOTOS = 5  # of a scene
TRIES = 12  # pairs of cameras drawn until both see the same part of the front
SAME = 2e-3  # share by which the depth of what is the same place may differ
NIGHT_SKY = 0.01  # of the day's light
WIDEST = 55.0  # degrees between the directions in which the two cameras look at the front


@dataclass(frozen=True, eq=False)
class Pictures:
    """Two views of one scene. views: as rendered, without light. lit: float32 (H, W, 3) in [0, 1],
    each under its own daylight. lamplight: float32 (H, W, 3), linear, what the second view's
    daylight is to be multiplied by at night."""

    views: tuple[Rendering, Rendering]
    lit: tuple[np.ndarray, np.ndarray]
    lamplight: np.ndarray


class SceneSource:
    """Pairs of views of house fronts with parallax, each pair of a scene of its own.

    A batch depends on the generator's state and the photos alone.
    """

    def __init__(
        self, photos: Photos, options: PosedOptions | None = None, *, processes: int = 0
    ) -> None:
        """
        Arguments:
            photos: what walls are made of.
            options: ``rotation`` and ``scale`` of the pairs; the others are those of photos.
            processes: that draw scenes; 0 for threads of this one, which take turns at Python.
        """
        self.photos = photos
        self.options = options or PosedOptions()
        self._pool: Executor
        if processes:
            self._pool = ProcessPoolExecutor(
                processes, multiprocessing.get_context("spawn"), _share, (photos, self.options)
            )
            self._drawing: Callable[..., Pictures] = _draw_shared
        else:
            self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
            self._drawing = partial(_draw, photos, self.options)

    @property
    def num_pairs(self) -> int:
        """One of each photo; there is no end of them."""
        return len(self.photos)

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        device = generator.device
        seed = drawn_seed(generator)
        seeds = [(seed, i) for i in range(count)]
        try:
            drawn = list(self._pool.map(self._drawing, seeds, repeat(options.crop)))
        except BrokenProcessPool:
            raise SamfeatError(
                "data.mix.scenes",
                "a process that draws scenes was killed (out of memory?)",
                "run the same command again, with a smaller train.batch if it is killed again",
            ) from None
        lit = [stacked([p.lit[k] for p in drawn], device).permute(0, 3, 1, 2) for k in (0, 1)]
        there, back = (_reprojection([p.views for p in drawn], k, device) for k in (0, 1))
        seen0 = mutually_seen(there, back, tolerance=SAME)
        seen1 = mutually_seen(back, there, tolerance=SAME)
        # Nothing is said of the sky.
        shown0, shown1 = ((move.inverse_depth > 0).float() for move in (there, back))
        lamplight = stacked([p.lamplight for p in drawn], device).permute(0, 3, 1, 2)
        batch = complete_pairs(
            lit[0], lit[1], seen0, seen1, there, options, generator,
            shown=(shown0, shown1), lamplight=lamplight,
        )  # fmt: skip
        return replace(batch, by_depth=(there, back))


def _draw(photos: Photos, options: PosedOptions, seed: tuple[int, int], side: int) -> Pictures:
    rng = np.random.default_rng(seed)
    canvases, sizes = photos.read(rng.integers(len(photos), size=PHOTOS).tolist())
    walls = [
        np.ascontiguousarray(canvas[:, :high, :wide].permute(1, 2, 0).numpy())
        for canvas, (wide, high) in zip(canvases, sizes.tolist(), strict=True)
    ]
    return picture(walls, rng, side, options)


_shared: list[Any] = []  # of a process that draws: its photos and options


def _share(photos: Photos, options: PosedOptions) -> None:
    torch.set_num_threads(1)
    _shared[:] = [photos, options]


def _draw_shared(seed: tuple[int, int], side: int) -> Pictures:
    photos, options = _shared
    return _draw(photos, options, seed, side)


def picture(
    photos: list[np.ndarray], rng: np.random.Generator, side: int, options: PosedOptions
) -> Pictures:
    """A scene of five photos, seen twice in ``side`` x ``side`` pixels."""
    front = build_front(photos, _things(), rng, _sky(bool(rng.random() < 0.5)))
    views = [render(front.city, *seen) for seen in draw_cameras(front, side, rng, options)]
    day = [_shine(view, front, _daylight(rng)) for view in views]
    night = _shine(views[1], front, NIGHT)
    night[views[1].surface < 0] = NIGHT_SKY
    lit = [
        (view.image / np.float32(255) * light ** np.float32(1 / 2.2)).clip(0, 1)
        for view, light in zip(views, day, strict=True)
    ]
    return Pictures((views[0], views[1]), (lit[0], lit[1]), night / np.maximum(day[1], 1e-3))


def draw_cameras(
    front: Front, side: int, rng: np.random.Generator, options: PosedOptions
) -> list[tuple[Camera, Pose]]:
    """Two cameras that look at the same part of the front, most of which neither has hidden.

    A view's focal length is up to five times its side: views are parts of larger photos.
    """
    wide, high = front.size
    for _ in range(TRIES):
        target = np.array((rng.uniform(0.1, 0.9) * wide, 0.0, rng.uniform(0.1, 0.9) * high))
        zoom, focal = rng.uniform(0.7, 1.5), side * rng.uniform(1.3, 5.0)
        azimuth = np.deg2rad(rng.uniform(-50, 50))
        turned = rng.choice((-1, 1)) * np.deg2rad(rng.uniform(5, WIDEST))
        if abs(azimuth + turned) > np.deg2rad(65):
            turned = -turned
        roll = np.deg2rad(rng.uniform(-options.rotation, options.rotation)) / 2
        ratio = options.scale ** (rng.uniform(-1, 1) / 2)
        cameras = []
        for way, angle, scale in ((azimuth, roll, ratio), (azimuth + turned, -roll, 1 / ratio)):
            length = focal * rng.uniform(0.85, 1.18)
            distance = max(zoom * scale * length / front.density, 1.5)
            climb = np.deg2rad(rng.uniform(-20, 25))
            back = np.array((np.sin(way), -np.cos(way), np.sin(climb)))
            place = target + distance * back / np.linalg.norm(back)
            place[2] = max(place[2], 0.5)
            looking = target - place
            yaw = np.arctan2(looking[1], looking[0])
            pitch = np.arctan2(looking[2], np.hypot(looking[0], looking[1]))
            centre = side * (0.5 + rng.uniform(-OFFSET, OFFSET, 2))
            camera = Camera("PINHOLE", side, side, (float(length), float(length), *centre.tolist()))
            cameras.append((camera, rolled(look_at(place, float(yaw), float(pitch)), angle)))
        reach = 0.3 * side * zoom / front.density
        around = target + reach * np.array(
            [(0, 0, 0), (1, 0, 1), (-1, 0, 1), (1, 0, -1), (-1, 0, -1)]
        )
        seen = [free_sight(front.city, pose.centre, around) for _, pose in cameras]
        if (seen[0] & seen[1]).sum() >= 3:
            break
    return cameras


def _shine(view: Rendering, front: Front, light: Light) -> np.ndarray:
    return light_in(view, front.city, light, glow=front.glow, casting=BACKGROUND)


def _daylight(rng: np.random.Generator) -> Light:
    """A sun somewhere before the front, or an overcast sky. Photos have light of their own, so it
    is less than that of a city of paint."""
    if rng.random() < 0.35:
        return replace(DAY, sun=(0.0, 0.0, 0.0), sky=(0.95, 0.98, 1.0), ground=(0.7, 0.7, 0.68))
    direction = (rng.uniform(-1, 1), rng.uniform(0.1, 1.0), rng.uniform(-1.2, -0.3))
    strength = rng.uniform(0.4, 1.1)
    sun = (1.05 * strength, strength, 0.88 * strength)
    return replace(DAY, sun=sun, sun_direction=direction)


@cache
def _things() -> list[Pieces]:
    return street_things()


@cache
def _sky(clear: bool) -> np.ndarray:
    return panorama(DAY if clear else replace(DAY, zenith=(205, 208, 212), clouds=18.0), int(clear))


def _reprojection(
    pairs: list[tuple[Rendering, Rendering]], start: int, device: torch.device
) -> Reprojection:
    """From the views with this index (0 or 1) to the others, exact between pixels too."""
    inverse, slopes, matrices, offsets = [], [], [], []
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    for pair in pairs:
        here, other = pair[start], pair[1 - start]
        planes = np.where(here.surface[..., None] >= 0, here.planes[here.surface], 0.0)
        turn = other.pose.rotation @ here.pose.rotation.T
        shift = other.pose.tvec - turn @ here.pose.tvec
        calibration0, calibration1 = (
            np.linalg.inv(to_corner) @ intrinsics(v.camera) for v in (here, other)
        )
        matrices.append(calibration1 @ turn @ np.linalg.inv(calibration0))
        offsets.append(calibration1 @ shift)
        side = np.arange(len(planes)) + 0.5
        at = planes[..., 0] * side + planes[..., 1] * side[:, None] + planes[..., 2]
        inverse.append(at)
        slopes.append(planes[..., :2])
    parts = (stacked(arrays, device) for arrays in (inverse, matrices, offsets, slopes))
    return Reprojection(*parts)
