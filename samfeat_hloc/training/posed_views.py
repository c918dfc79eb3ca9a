"""Views of posed photos: where to look, and the square pictures of it with depth and teacher.

NumPy and OpenCV, made for many threads at once. A view is an affine picture (turned, scaled,
shifted) of what a pinhole camera at the photo's place sees: lens distortion is undone in the same
step that scales, so no pixel is interpolated twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..errors import SamfeatError
from ..teachers.cache import Taught
from .posed_scene import PosedImage, PosedScene
from .reprojection import SMOOTH
from .taught import CELL

TRIES = 12  # pairs drawn until the views of one share ENOUGH of the scene's points
AROUND = 4  # points tried as the middle of the views of each pair
ENOUGH = 24
OFFSET = 0.3  # of a view's side: how far from its middle the common point may lie
FEWEST = 24  # pixels of a photo that the smallest view shows
AGREEMENT = 0.1  # share by which a depth map and a point of the model may differ
NODE = 8  # pixels between the places where lens distortion is computed; in between it is linear


@dataclass
class PosedOptions:
    """How far apart the two views of an overlapping pair are, beyond what the photos do.

    rotation: largest angle between them in the picture, degrees. scale: largest ratio of the
    sizes in which they show their common point. zoom: least photo pixels to a view pixel; the most
    is what shows the whole of the photo's shorter side. longest: larger photos are reduced to so
    many pixels on their longer side.
    """

    rotation: float = 30.0
    scale: float = 1.6
    zoom: float = 0.8
    longest: int = 1600


@dataclass(frozen=True, eq=False)
class View:
    """A view of S x S pixels.

    image: uint8 (S, S, 3). inside: bool (S, S), where there is photo. inverse_depth: float32
    (S, S), 0 where unknown; None without depth maps. calibration: (3, 3), camera coordinates to
    view pixels. source: whose view it is. embedding float32 (C, h, w), groups int64 (S, S),
    edges float32 (S, S): the teacher's, None where it has not seen the photo.
    """

    image: np.ndarray
    inside: np.ndarray
    inverse_depth: np.ndarray | None
    calibration: np.ndarray
    source: PosedImage
    taught: tuple[np.ndarray, np.ndarray, np.ndarray] | None


class Cache:
    """Decoded photos and depth maps up to so many bytes; what was not used for longest goes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._held = 0
        self._arrays: OrderedDict[object, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under a key, read where it is not there."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = read()
        with self._lock:
            if key not in self._arrays and array.nbytes <= self.most_bytes:
                self._arrays[key] = array
                self._held += array.nbytes
                while self._held > self.most_bytes:
                    self._held -= self._arrays.popitem(last=False)[1].nbytes
        return array


def draw_views(
    scene: PosedScene, side: int, options: PosedOptions, rng: np.random.Generator, cache: Cache
) -> tuple[tuple[View, View], np.ndarray]:
    """Two views of a random pair of the scene, around a point that both photos show.

    Returns:
        the views, and the world points (N, 3) that both photos observe.

    Raises:
        SamfeatError: a photo or depth map cannot be read, or the depth maps and points of
            ``TRIES`` pairs contradict each other.
    """
    best, best_count = None, 0
    for _ in range(TRIES):
        pair = scene.pairs[rng.integers(len(scene.pairs))]
        first, second = (scene.images[i] for i in (pair if rng.random() < 0.5 else pair[::-1]))
        shared = np.intersect1d(first.points, second.points, assume_unique=True)
        xyz = scene.xyz[shared]
        placed = first.project(xyz), second.project(xyz)
        good = _shown(first, placed[0], cache) & _shown(second, placed[1], cache)
        for point in rng.choice(np.flatnonzero(good), AROUND) if good.any() else ():
            matrices = _aim((first, second), placed, point, side, options, rng)
            both = np.all(
                [_in_view(m, at[good], side) for m, (at, _) in zip(matrices, placed, strict=True)],
                0,
            )
            if best is None or both.sum() > best_count:
                best, best_count = (first, second, matrices, xyz), int(both.sum())
        if best_count >= ENOUGH:
            break
    if best is None:
        raise SamfeatError(
            f"{first.name}, {second.name}",
            "their depth maps and the model's points contradict each other",
            "take the depth maps that belong to the model",
        )
    first, second, matrices, xyz = best
    views = (
        look(first, matrices[0], side, options.longest, cache),
        look(second, matrices[1], side, options.longest, cache),
    )
    return views, xyz


def _aim(
    images: tuple[PosedImage, PosedImage], placed: Sequence[tuple[np.ndarray, np.ndarray]],
    point: int, side: int, options: PosedOptions, rng: np.random.Generator,
) -> list[np.ndarray]:  # fmt: skip
    """Matrices from view pixels to photo pixels, for views around one of the ``placed`` points."""
    sizes = [i.focal / depth[point] for i, (_, depth) in zip(images, placed, strict=True)]
    zooms = _zooms(images, sizes[0] / sizes[1], side, options, rng)
    turn = np.deg2rad(rng.uniform(-options.rotation, options.rotation)) / 2
    matrices = []
    for image, (at, _), zoom, angle in zip(images, placed, zooms, (turn, -turn), strict=True):
        spot = (side - 1) / 2 + rng.uniform(-OFFSET, OFFSET, 2) * side
        matrices.append(affine_view(image, at[point], spot, zoom, angle, side))
    return matrices


def _in_view(to_photo: np.ndarray, at: np.ndarray, side: int) -> np.ndarray:
    """Which photo pixels (N, 2) a view shows."""
    seen = (at - to_photo[:2, 2]) @ np.linalg.inv(to_photo[:2, :2]).T
    return ((seen >= 0) & (seen <= side - 1)).all(1)


def _shown(image: PosedImage, placed: tuple[np.ndarray, np.ndarray], cache: Cache) -> np.ndarray:
    """Which points (N,) a photo shows, by its depth map where it has one."""
    at, depth = placed
    shown = (depth > 0) & _inside(at, (image.camera.height, image.camera.width))
    if image.depth is not None:
        depth_map = cache.get((image, "depth"), image.depth)
        near = _in_array(image, image.stored(at[shown]), depth_map.shape).round().astype(int)
        inside = _inside(near, depth_map.shape)
        column, row = np.where(inside[:, None], near, 0).T
        agrees = np.abs(depth_map[row, column] - depth[shown]) < AGREEMENT * depth[shown]
        shown[shown] = inside & agrees
    return shown


def check_depth(scene: PosedScene, cache: Cache, images: int = 2) -> None:
    """Compare the depth maps of a few images with the points that they see.

    Raises:
        SamfeatError: a depth map cannot be read, or fewer than a tenth of the points agree.
    """
    seen = sorted(scene.images, key=lambda image: -len(image.points))[:images]
    agreeing = [_shown(i, i.project(scene.xyz[i.points]), cache).mean() for i in seen]
    if seen and seen[0].depth is not None and np.mean(agreeing) < 0.1:
        raise SamfeatError(
            seen[0].name,
            f"{np.mean(agreeing):.0%} of the points agree with its depth map",
            "take the depth maps of this model, in its units, along the optical axis",
        )


def _zooms(
    images: Sequence[PosedImage], bigger: float, side: int, options: PosedOptions,
    rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Photo pixels to a view pixel, so that both views show the common point about as large.

    ``bigger``: how much larger the first photo shows it than the second.
    """
    ratio = options.scale ** rng.uniform(-1, 1) / bigger
    most = [min(i.camera.width, i.camera.height) / side for i in images]
    # A photo that is small already is enlarged rather than not used.
    least = min(options.zoom, *most)
    low, high = max(least, least / ratio), min(most[0], most[1] / ratio)
    first = float(np.exp(rng.uniform(np.log(min(low, high)), np.log(high))))
    smallest = FEWEST / side
    return max(first, smallest), max(min(first * ratio, most[1]), smallest)


def affine_view(
    image: PosedImage, at: np.ndarray, spot: np.ndarray, zoom: float, angle: float, side: int
) -> np.ndarray:
    """(3, 3) from view pixels to photo pixels: ``spot`` of the view shows ``at`` of the photo.

    Where that would leave much of the view without photo, it is shifted inwards.
    """
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    looked_at = at + turn @ (middle - spot)
    size = np.array((image.camera.width, image.camera.height)) - 1
    reach = np.minimum(0.45 * zoom * side, size / 2)
    looked_at = np.clip(looked_at, reach, size - reach)
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = looked_at - turn @ middle
    return matrix


def look(image: PosedImage, to_photo: np.ndarray, side: int, longest: int, cache: Cache) -> View:
    """The view (side x side pixels) that a matrix from view pixels to photo pixels gives."""
    photo = cache.get((image, "photo"), lambda: _reduced(image.photo(), longest))
    grid = _stored_grid(image, to_photo, side, 1.0)
    inside = _inside(_in_array(image, grid, photo.shape), photo.shape)
    inverse_depth = None
    if image.depth is not None:
        depth = cache.get((image, "depth"), image.depth)
        inverse_depth = sample_depth(depth, _in_array(image, grid, depth.shape))
        inverse_depth[~inside] = 0
    return View(
        _picture(image, photo, to_photo, side), inside, inverse_depth,
        np.linalg.inv(to_photo) @ image.calibration, image,
        _taught(image.taught(), image, grid, to_photo, side) if image.taught else None,
    )  # fmt: skip


def _picture(image: PosedImage, photo: np.ndarray, to_photo: np.ndarray, side: int) -> np.ndarray:
    """uint8 (side, side, 3): the photo through a matrix from view pixels to photo pixels."""
    to_array = _array_from_photo(image, photo.shape) @ to_photo
    step = float(np.sqrt(abs(np.linalg.det(to_array[:2, :2]))))
    if step >= 2:
        # Reduced first: the mean of all pixels, where samples would miss most of them.
        reduce = int(step)
        size = tuple(max(1, n // reduce) for n in photo.shape[1::-1])
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        to_array = _array_from_photo(image, photo.shape) @ to_photo
    # Where a view pixel is larger than the array's it is the mean of 2 x 2 samples.
    fine = 2 if step > 1 else 1
    if image.distorted:
        grid = _stored_grid(image, to_photo, fine * side, 1 / fine)
        x, y = np.moveaxis(_in_array(image, grid, photo.shape), -1, 0)
        picture = cv2.remap(photo, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    else:
        half = 0.5 / fine - 0.5
        to_array = to_array @ np.array([[1 / fine, 0, half], [0, 1 / fine, half], [0, 0, 1]])
        picture = cv2.warpAffine(
            photo, to_array[:2], (fine * side, fine * side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) if fine > 1 else picture


def _reduced(photo: np.ndarray, longest: int) -> np.ndarray:
    scale = longest / max(photo.shape[:2])
    if scale >= 1:
        return photo
    size = tuple(max(1, round(n * scale)) for n in photo.shape[1::-1])
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def _stored_grid(image: PosedImage, to_photo: np.ndarray, count: int, step: float) -> np.ndarray:
    """Photo pixels float32 (count, count, 2) of a view's grid, ``step`` view pixels wide."""
    pixels = (np.arange(count) + 0.5) * step - 0.5
    if not image.distorted:
        across = pixels[:, None] * to_photo[:2, 0] + to_photo[:2, 2]
        down = pixels[:, None] * to_photo[:2, 1]
        return (across[None] + down[:, None]).astype(np.float32)
    nodes = np.linspace(pixels[0], pixels[-1], max(2, int(np.ceil(count * step / NODE)) + 1))
    x, y = np.meshgrid(nodes, nodes)
    at = np.stack([x, y], -1).reshape(-1, 2) @ to_photo[:2, :2].T + to_photo[:2, 2]
    at = image.stored(at).reshape(len(nodes), len(nodes), 2)
    share = (pixels - nodes[0]) / (nodes[1] - nodes[0])
    weights = np.maximum(1 - np.abs(share[:, None] - np.arange(len(nodes))), 0)
    fine = np.einsum("rn,cm,nmk->rck", weights, weights, at, optimize=True)
    return np.ascontiguousarray(fine, np.float32)


def _array_from_photo(image: PosedImage, shape: tuple[int, ...]) -> np.ndarray:
    """(3, 3) from the camera's pixels to those of an array that shows the whole photo."""
    x, y = shape[1] / image.camera.width, shape[0] / image.camera.height
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def _in_array(image: PosedImage, pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The camera's pixels (..., 2) in an array that shows the whole photo."""
    if shape[1] == image.camera.width and shape[0] == image.camera.height:
        return pixels
    matrix = _array_from_photo(image, shape).astype(pixels.dtype)
    return pixels * matrix.diagonal()[:2] + matrix[:2, 2]


def _inside(at: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels (..., 2) lie in an array."""
    x, y = at[..., 0], at[..., 1]
    return (x >= 0) & (y >= 0) & (x <= shape[1] - 1) & (y <= shape[0] - 1)


def sample_depth(depth: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Inverse depth float32 (...) of a map (h, w) at pixels (..., 2); 0 where unknown.

    Interpolated in inverse depth, which is exact on planes; unknown where a pixel that counts is,
    or lies on another surface.
    """
    height, width = depth.shape
    inside = _inside(at, depth.shape)
    x, y = at[..., 0].clip(0, width - 1), at[..., 1].clip(0, height - 1)
    left, top = (
        np.minimum(x.astype(np.int32), width - 2),
        np.minimum(y.astype(np.int32), height - 2),
    )
    right, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    index = top * width + left
    flat = depth.reshape(-1)
    near = [flat.take(index + step) for step in (0, 1, width, width + 1)]
    least = np.minimum(np.minimum(near[0], near[1]), np.minimum(near[2], near[3]))
    most = np.maximum(np.maximum(near[0], near[1]), np.maximum(near[2], near[3]))
    known = inside & (least > 0) & (most - least < SMOOTH * most)
    a, b, c, d = (1 / np.where(known, value, 1) for value in near)
    upper, lower = a + (b - a) * right, c + (d - c) * right
    return np.where(known, upper + (lower - upper) * down, 0).astype(np.float32)


def _taught(
    maps: Taught, image: PosedImage, grid: np.ndarray, to_photo: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The teacher's embedding (C, side / CELL, …), groups and edges (side, side) of a view."""
    groups = np.asarray(maps.groups)
    at = _in_array(image, grid, groups.shape).round().astype(int)
    outside = ~_inside(at, groups.shape)
    column = at[..., 0].clip(0, groups.shape[1] - 1)
    row = at[..., 1].clip(0, groups.shape[0] - 1)
    seen_groups = np.where(outside, -1, groups[row, column]).astype(np.int64)
    edges = np.asarray(maps.edges, np.float32)
    x, y = np.moveaxis(_in_array(image, grid, edges.shape), -1, 0)
    seen_edges = cv2.remap(edges, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cells = max(1, side // CELL)
    coarse = _stored_grid(image, to_photo, cells, side / cells)
    share = (coarse + 0.5) / np.array((image.camera.width, image.camera.height), np.float32)
    embedding = sample_embedding(np.asarray(maps.embedding, np.float32), share)
    return embedding, seen_groups, np.where(outside, 0, seen_edges).astype(np.float32)


def sample_embedding(embedding: np.ndarray, share: np.ndarray) -> np.ndarray:
    """An embedding (C, h, w) of a photo at places (n, m, 2), given as shares of its sides."""
    found = F.grid_sample(
        torch.from_numpy(np.ascontiguousarray(embedding, np.float32))[None],
        torch.from_numpy(np.ascontiguousarray(2 * share - 1, np.float32))[None],
        padding_mode="border", align_corners=False,
    )  # fmt: skip
    return found[0].numpy()
