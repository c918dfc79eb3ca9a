"""The rectangles that a city is built of, and the metres of its street."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from . import textures

LENGTH = 46.0
"""Length of the street in metres."""


HALF_WIDTH = 8.5
"""Distance of the facades from the street's middle line in metres."""


WALL_DENSITY = 76.0
"""Texels per metre on facades, which cameras see from about 10 m."""


SMALL_DENSITY = 84.0
"""Texels per metre on ledges, boxes and furniture, some of them near the cameras."""


GROUND_DENSITY = 60.0


@dataclass(frozen=True)
class City:
    """Rectangles in space with their paints, under some light.

    origins (S, 3) top-left corner seen from outside; u, v (S, 3) unit vectors along the texture's
    columns and rows; extents (S, 2) metres along u and v; normals (S, 3) = v x u, outwards.
    paints: per surface uint8 (h, w, 4), see :mod:`.textures`. pyramids: per surface the lit
    texture and its halvings, uint8 RGB. lamps: (position (3,), linear RGB strength (3,)).
    sky: panorama uint8 (256, 1024, 3).
    """

    origins: np.ndarray
    u: np.ndarray
    v: np.ndarray
    extents: np.ndarray
    normals: np.ndarray
    paints: tuple[np.ndarray, ...]
    lamps: tuple[tuple[np.ndarray, np.ndarray], ...]
    pyramids: tuple[list[np.ndarray], ...]
    sky: np.ndarray

    def corners(self) -> np.ndarray:
        """The surfaces' corners (S, 4, 3) in order around them."""
        wide, high = self.u * self.extents[:, :1], self.v * self.extents[:, 1:]
        o = self.origins
        return np.stack((o, o + wide, o + wide + high, o + high), 1)


@dataclass(frozen=True)
class Frame:
    """A place to build on: ``right`` along a wall seen from the street, ``out`` away from it."""

    origin: np.ndarray
    right: np.ndarray
    out: np.ndarray

    def at(self, along: float, height: float, depth: float) -> np.ndarray:
        """World point of the local coordinates (metres right, up, out)."""
        up = np.array((0.0, 0.0, height))
        return self.origin + along * self.right + up + depth * self.out


UP = np.array((0.0, 0.0, 1.0))


@dataclass
class Site:
    """The rectangles laid so far; building a city is adding to it."""

    rng: np.random.Generator
    rectangles: list[tuple[np.ndarray, np.ndarray, np.ndarray, float, float, np.ndarray]] = field(
        default_factory=list
    )
    lamps: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def lay(
        self, corner: np.ndarray, u: np.ndarray, v: np.ndarray, wide: float, high: float,
        paint: np.ndarray,
    ) -> None:  # fmt: skip
        """Add one rectangle; ``corner`` is its top left seen from outside."""
        self.rectangles.append((corner, u, v, wide, high, paint))

    def box(
        self,
        frame: Frame,
        along: tuple[float, float],
        up: tuple[float, float],
        out: tuple[float, float],
        color: textures.Color,
        front: np.ndarray | None = None,
        *,
        side: np.ndarray | None = None,
        amount: float = 10.0,
        density: float = SMALL_DENSITY,
    ) -> None:
        """Add a box (local metres): a front with its own paint, sides, top, and an underside
        where it does not stand on the ground."""
        (a0, a1), (h0, h1), (d0, d1) = along, up, out
        wide, high, deep = a1 - a0, h1 - h0, d1 - d0
        right, forth = frame.right, frame.out

        def plain(w: float, h: float) -> np.ndarray:
            size = max(round(h * density), 2), max(round(w * density), 2)
            paint = textures.rough(self.rng, *size, color, amount)
            if w * h > 0.25:
                textures.weather(self.rng, paint, density)
            return paint

        self.lay(
            frame.at(a0, h1, d1), right, -UP, wide, high,
            plain(wide, high) if front is None else front,
        )  # fmt: skip
        for corner, turn in ((frame.at(a1, h1, d1), -forth), (frame.at(a0, h1, d0), forth)):
            self.lay(corner, turn, -UP, deep, high, plain(deep, high) if side is None else side)
        self.lay(frame.at(a0, h1, d0), right, forth, wide, deep, plain(wide, deep))
        if h0 > 0.2:
            self.lay(frame.at(a0, h0, d1), right, -forth, wide, deep, plain(wide, deep))

    def lamp(self, place: np.ndarray, strength: float) -> None:
        """Add a lamp of about the colour of sodium or a bulb."""
        warm = np.array((1.0, 0.74, 0.42)) + self.rng.uniform(-0.08, 0.08, 3)
        self.lamps.append((place, strength * warm))

    def finish(self) -> City:
        """The city in flat white light."""
        corner, u, v, wide, high, paints = zip(*self.rectangles, strict=True)
        us, vs = np.array(u), np.array(v)
        return City(
            origins=np.array(corner),
            u=us,
            v=vs,
            extents=np.stack((wide, high), 1),
            normals=np.cross(vs, us),
            paints=tuple(paints),
            lamps=tuple(self.lamps),
            pyramids=tuple([paint[..., :3]] for paint in paints),
            sky=np.full((256, 1024, 3), 200, np.uint8),
        )


def quad(density: float, wide: float, high: float) -> tuple[int, int]:
    """Texture size (rows, columns) of a rectangle in metres."""
    return max(round(high * density), 2), max(round(wide * density), 2)


def paste(paint: np.ndarray, patch: np.ndarray, x: float, y: float) -> None:
    """Copy ``patch`` into a paint with its top-left texel at (x, y), clipped to it, in place."""
    left, top = round(x), round(y)
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + patch.shape[1], paint.shape[1])
    y1 = min(top + patch.shape[0], paint.shape[0])
    if x0 < x1 and y0 < y1:
        paint[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]


def tilt(patch: np.ndarray, angle: float, under: np.ndarray, x: float, y: float) -> None:
    """Glue ``patch`` askew by ``angle`` degrees onto ``under``, centred at (x, y), in place."""
    height, width = patch.shape[:2]
    reach = int(np.hypot(height, width) / 2) + 1
    x0, y0 = int(x) - reach, int(y) - reach
    if x0 < 0 or y0 < 0 or x0 + 2 * reach > under.shape[1] or y0 + 2 * reach > under.shape[0]:
        return
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    turn[:, 2] += reach - np.array((width / 2, height / 2))
    size = (2 * reach, 2 * reach)
    mask = cv2.warpAffine(np.full((height, width), 255, np.uint8), turn, size)
    box = under[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
    np.copyto(box, cv2.warpAffine(patch, turn, size), where=(mask > 127)[..., None])
