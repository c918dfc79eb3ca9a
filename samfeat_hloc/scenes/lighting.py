"""Day and night over the city, and what a camera makes of either.

Light is baked into the textures: a sun with cast shadows and a bright sky by day; at night lamps
whose light falls off with distance, a dark sky, and the windows and signs that glow. A photograph
adds what happens behind the lens: exposure, white balance, blur, bloom, noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .render import Rendering, intrinsics, rasterise
from .surfaces import City

LIGHT_DENSITY = 7.0
"""Texels per metre of the baked light."""

SHADOW_STEP = 0.05
"""Metres between the samples of the sun's shadow map."""

OUTSIDE = 3
"""Samples beyond the shadow map from which on nothing is hidden from the sun."""


@dataclass(frozen=True)
class Light:
    """What shines: colours are linear RGB, 1 makes a white wall white.

    sun: colour of the sun and its direction of travel (3,). sky: light from above; ground: light
    from below. lamps: strength of the street lamps; glow: of the windows and signs. backdrop: the
    panorama's colours at the zenith and at the horizon (display values 0..255); clouds: their
    contrast there.
    """

    sun: tuple[float, float, float]
    sun_direction: tuple[float, float, float]
    sky: tuple[float, float, float]
    ground: tuple[float, float, float]
    lamps: float
    glow: float
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    clouds: float


DAY = Light(
    sun=(1.30, 1.22, 1.06),
    sun_direction=(0.36, 0.52, -0.9),
    sky=(0.46, 0.50, 0.57),
    ground=(0.34, 0.32, 0.29),
    lamps=0.0,
    glow=0.0,
    zenith=(92, 142, 204),
    horizon=(196, 212, 226),
    clouds=34.0,
)

NIGHT = Light(
    sun=(0.0, 0.0, 0.0),
    sun_direction=(0.0, 0.0, -1.0),
    sky=(0.010, 0.012, 0.020),
    ground=(0.010, 0.009, 0.008),
    lamps=0.5,
    glow=0.9,
    zenith=(5, 7, 15),
    horizon=(26, 22, 24),
    clouds=2.0,
)


@dataclass(frozen=True)
class Exposure:
    """How a photograph is taken: factors on the display values, then defects.

    gain: brightness; gamma: contrast curve; balance: per channel RGB; blur and bloom: standard
    deviation in pixels and part of the bright light that spreads; shot and read: noise in grey
    levels, of a mid-grey and of black.
    """

    gain: float = 1.0
    gamma: float = 1.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    bloom: float = 0.0
    shot: float = 1.2
    read: float = 0.6


def day_exposure(rng: np.random.Generator, *, mild: float = 1.0) -> Exposure:
    """A daytime photograph; ``mild`` scales how much exposure and white balance wander."""
    warm = rng.normal(0, 0.03 * mild)
    return Exposure(
        gain=float(np.exp(rng.normal(0, 0.11 * mild))),
        gamma=float(np.exp(rng.normal(0, 0.07 * mild))),
        balance=(1 + warm, 1.0, 1 - warm),
        blur=0.3,
    )


def night_exposure(rng: np.random.Generator) -> Exposure:
    """A hand-held photograph after dark: dim, soft and noisy."""
    return Exposure(
        gain=float(rng.uniform(0.95, 1.25)),
        gamma=float(rng.uniform(1.0, 1.12)),
        balance=(1.0, float(rng.uniform(0.93, 0.99)), float(rng.uniform(0.84, 0.98))),
        blur=float(rng.uniform(0.5, 0.75)),
        bloom=0.35,
        shot=float(rng.uniform(4.0, 6.0)),
        read=float(rng.uniform(2.0, 3.2)),
    )


def photograph(image: np.ndarray, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """Develop a rendered picture, uint8 (H, W, 3) RGB, into a photograph of the same shape."""
    light = image.astype(np.float32) / 255
    if exposure.bloom > 0:
        bright = np.maximum(light - 0.72, 0) * np.float32(exposure.bloom * 4)
        sigma = 0.02 * image.shape[1]
        light += cv2.GaussianBlur(bright, (0, 0), sigma)
    if exposure.blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), exposure.blur)
    light = light * np.asarray(exposure.balance, np.float32) * np.float32(exposure.gain)
    light = np.clip(light, 0, 1) ** np.float32(exposure.gamma) * 255
    spread = np.sqrt(exposure.shot**2 * light / 128 + exposure.read**2)
    grain = rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(light + grain * spread + 0.5, 0, 255).astype(np.uint8)


def illuminate(city: City, light: Light, seed: int = 0) -> City:
    """The same city under another light: every texture (pyramid) and the sky redone.

    ``seed`` shapes the clouds. The city's own paints are left alone.
    """
    shadow = _ShadowMap(city, light) if max(light.sun) > 0 else None
    pyramids = []
    for index, paint in enumerate(city.paints):
        gain = _light_on(city, index, light, shadow) ** np.float32(1 / 2.2)
        height, width = paint.shape[:2]
        gain = cv2.resize(gain, (width, height), interpolation=cv2.INTER_LINEAR)
        lit = paint[..., :3] * gain
        if light.glow > 0 and paint[..., 3].any():
            warm = np.array((1.0, 0.86, 0.58), np.float32) * np.float32(light.glow * 1.15 / 255)
            lit += paint[..., :3] * (paint[..., 3:].astype(np.float32) * warm)
        pyramids.append(build_pyramid(np.minimum(lit, 255).astype(np.uint8)))
    return replace(city, pyramids=tuple(pyramids), sky=panorama(light, seed))


def build_pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """A texture, uint8 (H, W, 3), and its halvings down to two texels."""
    pyramid = [texture]
    while min(texture.shape[:2]) >= 4 and len(pyramid) < 8:
        height, width = texture.shape[:2]
        texture = cv2.resize(texture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        pyramid.append(texture)
    return pyramid


def _light_on(city: City, index: int, light: Light, shadow: _ShadowMap | None) -> np.ndarray:
    """Linear RGB light float32 (h, w, 3) on a coarse grid over one surface."""
    wide, high = city.extents[index]
    columns = max(int(np.ceil(wide * LIGHT_DENSITY)), 2)
    rows = max(int(np.ceil(high * LIGHT_DENSITY)), 2)
    normal = city.normals[index]
    along = (np.arange(columns) + 0.5) / columns * wide
    down = (np.arange(rows) + 0.5) / rows * high
    points = (
        city.origins[index]
        + along[None, :, None] * city.u[index]
        + down[:, None, None] * city.v[index]
        + 0.03 * normal
    )
    return _light_at(points, normal, light, city.lamps, shadow)


def _light_at(
    points: np.ndarray, normal: np.ndarray, light: Light,
    lamps: Sequence[tuple[np.ndarray, np.ndarray]], shadow: _ShadowMap | None,
) -> np.ndarray:  # fmt: skip
    """Linear RGB light float32 (h, w, 3) on points (h, w, 3) of a surface with this normal."""
    rows, columns, _ = points.shape
    from_above = 0.5 + 0.5 * normal[2]
    ambient = from_above * np.array(light.sky) + (1 - from_above) * np.array(light.ground)
    total = np.broadcast_to(ambient, (rows, columns, 3)).astype(np.float32)
    if shadow is not None:
        facing = -float(normal @ shadow.direction)
        if facing > 0:
            open_sky = shadow.lit(points.reshape(-1, 3)).reshape(rows, columns, 1)
            total = total + open_sky * np.array(light.sun, np.float32) * np.float32(facing)
    if light.lamps > 0:
        for place, color in lamps:
            towards = place - points
            distance = np.einsum("rck,rck->rc", towards, towards)
            cosine = (towards @ normal) / np.sqrt(distance)
            fall = np.maximum(0.15 + 0.85 * cosine, 0) * (cosine > -0.1) / (distance + 0.8)
            total = total + (light.lamps * fall[..., None] * color).astype(np.float32)
    return np.clip(total, 0, 4)


def light_in(
    view: Rendering, city: City, light: Light, *, glow: np.ndarray | None = None, casting: int = 0
) -> np.ndarray:
    """Linear RGB light float32 (H, W, 3) on what a picture shows; 1 in the sky.

    For pictures of a city whose textures have no light baked in: ``image * light ** (1 / 2.2)`` is
    the picture under this light, without lighting what the picture does not show.

    Arguments:
        glow: float32 (S,), how strongly each surface shines by itself after dark; None: not.
        casting: the first surface that casts a shadow; those before it do not.
    """
    shadow = None
    if max(light.sun) > 0:
        parts = (city.origins, city.u, city.v, city.extents, city.normals)
        origins, u, v, extents, normals = (part[casting:] for part in parts)
        solid = replace(city, origins=origins, u=u, v=v, extents=extents, normals=normals)
        shadow = _ShadowMap(solid, light)
    total = np.ones((*view.surface.shape, 3), np.float32)
    height, width = view.surface.shape
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    rays = np.concatenate((pixels, np.ones((height, width, 1))), -1)
    rays = rays @ np.linalg.inv(intrinsics(view.camera)).T * view.depth[..., None]
    points = (rays - view.pose.tvec) @ view.pose.rotation
    order = np.argsort(view.surface, axis=None, kind="stable")
    labels = view.surface.ravel()[order]
    for seen in np.split(order, np.flatnonzero(np.diff(labels)) + 1):
        index = int(view.surface.ravel()[seen[0]])
        if index < 0:
            continue
        normal = city.normals[index]
        there = points.reshape(-1, 3)[seen] + 0.03 * normal
        lit = _light_at(there[None], normal, light, city.lamps, shadow)[0]
        if glow is not None and light.glow > 0:
            lit = lit + light.glow * glow[index] * np.array((1.0, 0.8, 0.5), np.float32)
        total.reshape(-1, 3)[seen] = lit
    return total


class _ShadowMap:
    """The city as the sun sees it: how far its light gets, on a regular grid."""

    def __init__(self, city: City, light: Light) -> None:
        self.direction = np.array(light.sun_direction) / np.linalg.norm(light.sun_direction)
        side = np.cross(self.direction, (0.0, 0.0, 1.0))
        self.side = side / np.linalg.norm(side)
        self.up = np.cross(self.side, self.direction)
        corners = city.corners()
        flat = np.stack((corners @ self.side, corners @ self.up), -1)
        self.low = flat.reshape(-1, 2).min(0)
        shape = np.ceil((flat.reshape(-1, 2).max(0) - self.low) / SHADOW_STEP).astype(int)
        base = self.low[0] * self.side + self.low[1] * self.up - 1000.0 * self.direction

        # depth along the light and texture coordinates are affine in the map's pixel
        grid = np.stack((self.side * SHADOW_STEP, self.up * SHADOW_STEP, base), 1)
        facing = city.normals @ self.direction
        edge_on = np.abs(facing) < 1e-6
        facing = np.where(edge_on, 1.0, facing)
        offset = np.einsum("sk,sk->s", city.normals, city.origins)
        depth = -(city.normals @ grid)
        depth[:, 2] += offset
        depth /= facing[:, None]
        forms = []
        for axis, size in ((city.u, city.extents[:, 0]), (city.v, city.extents[:, 1])):
            place = axis @ grid + (axis @ self.direction)[:, None] * depth
            place[:, 2] -= np.einsum("sk,sk->s", axis, city.origins)
            other = -place
            other[:, 2] += size
            forms += [place, other]
        nearness = -depth
        nearness[:, 2] += 2000.0
        boxes = np.concatenate((flat.min(1) - self.low, flat.max(1) - self.low), 1) / SHADOW_STEP
        kept = np.flatnonzero(~edge_on)
        winner = rasterise(
            np.stack((nearness, *forms), 1)[kept], boxes[kept], kept,
            np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5,
        )  # fmt: skip
        rows, columns = np.indices(winner.shape, np.float32) + np.float32(0.5)
        seen = depth[winner]
        reach = seen[..., 0] * columns + seen[..., 1] * rows + seen[..., 2] - 1000.0
        self.reach = np.where(winner >= 0, reach, 1e6).astype(np.float32)

    def lit(self, points: np.ndarray) -> np.ndarray:
        """Part of the sun that reaches points (N, 3): float32 (N,) from 0 to 1."""
        flat = np.stack((points @ self.side, points @ self.up), -1)
        where = (flat - self.low) / SHADOW_STEP
        far = points @ self.direction
        total = np.zeros(len(points), np.float32)
        taps = ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))
        for tap in taps:
            column, row = (where + tap).astype(int).T
            column = np.clip(column, 0, self.reach.shape[1] - 1)
            row = np.clip(row, 0, self.reach.shape[0] - 1)
            total += self.reach[row, column] > far - 0.08
        low, high = -OUTSIDE, np.array(self.reach.shape[::-1]) + OUTSIDE
        beyond = ((where < low) | (where > high)).any(1)
        return np.where(beyond, np.float32(1), total / len(taps))


def panorama(light: Light, seed: int) -> np.ndarray:
    """The sky, uint8 (256, 1024, 3): columns are azimuths, the top row the zenith. ``seed`` shapes
    the clouds."""
    rng = np.random.default_rng((seed, 77))
    height, width = 256, 1024
    climb = np.linspace(1, 0, height, dtype=np.float32)[:, None, None] ** np.float32(0.7)
    sky = climb * np.array(light.zenith) + (1 - climb) * np.array(light.horizon)
    grid = np.zeros((height, width), np.float32)
    for n in (6, 12, 24):
        grains = rng.standard_normal((n, 2 * n), dtype=np.float32)
        grains = np.c_[grains[:, -n:], grains, grains[:, :n]]  # the panorama closes on itself
        around = cv2.resize(grains, (2 * width, height), interpolation=cv2.INTER_CUBIC)
        grid += around[:, width // 2 : width // 2 + width]
    clouds = np.clip(grid * 0.5, 0, 1)[..., None] * light.clouds
    return np.clip(sky + clouds, 0, 255).astype(np.uint8)
