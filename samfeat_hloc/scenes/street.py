"""The street between the houses: road, pavements, lamp posts, vehicles, furniture."""

from __future__ import annotations

import cv2
import numpy as np

from . import textures
from .surfaces import GROUND_DENSITY, HALF_WIDTH, LENGTH, UP, Frame, Site, quad

KERB = 5.7
"""Distance of the kerbs from the street's middle line in metres."""

PAVEMENT = 0.14
"""Height of the pavements in metres."""

LACQUERS: tuple[textures.Color, ...] = (
    (212, 210, 204), (150, 44, 38), (48, 76, 122), (196, 158, 70), (96, 104, 110), (74, 110, 84),
    (168, 178, 186), (206, 122, 62), (120, 150, 170), (88, 62, 56),
)  # fmt: skip

CARDBOARD: tuple[textures.Color, ...] = ((202, 152, 96), (178, 132, 84), (156, 118, 66))


def lay_street(site: Site) -> None:
    """The ground and everything that stands on it; the middle (|y| < 3.3 m) stays free."""
    rng = site.rng
    x_axis, y_axis = np.array((1.0, 0, 0)), np.array((0, 1.0, 0))
    overhang = 8.0
    wide = LENGTH + 2 * overhang
    road = textures.asphalt(rng, *quad(GROUND_DENSITY, wide, 2 * KERB), GROUND_DENSITY)
    site.lay(np.array((-overhang, KERB, 0.0)), x_axis, -y_axis, wide, 2 * KERB, road)
    for side in (1, -1):
        deep = HALF_WIDTH + 5.0 - KERB
        slabs = textures.masonry(
            rng, *quad(GROUND_DENSITY, wide, deep), (164, 158, 148), (27, 36),
            variation=13.0, joint=2, joint_color=(96, 92, 86), running=False,
        )  # fmt: skip
        textures.weather(rng, slabs, GROUND_DENSITY)
        start = -overhang if side > 0 else LENGTH + overhang
        frame = Frame(np.array((start, side * KERB, 0.0)), side * x_axis, -side * y_axis)
        site.lay(frame.at(0, PAVEMENT, -deep), frame.right, frame.out, wide, deep, slabs)
        kerb = textures.masonry(
            rng, *quad(GROUND_DENSITY, wide, PAVEMENT), (150, 148, 142), (40, 60), joint=2
        )
        site.lay(frame.at(0, PAVEMENT, 0), frame.right, -UP, wide, PAVEMENT, kerb)
        _line_of_furniture(site, side)


def _line_of_furniture(site: Site, side: int) -> None:
    """Vehicles at the kerb; lamp posts, benches, bins, boxes and kiosks on the pavement."""
    rng = site.rng
    x = float(rng.uniform(0.5, 2.5))
    while x < LENGTH - 4.5:
        kind = rng.random()
        if kind < 0.14:
            stand_van(site, _square(x, side * 4.55, side), float(rng.uniform(3.6, 4.4)))
            x += 4.6
        elif kind < 0.36:
            stand_car(site, _square(x, side * 4.6, side), float(rng.uniform(3.4, 3.9)))
            x += 4.2
        elif kind < 0.56:
            stand_planter(site, _square(x, side * 6.2, side))
            x += 1.8
        elif kind < 0.74:
            _cabinet(site, _square(x, side * 6.3, side))
            x += 1.4
        elif kind < 0.84:
            stand_kiosk(site, _square(x, side * 6.3, side))
            x += 2.6
        else:
            _crates(site, _square(x, side * 6.2, side))
            x += 1.8
        x += float(rng.uniform(0.4, 2.2))
    for x in np.arange(3.0 + 2.5 * (side > 0), LENGTH, 9.0):
        _lamp_post(site, _square(float(x), side * 5.95, side))


def _square(x: float, y: float, side: int) -> Frame:
    """A spot on the ground whose front faces the middle of the street; right is ± x."""
    right = np.array((float(side), 0, 0))
    return Frame(np.array((x, y, 0.0)), right, np.array((0, -float(side), 0)))


def _all_round(
    site: Site, frame: Frame, half: tuple[float, float], up: tuple[float, float],
    color: textures.Color, front: np.ndarray, side: np.ndarray | None = None,
) -> None:  # fmt: skip
    """A box about the frame's origin with its front's paint at the back as well."""
    a, d = half
    site.box(frame, (-a, a), up, (-d, d), color, front, side=side)
    site.lay(frame.at(a, up[1], -d), -frame.right, -UP, 2 * a, up[1] - up[0], front[:, ::-1].copy())


def _lamp_post(site: Site, frame: Frame) -> None:
    post = textures.rough(site.rng, *quad(84, 0.14, 4.6), (58, 66, 62), 14.0)
    for _ in range(6):  # stickers
        top = int(site.rng.uniform(0.5, 0.85) * post.shape[0])
        post[top : top + 14, 1:-1, :3] = textures.vivid(site.rng, 60, 245)
    _all_round(site, frame, (0.07, 0.07), (0, 4.6), (58, 66, 62), post, post)
    glass = textures.blank(30, 30, (255, 240, 200))
    glass[..., 3] = 255
    _all_round(site, frame, (0.2, 0.2), (4.6, 5.0), (70, 70, 66), glass, glass)
    site.lamp(frame.at(0, 4.4, 0.5), float(site.rng.uniform(3.2, 5.0)))


def _parked(rng: np.random.Generator, frame: Frame, length: float) -> tuple[textures.Color, Frame]:
    """The lacquer of a vehicle, and the frame in its middle."""
    color = LACQUERS[int(rng.integers(len(LACQUERS)))]
    middle = frame.at(length / 2 * (1 if frame.right[0] > 0 else -1), 0, 0)
    return color, Frame(middle, *_axes(frame))


def stand_van(site: Site, frame: Frame, length: float) -> None:
    """A delivery van with lettering: a body and a cab, on wheels."""
    rng = site.rng
    color, frame = _parked(rng, frame, length)
    body = textures.rough(rng, *quad(84, length, 1.75), color, 5.0)
    rows, columns = body.shape[:2]
    third = body[int(0.1 * rows) : int(0.55 * rows), int(0.05 * columns) : int(0.62 * columns)]
    textures.write(third, f"{textures.word(rng)} {textures.word(rng)}", (25, 25, 35), 1)
    for _ in range(3):
        patch = textures.poster(rng, int(rows * 0.22), int(columns * 0.1))
        x = int(rng.uniform(0.05, 0.55) * columns)
        body[int(0.6 * rows) : int(0.6 * rows) + len(patch), x : x + patch.shape[1]] = patch
    glass = np.s_[int(0.08 * rows) : int(0.45 * rows), int(0.72 * columns) : int(0.93 * columns)]
    pane = body[glass]
    pane[:] = (40, 48, 56, 0)
    textures.shade(pane, textures.noise(rng, pane.shape[0], pane.shape[1], (18, 5)) * 14, (1, 1, 1))
    _wheels(body)
    textures.weather(rng, body, 120.0)
    back = textures.rough(rng, *quad(84, 1.5, 1.75), color, 5.0)
    pane = back[14:60, 16:-16]
    pane[:] = (44, 52, 60, 0)
    textures.shade(pane, textures.noise(rng, pane.shape[0], pane.shape[1], (16, 5)) * 16, (1, 1, 1))
    textures.write(back[70:110], textures.word(rng), (25, 25, 35), 1)
    cv2.rectangle(back, (4, 110), (20, 126), (180, 40, 34, 0), -1)
    cv2.rectangle(back, (back.shape[1] - 20, 110), (back.shape[1] - 4, 126), (180, 40, 34, 0), -1)
    _all_round(site, frame, (length / 2, 0.75), (0.25, 2.0), color, body, back)


def _axes(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    return frame.right, frame.out


def _wheels(body: np.ndarray) -> None:
    """Paint two wheels and the sill's shadow at the foot of a vehicle's side."""
    rows, columns = body.shape[:2]
    body[int(0.93 * rows) :, :, :3] = 34
    for x in (0.2, 0.8):
        centre, radius = (int(x * columns), int(rows - 14)), 28
        cv2.circle(body, centre, radius, (26, 26, 28, 0), -1, cv2.LINE_AA)
        cv2.circle(body, centre, radius // 2, (150, 152, 156, 0), -1, cv2.LINE_AA)
        cv2.circle(body, centre, 5, (60, 60, 64, 0), -1, cv2.LINE_AA)


def stand_car(site: Site, frame: Frame, length: float) -> None:
    """A car in two boxes: a body with doors, a cabin with windows."""
    rng = site.rng
    color, frame = _parked(rng, frame, length)
    body = textures.rough(rng, *quad(84, length, 0.65), color, 5.0)
    rows, columns = body.shape[:2]
    for x in (0.36, 0.62, 0.74):
        cv2.line(body, (int(x * columns), 2), (int(x * columns), rows), (20, 20, 22, 0), 1)
    cv2.rectangle(body, (2, 8), (22, 24), (245, 235, 200, 0), -1)
    cv2.rectangle(body, (columns - 22, 8), (columns - 3, 22), (190, 30, 30, 0), -1)
    _wheels(body)
    textures.weather(rng, body, 120.0)
    face = textures.rough(rng, *quad(84, 1.5, 0.65), color, 5.0)
    for x in (4, face.shape[1] - 22):
        cv2.rectangle(face, (x, 10), (x + 18, 24), (240, 230, 200, 0), -1)
        cv2.rectangle(face, (x, 10), (x + 18, 24), (30, 30, 32, 0), 1)
    plate = face[30:46, 40:-40]
    plate[:] = (235, 235, 225, 0)
    textures.write(plate, f"{textures.word(rng)[:2]} {rng.integers(100, 999)}", (20, 20, 30), 0)
    _all_round(site, frame, (length / 2, 0.75), (0.22, 0.87), color, body, face)
    cabin = textures.rough(rng, *quad(84, length * 0.55, 0.55), color, 5.0)
    rows, columns = cabin.shape[:2]
    for a, b in ((0.06, 0.47), (0.53, 0.94)):
        glass = cabin[int(0.15 * rows) : int(0.9 * rows), int(a * columns) : int(b * columns)]
        glass[:] = (44, 52, 60, 0)
        textures.shade(
            glass, textures.noise(rng, glass.shape[0], glass.shape[1], (16, 5)) * 18, (1, 1, 1)
        )
    half = (length * 0.275, 0.62)
    _all_round(site, frame, half, (0.87, 1.42), color, cabin, cabin)


def stand_planter(site: Site, frame: Frame) -> None:
    rng = site.rng
    tub = textures.masonry(rng, *quad(84, 1.4, 0.5), (150, 140, 126), (20, 42), joint=2)
    textures.weather(rng, tub, 84.0)
    _all_round(site, frame, (0.7, 0.35), (PAVEMENT, 0.64), (140, 132, 120), tub)
    high = float(rng.uniform(0.5, 1.1))
    hedge = textures.rough(rng, *quad(84, 1.3, high), (62, 88, 42), 28.0)
    for _ in range(60):
        x, y = rng.uniform((0, 0), (hedge.shape[1], hedge.shape[0])).astype(int)
        hedge[y : y + 3, x : x + 3, :3] = textures.vivid(rng, 60, 235)
    up = (0.64, 0.64 + high)
    _all_round(site, frame, (0.65, 0.3), up, (62, 88, 42), hedge, hedge)


def _cabinet(site: Site, frame: Frame) -> None:
    """A switch box that bills and sprayers have found."""
    rng = site.rng
    wide, high = float(rng.uniform(0.8, 1.3)), float(rng.uniform(1.0, 1.5))
    faces = []
    for span in (wide, 0.5):
        face = textures.rough(rng, *quad(84, span, high), (138, 146, 140), 8.0)
        for _ in range(3):
            bill = textures.poster(rng, *rng.integers((28, 20), (60, 42)))
            x, y = rng.uniform(0, 0.6, 2)
            part = face[int(y * face.shape[0]) :, int(x * face.shape[1]) :]
            fit = bill[: part.shape[0], : part.shape[1]]
            part[: fit.shape[0], : fit.shape[1]] = fit
        centre = np.array(face.shape[1::-1]) * rng.uniform(0.3, 0.7, 2)
        textures.graffiti(rng, face, centre, face.shape[1] * 0.7)
        textures.weather(rng, face, 84.0)
        faces.append(face)
    up = (PAVEMENT, high)
    _all_round(site, frame, (wide / 2, 0.25), up, (138, 146, 140), faces[0], faces[1])


def stand_kiosk(site: Site, frame: Frame) -> None:
    """A newsstand: covered in bills below a projecting roof."""
    rng = site.rng
    faces = []
    for span in (2.2, 1.3):
        face = textures.rough(rng, *quad(84, span, 2.3), (60, 84, 74), 8.0)
        for x in np.arange(0.06, span - 0.5, 0.52):
            for y in (0.15, 0.85, 1.55):
                bill = textures.poster(rng, 54, 40, glow=int(rng.choice((0, 60, 140))))
                row, column = int(y * 84), int(x * 84)
                face[row : row + 54, column : column + 40] = bill
        textures.weather(rng, face, 100.0)
        faces.append(face)
    frame = Frame(frame.at(0, 0, 0), *_axes(frame))
    _all_round(site, frame, (1.1, 0.65), (PAVEMENT, 2.44), (60, 84, 74), faces[0], faces[1])
    name = textures.sign(rng, *quad(84, 2.6, 0.35))
    _all_round(site, frame, (1.3, 0.85), (2.44, 2.8), (52, 72, 64), name)


def _crates(site: Site, frame: Frame) -> None:
    """A stack of boxes, each lower than the one behind."""
    rng = site.rng
    for step, (offset, high) in enumerate(((-0.25, 1.2), (0.25, 0.75))):
        color = CARDBOARD[int(rng.integers(len(CARDBOARD)))]
        face = textures.rough(rng, *quad(84, 1.1, high - PAVEMENT), color, 12.0)
        face[::16, :, :3] //= 2
        textures.write(face[: len(face) // 2], textures.word(rng), (60, 30, 25), 1)
        textures.weather(rng, face, 60.0)
        spot = Frame(frame.at(0.1 * step, 0, offset), *_axes(frame))
        _all_round(site, spot, (0.55, 0.25), (PAVEMENT, high), color, face)
