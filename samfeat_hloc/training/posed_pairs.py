"""Pairs of views of posed photos: correspondences from depth maps or from a map's points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import SamfeatError
from ..teachers.cache import Taught
from .corners import splat
from .keypoint_labels import PhotoLabels, labels_in_views
from .pairs import PairBatch, PairOptions, TeacherViews, complete_pairs, drawn_seed, finish_pairs
from .posed_scene import Known, PosedScene, read_scene
from .posed_views import Cache, PosedOptions, View, check_depth, draw_views
from .reprojection import Reprojection, mutually_seen

CACHE_BYTES = 2 << 30
NEAR_POINT = 4  # pixels around a point of the map where detection is asked for, without depth

ViewPair = tuple[View, View]


class PosedSource:
    """Pairs of views of the overlapping photos of one or several scenes.

    With depth maps the correspondence is known wherever both views have depth and neither hides
    the other's place. Without, it is known at the map's points alone: they are the descriptor
    points, and the keypoint labels as well, next to which alone detection counts. Where the photos
    have labels of their own, those are taught instead, and detection counts wherever there is
    photo.

    Photos are decoded in threads, a batch's all at once; a cache of at most ``CACHE_BYTES`` keeps
    them. A batch depends on the generator's state alone.
    """

    def __init__(
        self, scenes: Sequence[PosedScene], options: PosedOptions | None = None,
        *, cache_bytes: int = CACHE_BYTES, workers: int | None = None,
    ) -> None:  # fmt: skip
        """
        Raises:
            SamfeatError: no scenes, some with and some without depth or labels, or depth maps that
                do not agree with the points.
        """
        self.scenes = list(scenes)
        self.options = options or PosedOptions()
        self._cache = Cache(cache_bytes)
        self._pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))
        with_depth = {image.depth is not None for scene in self.scenes for image in scene.images}
        if len(with_depth) != 1:
            raise SamfeatError(
                "posed photos", "give at least one scene, all with depth maps or all without"
            )
        self.with_depth = with_depth == {True}
        labelled = {image.labels is not None for scene in self.scenes for image in scene.images}
        if len(labelled) != 1:
            raise SamfeatError("posed photos", "some have keypoint labels", "label all or none")
        self.labelled = labelled == {True}
        for scene in self.scenes if self.with_depth else []:
            check_depth(scene, self._cache)

    @classmethod
    def open(
        cls, model: Path, images: Path, depth: Path | None = None,
        teacher: Known[Taught] | None = None, options: PosedOptions | None = None, *,
        labels: Known[PhotoLabels] | None = None,
    ) -> PosedSource:  # fmt: skip
        """A COLMAP model (folder with cameras, images, points3D, .bin or .txt) and its photos.

        Arguments:
            depth: folder of depth maps, named as :func:`.depth_maps.find_depth_map` says
                (COLMAP's ``stereo/depth_maps``, ``.npy``, or HDF5 with the dataset ``depth``).
            teacher: what it says of the images, by the names that the model has.
            labels: the images' keypoints, by the same names, of all images.

        Raises:
            SamfeatError: missing files, no photos, no overlapping pairs, depth maps of something
                else; see :func:`.posed_scene.read_scene`.
        """
        scene = read_scene(
            Path(model), Path(images), Path(depth) if depth else None, teacher, labels=labels
        )
        return cls([scene], options)

    @property
    def num_pairs(self) -> int:
        """All that overlap."""
        return sum(len(scene.pairs) for scene in self.scenes)

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        device = generator.device
        seed = drawn_seed(generator)

        def draw(index: int) -> tuple[ViewPair, np.ndarray]:
            rng = np.random.default_rng((seed, index))
            scene = self.scenes[rng.integers(len(self.scenes))]
            return draw_views(scene, options.crop, self.options, rng, self._cache)

        looked = list(self._pool.map(draw, range(count)))
        drawn = [pair for pair, _ in looked]
        views = [stacked([d[k].image for d in drawn], device) for k in (0, 1)]
        photos = [v.permute(0, 3, 1, 2).float() / 255 for v in views]
        taught = teacher_views(([v.taught for v, _ in drawn], [v.taught for _, v in drawn]), device)
        if not self.with_depth:
            return self._at_points(
                drawn, [xyz for _, xyz in looked], photos, taught, options, generator, seed
            )
        there, back = (reprojection(drawn, k, device) for k in (0, 1))
        seen0, seen1 = mutually_seen(there, back), mutually_seen(back, there)
        labelled = self._labels(drawn, 0, seen0, options.keypoints) if self.labelled else None
        batch = complete_pairs(
            photos[0], photos[1], seen0, seen1, there, options, generator,
            labelled=labelled, taught=taught,
        )  # fmt: skip
        return replace(batch, by_depth=(there, back))

    def _labels(
        self, drawn: list[ViewPair], k: int, seen: torch.Tensor, limit: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The photos' labels in the views with this index (0 or 1), where they are seen."""
        views = [pair[k] for pair in drawn]
        labels = list(self._pool.map(lambda view: view.source.pinhole_labels(), views))
        sizes = np.array([found.image_size for found in labels], np.float32)
        to_photo = np.stack([v.source.calibration @ np.linalg.inv(v.calibration) for v in views])
        matrices = torch.from_numpy(to_photo.astype(np.float32)).to(seen)
        return labels_in_views(labels, torch.from_numpy(sizes).to(seen), matrices, seen, limit)

    def _at_points(
        self, drawn: list[ViewPair], shared: list[np.ndarray], photos: list[torch.Tensor],
        taught: tuple[TeacherViews, TeacherViews] | None, options: PairOptions,
        generator: torch.Generator, seed: int,
    ) -> PairBatch:  # fmt: skip
        """Pairs whose correspondence is known at the map's points alone."""
        device, side = generator.device, options.crop
        chosen = [
            _points_in_both(pair, xyz, max(options.keypoints, options.points), (seed, i, 1))
            for i, (pair, xyz) in enumerate(zip(drawn, shared, strict=True))
        ]
        at = [stacked([c[k] for c in chosen], device) for k in (0, 1)]
        there = stacked([c[2] for c in chosen], device)
        labelled, described = options.keypoints, options.points
        corners = (at[0][:, :labelled], at[1][:, :labelled], there[:, :labelled])
        inside = [stacked([pair[k].inside for pair in drawn], device) for k in (0, 1)]
        points = (at[0][:, :described], at[1][:, :described], there[:, :described])
        if self.labelled:
            own = [self._labels(drawn, k, inside[k], labelled) for k in (0, 1)]
            # Each view's labels are its photo's own, so a row of one is not a row of the other.
            both = own[0][1] * own[1][1]
            batch = finish_pairs(
                (photos[0], photos[1]), (inside[0], inside[1]), (own[0][0], own[1][0], both),
                points, options, generator, taught=taught,
            )  # fmt: skip
            labels0, labels1 = (splat(corners, present, side) for corners, present in own)
            return replace(batch, labels0=labels0, labels1=labels1)
        seen = []
        for k in (0, 1):
            near = F.max_pool2d(
                splat(corners[k], corners[2], side)[:, None], 2 * NEAR_POINT + 1, 1, NEAR_POINT
            )
            seen.append((near[:, 0] > 0).float() * inside[k])
        return finish_pairs(
            (photos[0], photos[1]), (seen[0], seen[1]), corners, points, options, generator,
            taught=taught,
        )  # fmt: skip


def _points_in_both(
    pair: ViewPair, xyz: np.ndarray, count: int, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random ``count`` of the points in both views: places float32 (count, 2) each, and which of
    the rows are points (count,); none closer than 3 pixels to another's square."""
    places, good = [], np.ones(len(xyz), bool)
    for view in pair:
        pose, side = view.source.pose, len(view.image)
        local = (xyz @ pose.rotation.T + pose.tvec) @ view.calibration.T
        at = local[:, :2] / np.maximum(local[:, 2:], 1e-9)
        near = np.clip(at.round(), 0, side - 1).astype(int)
        good &= (local[:, 2] > 0) & (at >= 1).all(1) & (at <= side - 2).all(1)
        good &= view.inside[near[:, 1], near[:, 0]]
        places.append(at)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(good))
    for at in places:  # one a square of 3 x 3 pixels
        _, first = np.unique((at[order] // 3).astype(int), axis=0, return_index=True)
        order = order[np.sort(first)]
    order = order[:count]
    rows = [np.zeros((count, 2), np.float32) for _ in places]
    for row, at in zip(rows, places, strict=True):
        row[: len(order)] = at[order]
    return rows[0], rows[1], (np.arange(count) < len(order)).astype(np.float32)


def reprojection(drawn: list[ViewPair], start: int, device: torch.device) -> Reprojection:
    """From the views with this index (0 or 1) to the others."""
    matrices, offsets = [], []
    for pair in drawn:
        here, other = pair[start], pair[1 - start]
        pose0, pose1 = here.source.pose, other.source.pose
        turn = pose1.rotation @ pose0.rotation.T
        shift = pose1.tvec - turn @ pose0.tvec
        matrices.append(other.calibration @ turn @ np.linalg.inv(here.calibration))
        offsets.append(other.calibration @ shift)
    inverse_depth = stacked([pair[start].inverse_depth for pair in drawn], device)
    return Reprojection(inverse_depth, stacked(matrices, device), stacked(offsets, device))


TaughtMaps = tuple[np.ndarray, np.ndarray, np.ndarray]


def teacher_views(
    taught: tuple[Sequence[TaughtMaps | None], Sequence[TaughtMaps | None]], device: torch.device
) -> tuple[TeacherViews, TeacherViews] | None:
    """What the teacher says of the first and the second views; None where it has seen none.

    Arguments:
        taught: embedding (C, h, w), groups (S, S) and edges (S, S) of each view. C may differ (a
            cache keeps as many axes as a photo needs); what lacks is filled with zeros.
    """
    known = [maps for views in taught for maps in views if maps is not None]
    if not known:
        return None
    channels = max(len(embedding) for embedding, _, _ in known)
    _, height, width = known[0][0].shape
    side = known[0][1].shape
    sides = []
    for views in taught:
        embedding = np.zeros((len(views), channels, height, width), np.float32)
        groups = np.full((len(views), *side), -1, np.int64)
        edges = np.zeros((len(views), *side), np.float32)
        for row, maps in enumerate(views):
            if maps is not None:
                embedding[row, : len(maps[0])] = maps[0]
                groups[row], edges[row] = maps[1:]
        seen = torch.tensor([float(maps is not None) for maps in views])
        parts = (torch.from_numpy(array) for array in (embedding, groups, edges))
        sides.append(TeacherViews(*(part.to(device) for part in (*parts, seen))))
    return sides[0], sides[1]


def stacked(arrays: Sequence[np.ndarray | None], device: torch.device) -> torch.Tensor:
    """Arrays of one shape on a device; integers of a byte stay so, all else becomes float32."""
    array = np.stack([a for a in arrays if a is not None])
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    return torch.from_numpy(array).to(device, non_blocking=True)
