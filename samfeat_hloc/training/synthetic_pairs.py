"""Pairs of views of generated city blocks: correspondences, groups and edges are exact."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
import torch

from ..errors import SamfeatError
from ..progress import tqdm
from ..scenes import DAY, Rendering, build_city, correspond, illuminate, lift, plan_shots, render
from ..teachers.cache import Taught
from .pairs import PairBatch, PairOptions
from .posed_pairs import PosedSource
from .posed_scene import PosedImage, PosedScene, overlapping_pairs
from .posed_views import PosedOptions

T = TypeVar("T")
EMBEDDING = 32  # channels
GRID = 10  # pixels between the points that tell which pictures overlap
CELL = 8  # pixels of a picture to a cell of the embedding


class SyntheticSource:
    """Pairs of views of generated city blocks, rendered once into memory.

    The teacher is the geometry: a group is one surface of the city (a facade, a pavement, a side of
    a box), its embedding a random code of that surface, edges are where surfaces meet.
    """

    def __init__(self, posed: PosedSource) -> None:
        self._posed = posed

    @classmethod
    def open(
        cls, scenes: int = 3, seed: int = 0, *, pictures: int = 40,
        size: tuple[int, int] = (480, 360), taught: bool = True,
        options: PosedOptions | None = None,
    ) -> SyntheticSource:  # fmt: skip
        """Generate and photograph city blocks (some 10 seconds and 70 MB each).

        Arguments:
            scenes: how many blocks; seed: of the first, the next ones count on.
            pictures: photographs of each block, of ``size`` (width, height) pixels.
            taught: whether the geometry teaches groups, embedding and edges.
            options: how far apart the views of a pair are.

        Raises:
            SamfeatError: no scenes, or too few pictures for any two to overlap.
        """
        if scenes < 1 or pictures < 2 or min(size) < 64:
            raise SamfeatError(
                "synthetic scenes",
                (f"{scenes} of {pictures} pictures of {size[0]} x {size[1]} pixels are too little"),
                "ask for 1 scene, 2 pictures and 64 pixels a side at the least",
            )
        seeds = tqdm(range(seed, seed + scenes), desc="synthetic scenes", unit="scene", leave=False)
        made = [make_scene(number, pictures, size, taught=taught) for number in seeds]
        # Everything is in memory already: nothing to cache.
        return cls(PosedSource(made, options, cache_bytes=0))

    @property
    def num_pairs(self) -> int:
        """All that overlap."""
        return self._posed.num_pairs

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        return self._posed.batch(count, options, generator)


def make_scene(
    seed: int, pictures: int, size: tuple[int, int], *, taught: bool = True
) -> PosedScene:
    """A city block by day, photographed while walking up and down its street.

    Raises:
        SamfeatError: no two pictures overlap.
    """
    city = illuminate(build_city(seed), DAY, seed)
    shots = [shot for shot in plan_shots(seed, pictures, 1, size) if shot.condition == "db"]
    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(lambda shot: render(city, shot.camera, shot.pose), shots))
    return scene_of(views, seed, taught=taught)


def scene_of(views: Sequence[Rendering], seed: int = 0, *, taught: bool = True) -> PosedScene:
    """Pictures of one city as a scene; ``seed`` shapes the codes of its surfaces.

    Raises:
        SamfeatError: no two pictures overlap.
    """
    xyz, seen = _common_points(views)
    pairs = overlapping_pairs(seen)
    if len(pairs) == 0:
        raise SamfeatError(
            f"synthetic scene {seed}",
            f"no two of its {len(views)} pictures overlap",
            "ask for more",
        )
    codes = np.random.default_rng((seed, 4)).standard_normal((len(views[0].planes) + 1, EMBEDDING))
    images = []
    for number, (view, points) in enumerate(zip(views, seen, strict=True)):
        lesson = _teach(view.surface, codes.astype(np.float32)) if taught else None
        images.append(
            PosedImage(
                f"{number:04d}.png", view.camera, view.pose, points,
                partial(_itself, view.image), partial(_itself, view.depth),
                partial(_itself, lesson) if lesson else None,
            )
        )  # fmt: skip
    return PosedScene(tuple(images), xyz, pairs)


def _itself(kept: T) -> T:
    return kept


def _common_points(views: Sequence[Rendering]) -> tuple[np.ndarray, list[np.ndarray]]:
    """World points (P, 3) on a grid over every picture, and which of them each picture shows."""
    places: list[np.ndarray] = []
    seen: list[list[np.ndarray]] = [[] for _ in views]
    start = 0
    for number, view in enumerate(views):
        width, height = view.camera.width, view.camera.height
        grid = np.mgrid[GRID // 2 : width : GRID, GRID // 2 : height : GRID].reshape(2, -1).T
        points, surface = lift(view, grid)
        grid, points = grid[surface >= 0], points[surface >= 0]
        rows = start + np.arange(len(points))
        for other, its in enumerate(seen):
            if other == number:
                its.append(rows)
            else:
                its.append(rows[correspond(view, views[other], grid).visible])
        places.append(points)
        start += len(points)
    return np.concatenate(places), [np.concatenate(rows) for rows in seen]


def _teach(surface: np.ndarray, codes: np.ndarray) -> Taught:
    """Maps of one picture from the surfaces (H, W) that it shows; -1 is the sky."""
    differs = np.zeros(surface.shape, bool)
    across = surface[:, 1:] != surface[:, :-1]
    down = surface[1:] != surface[:-1]
    differs[:, 1:] |= across
    differs[:, :-1] |= across
    differs[1:] |= down
    differs[:-1] |= down
    edges = cv2.GaussianBlur(differs.astype(np.float32), (0, 0), 0.7).clip(0, 1)
    height, width = (max(1, n // CELL) for n in surface.shape)
    rows = ((np.arange(height * 2) + 0.5) * surface.shape[0] / (height * 2)).astype(int)
    columns = ((np.arange(width * 2) + 0.5) * surface.shape[1] / (width * 2)).astype(int)
    fine = codes[surface[np.ix_(rows, columns)]]  # the sky's -1 takes the last code
    smooth = fine.reshape(height, 2, width, 2, -1).mean((1, 3))
    return Taught(np.ascontiguousarray(smooth.transpose(2, 0, 1)), surface, edges)
