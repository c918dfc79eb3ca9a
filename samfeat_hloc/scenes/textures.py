"""Procedural paint for the synthetic city: plaster, masonry, windows, doors, shops, posters.

A *paint* is uint8 (H, W, 4): RGB albedo and, in the fourth channel, how strongly the spot glows
after dark (lit windows, signs). Every function draws from the generator that it is given, so a
seed fixes a city to the last pixel; nothing repeats, because local features have to tell one
place on a wall from another.
"""

from __future__ import annotations

import cv2
import numpy as np

Color = tuple[int, int, int]

_WORD_LIST = """
BAKERY CAFE HOTEL BOOKS RADIO FLOWERS GARAGE TAILOR MUSEUM PIZZA CINEMA OPTIK BANK PHARMACY TEA
WINE SHOES CYCLES ATELIER MARKET BARBER JAZZ SALE OPEN CIRCUS CONCERT VOTE LOST DOG TAXI FESTIVAL
KEYS NOODLES TOYS MUSIC FISH LAMPS HATS STUDIO PRINT ROMA NORD SUD METRO
"""
WORDS = _WORD_LIST.split()
"""What stands on signs, posters and crates."""

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)


def tone(rng: np.random.Generator, low: int, high: int) -> Color:
    """A random colour, each channel on its own."""
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, ...]) -> np.ndarray:
    """Sum of smooth random fields, float32 (height, width), about unit standard deviation.

    ``cells`` are the sizes in texels of the fields' grains; all weigh the same.
    """
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        if cell == 1:
            total += rng.standard_normal((height, width), dtype=np.float32)
            continue
        grid = rng.standard_normal((height // cell + 4, width // cell + 4), dtype=np.float32)
        field = cv2.resize(grid, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += field[cell : cell + height, cell : cell + width]
    return total / np.float32(0.75 * np.sqrt(len(cells)))


def shade(paint: np.ndarray, change: np.ndarray, tint: tuple[float, float, float]) -> None:
    """Add ``change`` (H, W) float32, in grey levels and weighted per channel, to a paint's RGB."""
    for channel, weight in enumerate(tint):
        plane = paint[..., channel]
        plane[...] = np.clip(plane + change * np.float32(weight), 0, 255)


def blank(height: int, width: int, color: Color) -> np.ndarray:
    """A paint of one colour that does not glow."""
    paint = np.empty((max(height, 1), max(width, 1), 4), np.uint8)
    paint[:] = (*color, 0)
    return paint


def rough(
    rng: np.random.Generator, height: int, width: int, color: Color, amount: float = 9.0
) -> np.ndarray:
    """Plaster, metal or wood seen from afar: one colour with noise at all scales."""
    paint = blank(height, width, color)
    shade(
        paint,
        noise(rng, paint.shape[0], paint.shape[1], (64, 16, 6, 3, 1)) * amount,
        (1.0, 0.97, 0.92),
    )
    return paint


def masonry(
    rng: np.random.Generator,
    height: int,
    width: int,
    color: Color,
    block: tuple[int, int],
    *,
    variation: float = 16.0,
    joint: int = 1,
    joint_color: Color = (170, 163, 150),
    running: bool = True,
) -> np.ndarray:
    """Bricks, ashlar or paving: blocks (height, width in texels) each with a colour of its own."""
    rows, columns = np.arange(height), np.arange(width)
    course = rows // block[0]
    shift = (course % 2) * (block[1] // 2) if running else np.zeros_like(course)
    shift = shift + rng.integers(0, max(block[1] // 5, 1), course.max() + 1)[course]
    along = columns[None, :] + shift[:, None]
    table = rng.normal(0, variation, (course.max() + 1, int(along.max()) // block[1] + 1))
    table += rng.choice((0.0, -2.2 * variation), table.shape, p=(0.93, 0.07))  # burnt or replaced
    own = table.astype(np.float32)[course[:, None], along // block[1]]
    paint = blank(height, width, color)
    shade(paint, own + noise(rng, height, width, (48, 5, 2)) * 6, (1.0, 0.9, 0.8))
    gaps = (along % block[1] < joint) | (rows % block[0] < joint)[:, None]
    paint[gaps, :3] = joint_color
    shade(paint, gaps * noise(rng, height, width, (9, 2)) * 14, (1, 1, 1))
    return paint


def weather(rng: np.random.Generator, paint: np.ndarray, density: float) -> None:
    """Age a wall in place: repaired patches, cracks, rain streaks, dirt at its foot, small marks.

    ``density``: texels per metre.
    """
    height, width = paint.shape[:2]
    area = height * width / density**2
    for _ in range(rng.poisson(area * 0.10)):  # patches where the coat has come off
        centre = rng.uniform((0, 0), (width, height))
        outline = _blob(rng, centre, rng.uniform(0.12, 0.55) * density)
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [outline], 255)
        x, y, w, h = cv2.boundingRect(outline)
        box = np.s_[max(y, 0) : y + h, max(x, 0) : x + w]
        spot = mask[box] > 0
        change = np.where(spot, rng.choice((-38.0, -24.0, 22.0, 34.0)), 0.0)
        change = change + spot * noise(rng, spot.shape[0], spot.shape[1], (12, 4, 2)) * 9
        shade(paint[box], change.astype(np.float32), tuple(rng.uniform(0.7, 1.0, 3)))
        cv2.polylines(paint, [outline], True, (84, 78, 70, 0), 1, cv2.LINE_AA)
    for _ in range(rng.poisson(area * 0.12)):  # cracks
        steps = rng.normal((0, 0), 0.07 * density, (rng.integers(5, 22), 2))
        steps[:, 1] += rng.uniform(-0.06, 0.06) * density
        line = np.cumsum(steps, axis=0) + rng.uniform((0, 0), (width, height))
        cv2.polylines(paint, [line.astype(np.int32)], False, (62, 57, 52, 0), 1, cv2.LINE_AA)
    streaks = noise(rng, 1, width, (9, 3))[0]
    reach = np.exp(-np.arange(height, dtype=np.float32) / (rng.uniform(1.0, 3.0) * density))
    shade(paint, -np.maximum(streaks - 0.6, 0)[None, :] * reach[:, None] * 22, (1, 1, 1))
    foot = np.exp(-np.arange(height, 0, -1, dtype=np.float32) / (0.45 * density))
    dirt = np.maximum(noise(rng, height, width, (40, 11)) + 0.7, 0) * foot[:, None]
    shade(paint, -dirt * 34, (0.9, 1.0, 1.1))
    for _ in range(rng.poisson(area * 3.0)):  # nails, holes, splashes
        spot = rng.uniform((0, 0), (width, height)).astype(int)
        level = int(rng.choice((45, 70, 215)))
        radius = int(rng.uniform(0.012, 0.05) * density)
        cv2.circle(paint, spot.tolist(), radius, (level, level, level - 8, 0), -1, cv2.LINE_AA)


def _blob(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """A random closed outline, int32 (N, 2) xy."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(6, 13))))
    reach = radius * rng.uniform(0.45, 1.2, angles.size)
    around = np.stack((np.cos(angles) * rng.uniform(0.7, 1.6), np.sin(angles)), 1)
    return (centre + around * reach[:, None]).astype(np.int32)


def write(paint: np.ndarray, text: str, color: Color, font: int, glow: int = 0) -> None:
    """Write ``text`` as large as it fits into the middle of a paint, in place."""
    height, width = paint.shape[:2]
    (w, h), _ = cv2.getTextSize(text, font, 1.0, 2)
    scale = min(0.86 * width / max(w, 1), 0.66 * height / max(h, 1))
    thick = max(round(2.2 * scale), 1)
    (w, h), _ = cv2.getTextSize(text, font, scale, thick)
    place = ((width - w) // 2, (height + h) // 2)
    cv2.putText(paint, text, place, font, scale, (*color, glow), thick, cv2.LINE_AA)


def vivid(rng: np.random.Generator, low: int = 40, high: int = 225) -> Color:
    """A random colour as paint has it, from strong to washed out."""
    hue, spread = rng.uniform(0, 6), high - low
    ramp = np.clip(np.abs((np.array((0.0, 4.0, 2.0)) + hue) % 6 - 3) - 1, 0, 1)
    wash = rng.uniform(0.1, 0.75)
    ramp = ramp * (1 - wash) + wash * rng.uniform(0.2, 0.9)
    red, green, blue = (low + spread * ramp).astype(int).tolist()
    return red, green, blue


def word(rng: np.random.Generator) -> str:
    """A random word for a sign or a poster."""
    return str(rng.choice(WORDS))


def poster(rng: np.random.Generator, height: int, width: int, glow: int = 0) -> np.ndarray:
    """A bill: coloured ground, random shapes, a headline and small print."""
    paint = rough(rng, height, width, vivid(rng, 70, 235), 5.0)
    height, width = paint.shape[:2]
    for _ in range(int(rng.integers(4, 10))):
        centre = rng.uniform((0, 0), (width, height))
        color = (*vivid(rng, 10, 250), 0)
        if rng.random() < 0.5:
            cv2.fillPoly(paint, [_blob(rng, centre, rng.uniform(0.1, 0.4) * width)], color)
        else:
            radius = int(rng.uniform(0.06, 0.3) * width)
            thick = int(rng.choice((-1, 2, 3)))
            cv2.circle(paint, centre.astype(int).tolist(), radius, color, thick, cv2.LINE_AA)
    ink = (20, 18, 24) if rng.random() < 0.6 else (245, 242, 235)
    strip = np.s_[: max(height // 4, 1)] if rng.random() < 0.5 else np.s_[-max(height // 4, 1) :]
    write(paint[strip], word(rng), ink, int(rng.choice(_FONTS)))
    for row in range(int(height * 0.4), int(height * 0.7), 5):
        end = int(width * rng.uniform(0.3, 0.9))
        cv2.line(paint, (int(width * 0.1), row), (end, row), (*ink, 0), 1)
    cv2.rectangle(paint, (0, 0), (width - 1, height - 1), (*ink, 0), 1)
    paint[..., 3] = glow
    return paint


def graffiti(rng: np.random.Generator, paint: np.ndarray, centre: np.ndarray, size: float) -> None:
    """Spray a tag of thick curls around ``centre`` (xy texels), ``size`` texels wide, in place."""
    color = (*vivid(rng, 15, 235), 0)
    thick = max(int(size * rng.uniform(0.02, 0.05)), 2)
    for _ in range(int(rng.integers(3, 7))):
        knots = centre + rng.uniform((-0.5, -0.3), (0.5, 0.3), (7, 2)) * size
        t = np.linspace(0, 5.99, 48)
        left = t.astype(int)
        blend = (3 * (t % 1) ** 2 - 2 * (t % 1) ** 3)[:, None]
        curve = knots[left] * (1 - blend) + knots[left + 1] * blend
        cv2.polylines(paint, [curve.astype(np.int32)], False, (15, 15, 18, 0), thick + 3)
        cv2.polylines(paint, [curve.astype(np.int32)], False, color, thick, cv2.LINE_AA)


def window(rng: np.random.Generator, height: int, width: int, frame: Color) -> np.ndarray:
    """A window of its own: panes with reflections, curtains or blinds, things on the sill."""
    lit = rng.random() < 0.4
    inside = (150, 128, 92) if lit else tone(rng, 28, 72)
    paint = rough(rng, height, width, inside, 5.0)
    height, width = paint.shape[:2]
    slope = np.add.outer(np.arange(height), np.arange(width) * rng.uniform(-1, 1)).astype(
        np.float32
    )
    sheen = noise(rng, height, width, (max(width // 3, 2), max(width // 8, 2))) * 16
    shade(paint, sheen + 22 * np.sin(slope / height * rng.uniform(2, 5)), (0.8, 0.95, 1.1))
    kind = rng.random()
    cloth = (*tone(rng, 120, 235), 0)
    if kind < 0.4:  # curtains
        for side in (0, 1):
            reach = rng.uniform(0.12, 0.42) * width
            edge = np.linspace(0, height, 6)
            bend = reach * rng.uniform(0.6, 1.1, 6)
            x = bend if side == 0 else width - bend
            wall = 0 if side == 0 else width
            shape = np.r_[np.c_[x, edge], [(wall, height), (wall, 0)]].astype(np.int32)
            cv2.fillPoly(paint, [shape], cloth, cv2.LINE_AA)
            for fold in rng.uniform(0, reach, 4):
                fx = int(fold if side == 0 else width - fold)
                cv2.line(paint, (fx, 0), (fx, height), tuple(int(c * 0.75) for c in cloth), 1)
    elif kind < 0.65:  # a blind let down some way
        drop = int(height * rng.uniform(0.2, 0.95))
        paint[:drop, :, :3] = cloth[:3]
        paint[:drop:4, :, :3] = tuple(int(c * 0.7) for c in cloth[:3])
    for _ in range(int(rng.integers(0, 4))):  # plants, vases, a cat
        centre = np.array((rng.uniform(0.1, 0.9) * width, height * rng.uniform(0.78, 1.0)))
        outline = _blob(rng, centre, rng.uniform(0.08, 0.2) * width)
        cv2.fillPoly(paint, [outline], (*vivid(rng, 20, 170), 0), cv2.LINE_AA)
    if lit:
        paint[..., 3] = np.clip(
            noise(rng, height, width, (max(width // 2, 2),)) * 25 + 130, 50, 220
        )
    bar = max(width // 22, 2)
    ink = (*frame, 0)
    cv2.rectangle(paint, (0, 0), (width - 1, height - 1), ink, 2 * bar)
    for at in range(1, int(rng.integers(1, 4))):
        cv2.line(paint, (at * width // 2, 0), (at * width // 2, height), ink, bar)
    at = int(height * rng.uniform(0.25, 0.5))
    cv2.line(paint, (0, at), (width, at), ink, bar)
    shade(paint[..., :4], noise(rng, height, width, (3, 1)) * 3, (1, 1, 1))
    return paint


def door(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A panelled door with a handle, a letter box and a number."""
    color = vivid(rng, 30, 130)
    paint = rough(rng, height, width, color, 8.0)
    dark = (*(int(c * 0.55) for c in color), 0)
    across, up = int(rng.integers(1, 3)), int(rng.integers(2, 5))
    for i in range(across):
        for j in range(up):
            x0, x1 = ((i + np.array((0.14, 0.86))) * width / across).astype(int).tolist()
            y0, y1 = ((j + np.array((0.1, 0.9))) * height / up).astype(int).tolist()
            cv2.rectangle(paint, (x0, y0), (x1, y1), dark, 2)
            cv2.line(paint, (x0, y1), (x1, y1), (*(min(c + 50, 255) for c in color), 0), 1)
    cv2.circle(paint, (int(width * 0.9), height // 2), max(width // 20, 2), (225, 200, 110, 0), -1)
    plate = np.s_[int(height * 0.05) : int(height * 0.17), int(width * 0.3) : int(width * 0.7)]
    paint[plate] = (235, 232, 220, 40)
    write(paint[plate], str(rng.integers(1, 99)), (30, 30, 60), cv2.FONT_HERSHEY_DUPLEX, 40)
    return paint


def shop_window(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A display lit after dark: shelves full of boxes, bottles and bills of all colours."""
    back = tone(rng, 50, 130)
    paint = rough(rng, height, width, back, 9.0)
    shelves = int(rng.integers(2, 5))
    for shelf in range(1, shelves + 1):
        floor = int(shelf * height / shelves) - 2
        x = 3.0
        while x < width - 4:
            w, h = rng.uniform(0.03, 0.11) * width, rng.uniform(0.3, 0.85) * height / shelves
            corner, end = (int(x), int(floor - h)), (int(x + w), floor)
            color = (*vivid(rng, 25, 240), 0)
            if rng.random() < 0.6:
                cv2.rectangle(paint, corner, end, color, -1)
                label = (int(x), int(floor - h * rng.uniform(0.3, 0.7)))
                cv2.rectangle(paint, label, (end[0], floor - 3), (*vivid(rng, 60, 250), 0), 2)
            else:
                centre = (int(x + w / 2), int(floor - h / 2))
                cv2.ellipse(paint, centre, (int(w / 2), int(h / 2)), 0, 0, 360, color, -1)
            x += w + rng.uniform(0.0, 0.03) * width
        cv2.line(paint, (0, floor), (width, floor), (70, 55, 40, 0), 3)
    paint[..., 3] = 95
    for pane in range(int(rng.integers(2, 5)) + 1):
        x = pane * width // 3
        cv2.line(paint, (x, 0), (x, height), (45, 45, 50, 0), 4)
    cv2.rectangle(paint, (0, 0), (width - 1, height - 1), (40, 38, 42, 0), 6)
    return paint


def sign(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A shop's name board, glowing a little at night."""
    ground = vivid(rng, 15, 150)
    paint = rough(rng, height, width, ground, 6.0)
    ink = (248, 240, 215) if sum(ground) < 330 else (25, 22, 30)
    glow = int(rng.choice((70, 150, 230)))
    text = word(rng) if width < 3.5 * height else f"{word(rng)} {word(rng)}"
    write(paint, text, ink, int(rng.choice(_FONTS)), glow)
    cv2.rectangle(paint, (1, 1), (paint.shape[1] - 2, paint.shape[0] - 2), (*ink, glow), 1)
    return paint


def asphalt(rng: np.random.Generator, height: int, width: int, density: float) -> np.ndarray:
    """A road: aggregate, mended trenches, cracks, oil, manholes and a worn centre line."""
    paint = rough(rng, height, width, (92, 92, 94), 9.0)
    shade(paint, (noise(rng, height, width, (2,)) > 1.6) * np.float32(50), (1, 1, 1))
    area = height * width / density**2
    for _ in range(int(area * 0.03)):
        x, y = rng.uniform((0, 0), (width, height)).astype(int)
        w, h = (rng.uniform(0.5, 2.6, 2) * density).astype(int)
        box = paint[y : y + h, x : x + w]
        shade(
            box,
            rng.choice((-24, 17)) + noise(rng, box.shape[0], box.shape[1], (3,)) * 5,
            (1, 1, 0.97),
        )
        cv2.rectangle(paint, (x, y), (x + w, y + h), (45, 45, 47, 0), 2)
    weather(rng, paint, density)
    for x in np.arange(0, width, 4.0 * density):
        box = paint[int(0.495 * height) : int(0.513 * height), int(x) : int(x + 2.2 * density)]
        worn = noise(rng, box.shape[0], box.shape[1], (18, 5)) < 0.9
        box[worn] = (212, 210, 200, 0)
    for _ in range(int(area * 0.012)):
        centre = rng.uniform((0, 0), (width, height)).astype(int).tolist()
        radius = int(0.34 * density)
        cv2.circle(paint, centre, radius, (66, 62, 60, 0), -1, cv2.LINE_AA)
        for _ in range(14):
            spot = (centre + rng.uniform(-0.7, 0.7, 2) * radius).astype(int).tolist()
            cv2.circle(paint, spot, 2, (128, 122, 112, 0), -1)
        cv2.circle(paint, centre, radius, (130, 126, 120, 0), 2, cv2.LINE_AA)
    return paint
