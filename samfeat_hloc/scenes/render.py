"""Photographs of a city of textured rectangles, with exact depth and correspondences.

Pixel convention of the pictures: intrinsics are COLMAP's, so the centre of the top-left pixel
projects to (0.5, 0.5). Depth and surface maps are sampled at pixel centres. Keypoints (of
:func:`lift` and :func:`correspond`) follow the package: the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..colmap.cameras import Camera
from ..colmap.poses import Pose
from .surfaces import City

NEAR = 0.05
"""Nothing nearer to the camera than this many metres is drawn."""


@dataclass(frozen=True)
class Rendering:
    """What a camera sees of a city.

    image: uint8 (H, W, 3) RGB. depth: float32 (H, W), metres along the optical axis at pixel
    centres, 0 where there is sky. surface: int32 (H, W), the city's surface seen, -1 for sky.
    planes: float64 (S, 3); the inverse depth of surface s at the pixel (x, y) (corner origin) is
    ``planes[s] @ (x, y, 1)``, exact everywhere, not only at pixel centres.
    """

    image: np.ndarray
    depth: np.ndarray
    surface: np.ndarray
    planes: np.ndarray
    camera: Camera
    pose: Pose


@dataclass(frozen=True)
class TrueCorrespondences:
    """Where keypoints of one view lie in another.

    keypoints: float64 (N, 2) in the second view, NaN where the first shows sky. visible: bool
    (N,), inside the second picture and not hidden there. surface: int32 (N,), the surface each
    keypoint lies on (-1 sky), the group it belongs to. points3D: float64 (N, 3) in the world.
    """

    keypoints: np.ndarray
    visible: np.ndarray
    surface: np.ndarray
    points3D: np.ndarray


def intrinsics(camera: Camera) -> np.ndarray:
    """Calibration matrix (3, 3) of a PINHOLE or SIMPLE_PINHOLE camera; ValueError otherwise."""
    if camera.model == "PINHOLE":
        fx, fy, cx, cy = camera.params
    elif camera.model == "SIMPLE_PINHOLE":
        fx, cx, cy = camera.params
        fy = fx
    else:
        raise ValueError(f"the renderer draws PINHOLE cameras, not {camera.model}")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def look_at(position: np.ndarray, yaw: float, pitch: float) -> Pose:
    """The pose of an upright camera: ``yaw`` and ``pitch`` in radians, 0 looks along world x.

    ``position`` (3,) in metres; yaw turns to the left (towards world y), pitch upwards (world z).
    """
    turn = np.array((np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)))
    tilt = np.array((np.cos(pitch / 2), np.sin(pitch / 2), 0, 0))
    along_x = np.array((0.5, -0.5, 0.5, -0.5))  # world from camera, looking along world x
    qvec = _times(_times(turn, along_x), tilt) * (1, -1, -1, -1)
    qvec = qvec * np.where(qvec[0] < 0, -1.0, 1.0)
    turned = Pose(qvec, np.zeros(3))
    return Pose(qvec, -turned.rotation @ np.asarray(position, np.float64))


def rolled(pose: Pose, angle: float) -> Pose:
    """The pose of a camera that is turned about its optical axis; what it sees turns by ``angle``
    radians, from x towards y."""
    turn = _times(np.array((np.cos(angle / 2), 0, 0, np.sin(angle / 2))), pose.qvec)
    turn = turn * (1.0 if turn[0] >= 0 else -1.0)
    turned = Pose(turn, np.zeros(3))
    return Pose(turn, -turned.rotation @ pose.centre)


def free_sight(city: City, place: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) nothing hides from a place (3,): bool (N,). What lies within a
    hundredth of the distance to a point does not hide it."""
    ways = points - place  # (N, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = np.einsum("sk,sk->s", city.normals, city.origins - place)
        share = ahead[:, None] / (city.normals @ ways.T)  # (S, N) of the way
        hits = place + share[..., None] * ways - city.origins[:, None]
        along = np.einsum("snk,sk->sn", hits, city.u)
        down = np.einsum("snk,sk->sn", hits, city.v)
        inside = (along > 0) & (along < city.extents[:, :1])
        inside &= (down > 0) & (down < city.extents[:, 1:])
        return ~(inside & (share > 1e-3) & (share < 0.99)).any(0)


def _times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Product of two quaternions (w, x, y, z)."""
    a, p = left[0], left[1:]
    b, q = right[0], right[1:]
    return np.array((a * b - p @ q, *(a * q + b * p + np.cross(p, q))))


def project(camera: Camera, pose: Pose, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) to pixels (N, 2), corner origin, and depths (N,) in metres."""
    local = points @ pose.rotation.T + pose.tvec
    flat = local @ intrinsics(camera).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return flat[:, :2] / flat[:, 2:], local[:, 2]


def surface_forms(city: City, camera: Camera, pose: Pose) -> np.ndarray:
    """Affine forms (S, 5, 3) of the pixel (x, y, 1): inverse depth, then four that are positive
    inside the surface (its texture coordinates times inverse depth, from either end)."""
    turn = pose.rotation
    rays = turn.T @ np.linalg.inv(intrinsics(camera))
    reach = pose.centre - city.origins
    off = np.einsum("sk,sk->s", city.normals, reach)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -(city.normals @ rays) / off[:, None]
    along = np.einsum("sk,sk->s", city.u, reach)[:, None] * depth + city.u @ rays
    down = np.einsum("sk,sk->s", city.v, reach)[:, None] * depth + city.v @ rays
    wide, high = city.extents[:, :1] * depth, city.extents[:, 1:] * depth
    return np.stack((depth, along, wide - along, down, high - down), 1)


def frames(city: City, camera: Camera, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Surfaces that may be seen (K,) and the pixel boxes (K, 4) x0 y0 x1 y1 they lie within."""
    turn = pose.rotation
    facing = np.einsum("sk,sk->s", city.normals, pose.centre - city.origins) > 1e-6
    local = city.corners() @ turn.T + pose.tvec
    facing &= (local[..., 2] > NEAR).any(1)
    kept = np.flatnonzero(facing)
    boxes = np.empty((kept.size, 4))
    calibration = intrinsics(camera)
    for row, corners in enumerate(local[kept]):
        if corners[:, 2].min() < NEAR:
            corners = _in_front(corners)
        flat = corners @ calibration.T
        flat = flat[:, :2] / flat[:, 2:]
        boxes[row] = *flat.min(0), *flat.max(0)
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = (high > 0).all(1) & (low < (camera.width, camera.height)).all(1)
    return kept[inside], boxes[inside]


def _in_front(corners: np.ndarray) -> np.ndarray:
    """Clip a polygon (N, 3) in camera coordinates at the near plane."""
    kept = []
    for here, there in zip(corners, np.roll(corners, -1, 0), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] - NEAR) * (there[2] - NEAR) < 0:
            kept.append(here + (there - here) * (NEAR - here[2]) / (there[2] - here[2]))
    return np.array(kept)


def rasterise(
    forms: np.ndarray, boxes: np.ndarray, labels: np.ndarray, xs: np.ndarray, ys: np.ndarray
) -> np.ndarray:
    """Which surface wins at every sample: int32 (len(ys), len(xs)), -1 for none.

    ``forms`` (K, 5, 3) as of :func:`surface_forms`: the largest value of the first wins, where it
    is positive and the other four are too. ``boxes`` (K, 4) x0 y0 x1 y1 bound the surfaces.
    ``xs``, ``ys``: the samples' coordinates, increasing.
    """
    nearest = np.zeros((ys.size, xs.size), np.float32)
    winner = np.full(nearest.shape, -1, np.int32)
    columns = np.searchsorted(xs, boxes[:, [0, 2]])
    rows = np.searchsorted(ys, boxes[:, [1, 3]])
    xs32 = xs.astype(np.float32)
    for form, label, (x0, x1), (y0, y1) in zip(forms, labels, columns, rows, strict=True):
        if x0 >= x1 or y0 >= y1:
            continue
        y = ys[y0:y1]
        left, right = np.full(y.size, -np.inf), np.full(y.size, np.inf)
        for a, b, c in form[1:]:  # each half plane bounds every row from one side
            rest = b * y + c
            if abs(a) < 1e-12:
                right[rest < 0] = -np.inf
            elif a > 0:
                np.maximum(left, -rest / a, out=left)
            else:
                np.minimum(right, -rest / a, out=right)
        x = xs32[x0:x1]
        box = np.s_[y0:y1, x0:x1]
        a, b, c = form[0]
        value = np.add.outer((b * y + c).astype(np.float32), (a * xs[x0:x1]).astype(np.float32))
        wins = value > nearest[box]
        wins &= x >= left.astype(np.float32)[:, None]
        wins &= x < right.astype(np.float32)[:, None]
        np.copyto(nearest[box], value, where=wins)
        np.copyto(winner[box], label, where=wins)
    return winner


def render(city: City, camera: Camera, pose: Pose, *, supersampling: int = 2) -> Rendering:
    """Photograph a city: colours averaged over ``supersampling`` squared samples a pixel."""
    width, height = camera.width, camera.height
    forms = surface_forms(city, camera, pose)
    kept, boxes = frames(city, camera, pose)
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    surface = rasterise(forms[kept], boxes, kept, xs, ys)
    planes = forms[:, 0]
    seen = planes[surface]
    inverse = seen[..., 0] * xs + seen[..., 1] * ys[:, None] + seen[..., 2]
    depth = np.where(surface >= 0, 1 / np.where(surface >= 0, inverse, 1.0), 0.0)

    fine_xs = (np.arange(width * supersampling) + 0.5) / supersampling
    fine_ys = (np.arange(height * supersampling) + 0.5) / supersampling
    winner = rasterise(forms[kept], boxes, kept, fine_xs, fine_ys)
    paint = _paint(city, camera, pose, forms, winner, fine_xs, fine_ys, kept, boxes)
    image = cv2.resize(paint, (width, height), interpolation=cv2.INTER_AREA)
    return Rendering(image, depth.astype(np.float32), surface, planes, camera, pose)


def _paint(
    city: City,
    camera: Camera,
    pose: Pose,
    forms: np.ndarray,
    winner: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    kept: np.ndarray,
    boxes: np.ndarray,
) -> np.ndarray:
    """Colours uint8 (len(ys), len(xs), 3) of the surfaces that won."""
    image = _sky(city, camera, pose, winner, xs, ys)
    calibration = intrinsics(camera)
    pitch = float(xs[1] - xs[0]) / float(np.sqrt(calibration[0, 0] * calibration[1, 1]))
    centre = pose.centre
    columns = np.searchsorted(xs, boxes[:, [0, 2]])
    rows = np.searchsorted(ys, boxes[:, [1, 3]])
    counts = np.bincount(winner.ravel() + 1, minlength=len(forms) + 1)[1:]
    for label, (x0, x1), (y0, y1) in zip(kept, columns, rows, strict=True):
        if counts[label] == 0:
            continue
        mask = winner[y0:y1, x0:x1] == label
        if counts[label] < 0.5 * mask.size:  # shrink to what is not hidden
            inside, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x0, x1 = x0 + across[0], x0 + across[-1] + 1
            y0, y1 = y0 + inside[0], y0 + inside[-1] + 1
            mask = winner[y0:y1, x0:x1] == label
        x, y = xs[x0:x1], ys[y0:y1]
        near, along, _, down, _ = (
            np.add.outer((b * y + c).astype(np.float32), (a * x).astype(np.float32))
            for a, b, c in forms[label]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            z = 1 / near
        pyramid = city.pyramids[label]
        wide, high = (float(extent) for extent in city.extents[label])
        density = pyramid[0].shape[1] / wide
        off = float(city.normals[label] @ (centre - city.origins[label]))
        color = _sample(pyramid, along * z / wide, down * z / high, z, mask, density * pitch, off)
        np.copyto(image[y0:y1, x0:x1], color, where=mask[..., None])
    return image


def _sample(
    pyramid: list[np.ndarray],
    s: np.ndarray,
    t: np.ndarray,
    z: np.ndarray,
    mask: np.ndarray,
    scale: float,
    off: float,
) -> np.ndarray:
    """Trilinear texture look-up at ``s``, ``t`` in [0, 1].

    A square sample of pitch p (in units of focal length) covers p² z³ / off of a surface that the
    camera is ``off`` metres away from; the more slanted, the longer than wide it is.
    """
    seen = z[mask]
    near, far = float(seen.min()), float(seen.max())

    def level_of(depth: np.ndarray) -> np.ndarray:
        return (
            np.log2(scale)
            + 1.5 * np.log2(depth)
            - 0.5 * np.log2(off)
            + 0.25 * np.log2(np.maximum(depth / off, 1))
        )

    last = len(pyramid) - 1
    low, high = np.clip(level_of(np.array((near, far))), 0, last)

    def look_up(level: int) -> np.ndarray:
        texture = pyramid[level]
        return cv2.remap(
            texture,
            s * np.float32(texture.shape[1]) - np.float32(0.5),
            t * np.float32(texture.shape[0]) - np.float32(0.5),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )

    if high - low < 0.3 or mask.size < 400:
        return look_up(round(float(low + high) / 2))
    level = np.clip(level_of(np.where(mask, z, np.float32(near))), 0, last).astype(np.float32)
    total = np.zeros((*mask.shape, 3), np.float32)
    for step in range(int(low), int(np.ceil(high)) + 1):
        weight = np.maximum(1 - np.abs(level - np.float32(step)), 0)
        total += look_up(step) * weight[..., None]
    return (total + np.float32(0.5)).astype(np.uint8)


def _sky(
    city: City, camera: Camera, pose: Pose, winner: np.ndarray, xs: np.ndarray, ys: np.ndarray
) -> np.ndarray:
    """The panorama behind everything, drawn where no surface won."""
    image = np.zeros((*winner.shape, 3), np.uint8)
    empty = winner < 0
    if not empty.any():
        return image
    bottom = int(np.flatnonzero(empty.any(1))[-1]) + 1
    rays = pose.rotation.T @ np.linalg.inv(intrinsics(camera))
    x, y, z = (
        np.add.outer((b * ys[:bottom] + c).astype(np.float32), (a * xs).astype(np.float32))
        for a, b, c in rays
    )
    high, wide = city.sky.shape[:2]
    azimuth = np.arctan2(y, x) / np.float32(2 * np.pi) + np.float32(0.5)
    climb = np.arctan2(z, np.hypot(x, y)) / np.float32(np.pi / 2)
    image[:bottom] = cv2.remap(
        city.sky, azimuth * (wide - 1), (1 - climb) * (high - 1), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return image


def lift(view: Rendering, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 2) to the world: points (N, 3) in metres, NaN for sky; surfaces (N,) int32.

    A keypoint between pixels lies on the surface seen by the pixel nearest to it; its depth is
    that plane's, exactly. Keypoints outside the picture count as sky.
    """
    pixels = np.asarray(keypoints, np.float64).reshape(-1, 2) + 0.5
    surface = _surface_at(view, pixels)
    rays = np.c_[pixels, np.ones(len(pixels))]
    inverse = np.einsum("nk,nk->n", view.planes[surface], rays)
    depth = np.where(surface >= 0, 1 / np.where(surface >= 0, inverse, 1.0), np.nan)
    local = rays @ np.linalg.inv(intrinsics(view.camera)).T * depth[:, None]
    return (local - view.pose.tvec) @ view.pose.rotation, surface


def _surface_at(view: Rendering, pixels: np.ndarray) -> np.ndarray:
    """Surface (N,) int32 at pixels (N, 2), corner origin; -1 for sky and outside."""
    size = np.array((view.camera.width, view.camera.height))
    inside = np.all((pixels >= 0) & (pixels < size), axis=1)
    column, row = np.where(inside[:, None], pixels, 0).astype(int).T
    return np.where(inside, view.surface[row, column], -1).astype(np.int32)


def correspond(
    view0: Rendering, view1: Rendering, keypoints0: np.ndarray, *, tolerance: float = 2e-3
) -> TrueCorrespondences:
    """Carry keypoints (N, 2) of ``view0`` over to ``view1`` by depth.

    ``tolerance``: how much, as a part of the depth, what ``view1`` sees at that spot may lie in
    front of or behind the point for it to count as the same place.
    """
    points, surface = lift(view0, keypoints0)
    pixels, depth = project(view1.camera, view1.pose, points)
    ahead = (surface >= 0) & (depth > NEAR)
    there = _surface_at(view1, np.where(ahead[:, None], pixels, -1.0))
    rays = np.c_[pixels, np.ones(len(pixels))]
    inverse = np.einsum("nk,nk->n", view1.planes[there], rays)
    with np.errstate(invalid="ignore"):
        visible = ahead & (there >= 0) & (np.abs(inverse * depth - 1) < tolerance)
    return TrueCorrespondences(pixels - 0.5, visible, surface, points)
