"""One house of the city: a facade with windows, a shop, weather, and everything that juts out."""

from __future__ import annotations

import numpy as np

from . import textures
from .surfaces import UP, WALL_DENSITY, Frame, Site, paste, quad, tilt

WALLS: tuple[textures.Color, ...] = (
    (196, 176, 140), (178, 142, 118), (205, 196, 178), (150, 158, 160), (190, 160, 96),
    (156, 88, 68), (168, 108, 84), (128, 134, 120), (208, 186, 160), (172, 168, 176),
)  # fmt: skip

STONE: tuple[textures.Color, ...] = ((186, 178, 162), (160, 152, 140), (205, 198, 184))


def lay_building(site: Site, frame: Frame, wide: float, setback: float) -> None:
    """A house ``wide`` metres wide whose facade begins at the frame's origin.

    ``setback``: how far it stands behind its neighbours (its strip of ground is the street's).
    """
    rng = site.rng
    floors = int(rng.choice((1, 2, 2, 3, 3)))
    ground, storey = float(rng.uniform(3.6, 4.2)), float(rng.uniform(2.9, 3.3))
    high = ground + storey * floors + float(rng.uniform(0.5, 1.2))
    color = WALLS[int(rng.integers(len(WALLS)))]
    trim = STONE[int(rng.integers(len(STONE)))]
    rows, columns = quad(WALL_DENSITY, wide, high)
    wall = _masonry(rng, rows, columns, color)
    textures.weather(rng, wall, WALL_DENSITY)

    count = max(int(wide / rng.uniform(2.1, 2.8)), 2)
    bays = (np.arange(count) + 0.5) * wide / count
    frames = (textures.vivid(rng, 60, 120), (232, 230, 222), (70, 60, 52))
    ink = frames[int(rng.integers(3))]
    oriel = int(rng.integers(count)) if rng.random() < 0.6 else -1
    shuttered = rng.random() < 0.5
    for floor in range(floors):
        foot = ground + storey * floor + 0.8
        for bay, centre in enumerate(bays):
            if bay == oriel and 0 <= floor < 2:
                continue
            _window(site, frame, wall, centre, foot, high, ink, trim, shuttered, floor)
    if oriel >= 0 and floors >= 2:
        _oriel(site, frame, bays[oriel], ground + 0.35, storey, color, ink)
    _ground_floor(site, frame, wall, wide, ground, high, trim)
    _cables_and_posters(rng, wall, wide, ground, high)

    back = 7.0
    site.lay(frame.at(0, high, 0), frame.right, -UP, wide, high, wall)
    for corner, turn in (
        (frame.at(wide, high, 0), -frame.out),
        (frame.at(0, high, -back), frame.out),
    ):
        flank = _masonry(rng, *quad(48.0, back, high), color)
        textures.weather(rng, flank, 48.0)
        site.lay(corner, turn, -UP, back, high, flank)
    roof = textures.rough(rng, *quad(10.0, wide, back), (120, 80, 66), 14.0)
    site.lay(frame.at(0, high, -back), frame.right, frame.out, wide, back, roof)

    _trim(site, frame, wide, ground, high, trim, setback)
    for _ in range(int(rng.integers(1, 3))):  # chimneys
        a = float(rng.uniform(0.5, wide - 1.5))
        site.box(frame, (a, a + 0.8), (high, high + 1.4), (-2.2, -1.5), (150, 84, 66))
    if rng.random() < 0.5 and wide > 8:  # a set-back attic
        paint = _masonry(rng, *quad(48.0, wide - 2, 2.4), (120, 122, 128))
        for centre in np.arange(1.2, wide - 3, 2.1):
            patch = textures.window(rng, *quad(48.0, 0.9, 1.2), (225, 222, 214))
            paste(paint, patch, centre * 48, 0.5 * 48)
        out = (-4.5, -1.4)
        site.box(
            frame, (1, wide - 1), (high, high + 2.4), out, (112, 114, 120), paint, density=24.0
        )


def _masonry(
    rng: np.random.Generator, rows: int, columns: int, color: textures.Color
) -> np.ndarray:
    """A facade's bare wall: brick, ashlar or plaster."""
    kind = rng.random()
    if kind < 0.35:
        return textures.masonry(rng, rows, columns, color, (6, 18), variation=20.0)
    if kind < 0.6:
        joint = (118, 110, 98)
        return textures.masonry(
            rng, rows, columns, color, (30, 62), variation=11.0, joint=2, joint_color=joint
        )
    paint = textures.rough(rng, rows, columns, color, 13.0)
    textures.shade(paint, textures.noise(rng, rows, columns, (150, 70)) * 10, (1, 1, 1))
    return paint


def _window(
    site: Site, frame: Frame, wall: np.ndarray, centre: float, foot: float, high: float,
    ink: textures.Color, trim: textures.Color, shuttered: bool, floor: int,
) -> None:  # fmt: skip
    """Paint a window on the wall and hang its sill, lintel, balcony or machine on the facade."""
    rng = site.rng
    w, h = float(rng.uniform(0.95, 1.2)), float(rng.uniform(1.4, 1.75))
    left, top = centre - w / 2, foot + h
    d = WALL_DENSITY
    paste(wall, textures.window(rng, *quad(d, w, h), ink), left * d, (high - top) * d)
    if shuttered:
        color = textures.vivid(rng, 50, 130)
        for edge in (left - 0.5, left + w + 0.02):
            if rng.random() < 0.8:
                leaf = textures.rough(rng, *quad(d, 0.48, h), color, 12.0)
                leaf[:: int(rng.integers(4, 7)), :, :3] //= 2
                paste(wall, leaf, edge * d, (high - top) * d)
    site.box(
        frame, (left - 0.12, left + w + 0.12), (foot - 0.12, foot), (0, 0.18), trim, amount=16.0
    )
    lintel = rng.random()
    if lintel < 0.5:
        site.box(
            frame, (left - 0.1, left + w + 0.1), (top, top + 0.2), (0, 0.12), trim, amount=16.0
        )
    extra = rng.random()
    if extra < 0.22 and floor >= 0:
        _balcony(site, frame, centre, foot - 0.75)
    elif extra < 0.36:  # an air conditioner or a meter
        a = left + w + float(rng.uniform(0.1, 0.3))
        panel = textures.rough(rng, *quad(84, 0.75, 0.5), (205, 205, 200), 8.0)
        panel[4:-4:3, 4:-4, :3] = (120, 122, 124)
        textures.weather(rng, panel, 60.0)
        up = (foot - 0.1, foot + 0.4)
        site.box(frame, (a, a + 0.75), up, (0.05, 0.4), (190, 190, 186), panel)
    elif extra < 0.62:  # a flower box
        flowers = textures.rough(rng, *quad(84, w, 0.34), (66, 92, 44), 26.0)
        for _ in range(40):
            x, y = rng.uniform((0, 0), (flowers.shape[1], flowers.shape[0] * 0.6)).astype(int)
            flowers[y : y + 3, x : x + 3, :3] = textures.vivid(rng, 40, 250)
        up = (foot, foot + 0.34)
        site.box(frame, (left, left + w), up, (0.02, 0.3), (84, 100, 56), flowers, amount=26.0)


def _balcony(site: Site, frame: Frame, centre: float, floor: float) -> None:
    """A slab with a closed parapet and laundry, signs or nothing on it."""
    rng = site.rng
    half, deep = 1.0, float(rng.uniform(0.7, 1.0))
    along = (centre - half, centre + half)
    color = textures.tone(rng, 90, 215)
    site.box(frame, along, (floor, floor + 0.16), (0, deep), (170, 165, 156), amount=14.0)
    panel = textures.rough(rng, *quad(84, 2 * half, 0.85), color, 10.0)
    width = panel.shape[1]
    for x in np.cumsum(rng.integers(6, 13, width // 6)):
        if x < width:
            panel[:, x : x + 2, :3] //= 2
    for _ in range(int(rng.integers(1, 4))):  # cloths and bills over the parapet
        cloth = textures.poster(rng, int(rng.integers(24, 60)), int(rng.integers(20, 46)))
        paste(panel, cloth, rng.uniform(0, width), rng.uniform(0, 20))
    textures.weather(rng, panel, 84.0)
    up = (floor + 0.16, floor + 1.0)
    site.box(frame, along, up, (deep - 0.08, deep), color, panel)
    for a in (along[0], along[1] - 0.08):
        site.box(frame, (a, a + 0.08), up, (0, deep - 0.08), color)


def _oriel(
    site: Site, frame: Frame, centre: float, foot: float, storey: float,
    color: textures.Color, ink: textures.Color,
) -> None:  # fmt: skip
    """A bay window two storeys high."""
    rng = site.rng
    half, deep, high = 1.05, 0.8, 2 * storey - 0.3
    front = _masonry(rng, *quad(WALL_DENSITY, 2 * half, high), color)
    textures.weather(rng, front, WALL_DENSITY)
    for storey_up in (0, 1):
        for left in (0.16, 1.12):
            pane = textures.window(rng, *quad(WALL_DENSITY, 0.82, 1.7), ink)
            top = high - storey_up * storey - 2.3
            paste(front, pane, left * WALL_DENSITY, top * WALL_DENSITY)
    along, up = (centre - half, centre + half), (foot, foot + high)
    site.box(frame, along, up, (0, deep), color, front)
    ledge = (along[0] - 0.1, along[1] + 0.1)
    site.box(frame, ledge, (foot + high, foot + high + 0.15), (0, deep + 0.1), (150, 142, 130))


def _ground_floor(
    site: Site, frame: Frame, wall: np.ndarray, wide: float, ground: float, high: float,
    trim: textures.Color,
) -> None:  # fmt: skip
    """A door, then shop windows with a sign and an awning, or a wall for posters and sprayers."""
    rng, d = site.rng, WALL_DENSITY
    left = 0.9
    entrance = float(rng.uniform(left, max(wide - 2.2, left + 0.1)))
    paste(wall, textures.door(rng, *quad(d, 1.15, 2.4)), entrance * d, (high - 2.4) * d)
    over = (entrance - 0.15, entrance + 1.3)
    site.box(frame, over, (2.45, 2.65), (0, 0.45), trim, amount=16.0)
    site.box(frame, over, (0, 0.15), (0, 0.7), (150, 146, 138), amount=14.0)
    lantern = (entrance + 1.45, entrance + 1.65)
    glass = textures.blank(20, 16, (250, 236, 190))
    glass[..., 3] = 255
    site.box(frame, lantern, (2.5, 2.78), (0.1, 0.3), (60, 56, 50), glass, side=glass)
    site.lamp(frame.at(entrance + 1.55, 2.6, 0.75), float(rng.uniform(1.3, 2.2)))

    for a, b in ((left, entrance - 0.4), (entrance + 2.0, wide - 0.8)):
        if b - a < 1.6:
            continue
        if rng.random() < 0.62:
            _shop(site, frame, wall, a, b, high)
        else:
            for _ in range(int((b - a) * 1.6)):
                bill = textures.poster(rng, *rng.integers((45, 34), (110, 76)))
                x, y = rng.uniform(a, b) * d, (high - rng.uniform(0.7, 2.6)) * d
                tilt(bill, float(rng.normal(0, 4)), wall, x, y)
            for _ in range(int(rng.integers(1, 3))):
                spot = np.array((rng.uniform(a, b) * d, (high - rng.uniform(0.7, 1.8)) * d))
                textures.graffiti(rng, wall, spot, float(rng.uniform(1.0, 2.0)) * d)


def _shop(site: Site, frame: Frame, wall: np.ndarray, a: float, b: float, high: float) -> None:
    """A display window with a stall riser, a name board, maybe an awning and a hanging sign."""
    rng, d = site.rng, WALL_DENSITY
    display = textures.shop_window(rng, *quad(d, b - a, 1.9))
    paste(wall, display, a * d, (high - 2.5) * d)
    color = textures.vivid(rng, 30, 120)
    site.box(frame, (a, b), (0.15, 0.55), (0, 0.16), color, amount=12.0)
    board = textures.sign(rng, *quad(84, b - a, 0.6))
    site.box(frame, (a, b), (2.7, 3.3), (0, 0.14), color, board)
    site.lamp(frame.at((a + b) / 2, 2.2, 1.2), float(rng.uniform(0.8, 1.5)))
    if rng.random() < 0.55:
        cloth = textures.rough(rng, *quad(84, b - a, 1.3), textures.vivid(rng, 120, 230), 8.0)
        stripe, other = int(rng.integers(18, 34)), (*textures.vivid(rng, 150, 245), 0)
        for x in range(0, cloth.shape[1], 2 * stripe):
            cloth[:, x : x + stripe - int(rng.integers(0, 6))] = other
        textures.weather(rng, cloth, 84.0)
        slope = np.array((0.85, -0.53))  # out, down
        down = slope[0] * frame.out + slope[1] * UP
        site.lay(frame.at(a, 2.72, 0.14), frame.right, down, b - a, 1.25, cloth)
        lower = frame.at(a, 2.72 - 0.53 * 1.25, 0.14 + 0.85 * 1.25)
        site.lay(lower, frame.right, -down, b - a, 1.25, cloth[::-1] // 2)
    if rng.random() < 0.7:
        post = float(rng.uniform(a, b - 0.1))
        plate = textures.sign(rng, *quad(84, 0.8, 0.8))
        site.box(frame, (post, post + 0.1), (3.4, 4.2), (0.2, 1.0), (50, 50, 54), None, side=plate)


def _cables_and_posters(
    rng: np.random.Generator, wall: np.ndarray, wide: float, ground: float, high: float
) -> None:
    """Faded lettering and a mural high on the wall, so that no two upper walls look alike."""
    d = WALL_DENSITY
    band = wall[int((high - ground - 0.6) * d) : int((high - ground + 0.1) * d)]
    if rng.random() < 0.6 and len(band):
        text = f"{textures.word(rng)} {textures.word(rng)} {rng.integers(1850, 1990)}"
        textures.write(band, text, textures.vivid(rng, 30, 120), int(rng.integers(0, 4)))
    for _ in range(int(rng.integers(0, 3))):
        spot = np.array((rng.uniform(1, wide - 1) * d, rng.uniform(0.5, high - ground) * d))
        textures.graffiti(rng, wall, spot, float(rng.uniform(0.6, 1.2)) * d)


def _trim(
    site: Site, frame: Frame, wide: float, ground: float, high: float, trim: textures.Color,
    setback: float,
) -> None:  # fmt: skip
    """Cornices, corner pilasters, a drainpipe and the strip of paving before a set-back house."""
    rng = site.rng
    site.box(frame, (0, wide), (high - 0.3, high + 0.1), (0, 0.45), trim, amount=16.0, density=60)
    if rng.random() < 0.7:
        up = (ground - 0.35, ground - 0.1)
        site.box(frame, (0, wide), up, (0, 0.22), trim, amount=16.0, density=60)
    if rng.random() < 0.6:
        for a in (0.0, wide - 0.45):
            paint = textures.masonry(
                rng, *quad(WALL_DENSITY, 0.45, high - 0.3), trim, (32, 40), variation=14.0
            )
            textures.weather(rng, paint, WALL_DENSITY)
            site.box(frame, (a, a + 0.45), (0, high - 0.3), (0, 0.16), trim, paint)
    a = float(rng.uniform(0.55, 0.75))
    site.box(frame, (a, a + 0.11), (0, high - 0.3), (0.03, 0.15), (104, 108, 104), amount=16.0)
    if setback > 0:
        site.box(frame, (0, wide), (0, 0.14), (0, setback), (158, 152, 142), amount=14.0)
