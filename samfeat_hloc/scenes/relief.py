"""A house front made of photos: they are projected onto walls whose windows, cornices and balconies
stand back or jut out, with a street's furniture and trees before them.

What moves with the camera is the shape, what is seen on it are photos. World frame as the city's:
metres, z up, the ground at z = 0; the front stands at y = 0 and faces -y, x runs along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from . import textures
from .lighting import build_pyramid
from .street import stand_car, stand_kiosk, stand_planter, stand_van
from .surfaces import UP, City, Frame, Site

X, OUT = np.array((1.0, 0.0, 0.0)), np.array((0.0, -1.0, 0.0))
BACKGROUND = 2  # surfaces that cast no shadow: the ground and the backdrop, laid first
DEEP = 5.0  # metres that a house goes back
STREET = 14.0  # metres of ground before the front

Pyramid = list[np.ndarray]


@dataclass(frozen=True)
class Front:
    """A scene to photograph.

    city: its surfaces, textured with photos as they are (no light is baked in). glow: float32
    (S,), how strongly each surface shines after dark. size: metres along and up of the house that
    cameras look at, whose left foot is the origin. density: texels a metre on its wall.
    """

    city: City
    glow: np.ndarray
    size: tuple[float, float]
    density: float


@dataclass
class Pieces:
    """Textured rectangles laid so far; see :meth:`.surfaces.Site.lay`."""

    rectangles: list[tuple[np.ndarray, np.ndarray, np.ndarray, float, float]] = field(
        default_factory=list
    )
    pyramids: list[Pyramid] = field(default_factory=list)
    glow: list[float] = field(default_factory=list)
    lamps: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def lay(
        self, corner: np.ndarray, u: np.ndarray, v: np.ndarray, size: tuple[float, float],
        picture: np.ndarray, glow: float = 0.0,
    ) -> None:  # fmt: skip
        """Add one rectangle, ``size`` metres along u and v; ``corner``: top left from outside."""
        self.rectangles.append((corner, u, v, *size))
        self.pyramids.append(build_pyramid(picture))
        self.glow.append(glow)

    def block(
        self, frame: Frame, along: tuple[float, float], up: tuple[float, float],
        out: tuple[float, float], front: np.ndarray, cloth: Cloth,
    ) -> None:  # fmt: skip
        """A box in the frame's metres: its front is a picture of its own, the rest is cloth."""
        (a0, a1), (h0, h1), (d0, d1) = along, up, out
        wide, high, deep = a1 - a0, h1 - h0, d1 - d0
        right, forth = frame.right, frame.out
        self.lay(frame.at(a0, h1, d1), right, -UP, (wide, high), front)
        self.lay(frame.at(a1, h1, d1), -forth, -UP, (deep, high), cloth.cut(deep, high))
        self.lay(frame.at(a0, h1, d0), forth, -UP, (deep, high), cloth.cut(deep, high))
        self.lay(frame.at(a0, h1, d0), right, forth, (wide, deep), cloth.cut(wide, deep))
        if h0 > 0.2:
            self.lay(frame.at(a0, h0, d1), right, -forth, (wide, deep), cloth.cut(wide, deep))

    def stand(self, thing: Pieces, x: float, out: float, turn: float) -> None:
        """Add what was built about the origin, turned (radians) and ``out`` metres before y = 0."""
        c, s = np.cos(turn), np.sin(turn)
        turned = np.array(((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)))  # rows are taken along
        shift = np.array((x, -out, 0.0))
        for corner, u, v, wide, high in thing.rectangles:
            self.rectangles.append((corner @ turned + shift, u @ turned, v @ turned, wide, high))
        self.pyramids += thing.pyramids
        self.glow += thing.glow

    def finish(self, sky: np.ndarray) -> City:
        """The surfaces as a city whose textures are the pictures as they are, and its paints too:
        it is lit by :func:`.lighting.light_in`."""
        corner, u, v, wide, high = zip(*self.rectangles, strict=True)
        us, vs = np.array(u), np.array(v)
        return City(
            origins=np.array(corner), u=us, v=vs, extents=np.stack((wide, high), 1),
            normals=np.cross(vs, us), paints=tuple(p[0] for p in self.pyramids),
            lamps=tuple(self.lamps), pyramids=tuple(self.pyramids), sky=sky,
        )  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """Material for what has no photo of its own: cut at random from one, ``density`` texels a
    metre."""

    photo: np.ndarray
    density: float
    rng: np.random.Generator

    def cut(self, wide: float, high: float) -> np.ndarray:
        """uint8 (h, w, 3) for a rectangle in metres; large ones are stretched."""
        size = [
            min(max(round(metres * self.density), 2), room)
            for metres, room in zip((high, wide), self.photo.shape[:2], strict=True)
        ]
        top, left = (
            int(self.rng.integers(room - side + 1))
            for side, room in zip(size, self.photo.shape[:2], strict=True)
        )
        return self.photo[top : top + size[0], left : left + size[1]]


def build_front(
    photos: Sequence[np.ndarray], things: Sequence[Pieces], rng: np.random.Generator,
    sky: np.ndarray,
) -> Front:  # fmt: skip
    """A house, its neighbours, and what stands before them.

    Arguments:
        photos: five, uint8 (H, W, 3) RGB of any size: the house's wall, its neighbours' walls, the
            cloth of ledges and sides, the ground, what is seen in the distance.
        things: to stand before it, of :func:`street_things`.
        sky: panorama, as :class:`.surfaces.City` has it.
    """
    wall, beside, other, paving, distance = photos
    pieces = Pieces()
    density = wall.shape[1] / rng.uniform(8.0, 15.0)
    wide, high = wall.shape[1] / density, wall.shape[0] / density
    cloth = Cloth(other, density * 0.8, rng)
    pieces.lay(np.array((-0.7 * wide, 0.0, 0.0)), X, OUT, (2.4 * wide, STREET), paving)
    behind = float(rng.uniform(15, 30))
    pieces.lay(np.array((-3 * wide, behind, 14.0)), X, -UP, (7 * wide, 14.0), distance)
    _house(pieces, Frame(np.zeros(3), X, OUT), wall, density, cloth, lit=0.25)
    for side in (-1, 1):
        if rng.random() < 0.8:
            part = beside[:, :: 1 if side < 0 else -1]
            scale = beside.shape[1] / (0.8 * wide)
            gap = float(rng.choice((0.0, 0.0, 1.5)))
            start = -0.8 * wide - gap if side < 0 else wide + gap
            setback = float(rng.choice((-1.5, -0.6, 0.0, 0.4, 1.0, 2.0)))
            frame = Frame(np.array((start, setback, 0.0)), X, OUT)
            _house(pieces, frame, part, scale, cloth, lit=0.25)
    for _ in range(int(rng.choice((0, 1, 1, 2, 2, 3)))):
        thing = things[int(rng.integers(len(things)))]
        x = float(rng.uniform(-0.1, 1.1)) * wide
        pieces.stand(thing, x, float(rng.uniform(1.2, 4.5)), float(rng.normal(0, 0.25)))
    for _ in range(int(rng.integers(3))):  # posts and pipes
        a, d = float(rng.uniform(0, wide)), float(rng.uniform(0.1, 3.5))
        thick = float(rng.uniform(0.06, 0.2))
        up = (0.0, float(rng.uniform(2.0, 6.0)))
        frame = Frame(np.zeros(3), X, OUT)
        pieces.block(frame, (a, a + thick), up, (d, d + thick), cloth.cut(thick, up[1]), cloth)
    _lamps(pieces, rng, wide)
    return Front(
        pieces.finish(sky), np.array(pieces.glow, np.float32), (wide, high), float(density)
    )


def _house(
    pieces: Pieces, frame: Frame, photo: np.ndarray, density: float, cloth: Cloth, lit: float
) -> None:
    """A photo as the wall of a house, cut into storeys and bays: places are whole texels, so that
    the photo goes on without a seam wherever the wall lies in one plane. ``lit``: share of the
    windows that shine after dark."""
    rng = cloth.rng
    rows, columns = photo.shape[:2]
    floors, bays = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    deep = float(rng.uniform(0.12, 0.45))  # of the reveals

    def box(x: tuple[int, int], y: tuple[int, int]) -> tuple[tuple[float, float], ...]:
        """Metres along and up of texels."""
        return (x[0] / density, x[1] / density), ((rows - y[1]) / density, (rows - y[0]) / density)

    def wall(x: tuple[int, int], y: tuple[int, int], out: float = 0.0, glow: float = 0.0) -> None:
        if x[0] < x[1] and y[0] < y[1]:
            (a0, a1), (h0, h1) = box(x, y)
            part = photo[y[0] : y[1], x[0] : x[1]]
            pieces.lay(frame.at(a0, h1, out), frame.right, -UP, (a1 - a0, h1 - h0), part, glow)

    across = _places(rng, columns, bays)
    above = 0
    for top, foot in _places(rng, rows, floors):
        wall((0, columns), (above, top))
        above, left = foot, 0
        for x in across:
            wall((left, x[0]), (top, foot))
            left = x[1]
            along, up = box(x, (top, foot))
            kind = rng.random()
            if kind < 0.12:  # a bay window
                out = (0.0, float(rng.uniform(0.3, 0.8)))
                pieces.block(frame, along, up, out, photo[top:foot, x[0] : x[1]], cloth)
                continue
            glow = float(rng.uniform(0.3, 1.0)) if rng.random() < lit else 0.0
            if kind > 0.9:
                wall(x, (top, foot), 0.0, glow)  # a picture of a window
                continue
            wall(x, (top, foot), -deep, glow)
            _reveal(pieces, frame, along, up, deep, cloth)
            if rng.random() < 0.3:
                margin = float(rng.uniform(0.1, 0.4))
                ledge = (along[0] - margin, along[1] + margin)
                high = (up[0] - 0.25, up[0] + min(0.8, 0.45 * (up[1] - up[0])))
                out = (0.0, float(rng.uniform(0.5, 1.1)))
                front = cloth.cut(ledge[1] - ledge[0], high[1] - high[0])
                pieces.block(frame, ledge, high, out, front, cloth)
        wall((left, columns), (top, foot))
        if rng.random() < 0.4:  # a cornice over the windows
            _cornice(pieces, frame, photo, density, top, cloth)
    wall((0, columns), (above, rows))
    _cornice(pieces, frame, photo, density, 0, cloth)
    size = (DEEP, rows / density)
    for corner, turn in (
        (frame.at(columns / density, size[1], 0), -frame.out),
        (frame.at(0, size[1], -DEEP), frame.out),
    ):
        pieces.lay(corner, turn, -UP, size, cloth.cut(*size))


def _places(rng: np.random.Generator, length: int, count: int) -> list[tuple[int, int]]:
    """Texels from where to where windows reach, one in each of ``count`` equal parts."""
    cell = length / count
    share, shift = float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.35, 0.65))
    starts = [round(cell * (i + shift * (1 - share))) for i in range(count)]
    return [(start, start + max(round(cell * share), 2)) for start in starts]


def _reveal(
    pieces: Pieces, frame: Frame, along: tuple[float, float], up: tuple[float, float],
    deep: float, cloth: Cloth,
) -> None:  # fmt: skip
    """The four sides of a window that stands back."""
    (a0, a1), (h0, h1) = along, up
    wide, high = a1 - a0, h1 - h0
    right, out = frame.right, frame.out
    pieces.lay(frame.at(a0, h1, 0), -out, -UP, (deep, high), cloth.cut(deep, high))
    pieces.lay(frame.at(a1, h1, -deep), out, -UP, (deep, high), cloth.cut(deep, high))
    pieces.lay(frame.at(a0, h0, -deep), right, out, (wide, deep), cloth.cut(wide, deep))
    pieces.lay(frame.at(a0, h1, 0), right, -out, (wide, deep), cloth.cut(wide, deep))


def _cornice(
    pieces: Pieces, frame: Frame, photo: np.ndarray, density: float, top: int, cloth: Cloth
) -> None:
    rng = cloth.rng
    thick = max(round(float(rng.uniform(0.12, 0.4)) * density), 2)
    high = (len(photo) - top) / density
    front = photo[top : top + thick] if rng.random() < 0.5 else cloth.cut(6.0, thick / density)
    out = (0.0, float(rng.uniform(0.12, 0.5)))
    along = (0.0, photo.shape[1] / density)
    pieces.block(frame, along, (high - thick / density, high), out, front, cloth)


def _lamps(pieces: Pieces, rng: np.random.Generator, wide: float) -> None:
    """Street lamps before the front, and lamps at its doors: none is drawn, all of them shine."""
    for _ in range(int(rng.integers(1, 4))):
        place = np.array((rng.uniform(-0.2, 1.2) * wide, -rng.uniform(1.0, 6.0), 0.0))
        place[2] = rng.uniform(3.0, 6.0)
        pieces.lamps.append((place, rng.uniform(3.0, 6.0) * _warmth(rng)))
    for _ in range(int(rng.integers(0, 4))):
        place = np.array((rng.uniform(0, wide), -rng.uniform(0.3, 0.9), rng.uniform(2.0, 4.0)))
        pieces.lamps.append((place, rng.uniform(0.8, 2.5) * _warmth(rng)))


def _warmth(rng: np.random.Generator) -> np.ndarray:
    """A lamp's colour: from sodium to white."""
    return np.array((rng.uniform(0.9, 1.1), rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.9)))


def street_things(seed: int = 0) -> list[Pieces]:
    """What stands in a street, each about the origin: cars, vans, planters, kiosks, trees."""
    rng = np.random.default_rng((seed, 5))
    made = []
    car, van = partial(stand_car, length=3.7), partial(stand_van, length=4.0)
    for stand in 3 * (car, car, van, stand_planter, stand_kiosk):
        site = Site(rng)
        stand(site, Frame(np.zeros(3), X, OUT))
        thing = Pieces()
        for corner, u, v, wide, high, paint in site.rectangles:
            glow = float(paint[..., 3].mean()) / 255
            thing.lay(corner, u, v, (wide, high), np.ascontiguousarray(paint[..., :3]), glow)
        made.append(thing)
    return made + [_tree(rng) for _ in range(6)]


def _tree(rng: np.random.Generator) -> Pieces:
    """A trunk and a crown of leafy patches at all angles, between which one sees through."""
    tree = Pieces()
    bark = textures.rough(rng, 128, 32, (92, 78, 62), 26.0)[..., :3]
    cloth = Cloth(np.ascontiguousarray(bark), 60.0, rng)
    high, half = float(rng.uniform(2.2, 3.2)), float(rng.uniform(0.08, 0.16))
    frame = Frame(np.zeros(3), X, OUT)
    tree.block(frame, (-half, half), (0.0, high), (-half, half), cloth.cut(2 * half, high), cloth)
    leaf = np.array((rng.uniform(50, 110), rng.uniform(80, 130), rng.uniform(30, 60)))
    for _ in range(28):
        place = rng.standard_normal(3)
        place *= rng.uniform(0.3, 1.0) / np.linalg.norm(place) * np.array((1.3, 1.3, 1.1))
        u, v, _ = np.linalg.qr(rng.standard_normal((3, 3)))[0].T
        size = rng.uniform(0.3, 0.75, 2)
        red, green, blue = (leaf * rng.uniform(0.6, 1.3)).clip(0, 255).astype(int).tolist()
        columns, rows = (round(60 * m) for m in size)
        leaves = textures.rough(rng, rows, columns, (red, green, blue), 30.0)
        leaves = cv2.GaussianBlur(np.ascontiguousarray(leaves[..., :3]), (0, 0), 0.7)
        corner = place + (high + 0.8) * UP - (u * size[0] + v * size[1]) / 2
        wide, tall = (float(m) for m in size)
        tree.lay(corner, u, v, (wide, tall), leaves)
        tree.lay(corner + u * size[0], -u, v, (wide, tall), leaves[:, ::-1])  # from behind
    return tree
