"""Where photos were taken, as far as somebody knows: the GPS of their EXIF, or a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import tqdm
from .images import check_name, exif_of
from .textlines import data_lines, in_line, parse_number

_GPS = 0x8825  # EXIF's block of it, and its tags
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = range(1, 7)


@dataclass(frozen=True)
class GpsPosition:
    """latitude, longitude: degrees, north and east; altitude: metres, None where it is not told."""

    latitude: float
    longitude: float
    altitude: float | None


def gps_of(path: Path) -> GpsPosition | None:
    """The GPS position in a photo's EXIF; None where there is none, or one that cannot be.

    Latitude and longitude of exactly 0, which cameras write that know nothing, are none.

    Raises:
        SamfeatError: not an image.
    """
    block = exif_of(path).get_ifd(_GPS)
    try:
        latitude = _degrees(block[_LATITUDE]) * _sign(block.get(_LATITUDE_REF), "S")
        longitude = _degrees(block[_LONGITUDE]) * _sign(block.get(_LONGITUDE_REF), "W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        return None
    try:
        altitude = float(block[_ALTITUDE])
        below = block.get(_ALTITUDE_REF) in (1, b"\x01")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return GpsPosition(latitude, longitude, None)
    if not math.isfinite(altitude):
        return GpsPosition(latitude, longitude, None)
    return GpsPosition(latitude, longitude, -altitude if below else altitude)


def gps_positions(image_dir: Path, names: Sequence[str]) -> dict[str, GpsPosition]:
    """The GPS positions of those photos that have one, by name.

    Raises:
        SamfeatError: as `gps_of`.
    """
    told = tqdm(names, desc="GPS", unit="image", delay=2, leave=False)
    found = {name: gps_of(image_dir / name) for name in told}
    return {name: position for name, position in found.items() if position is not None}


def read_positions(path: Path) -> dict[str, np.ndarray]:
    """A list of positions, ``name x y z`` a line in metres: (3,) float64 by name.

    Raises:
        SamfeatError: with file and line: a malformed line, a name that is not allowed or listed
            twice; without a line: no file.
    """
    found: dict[str, np.ndarray] = {}
    for number, tokens in data_lines(path):
        with in_line(path, number):
            name = check_name(tokens[0])
            if len(tokens) != 4:
                raise ValueError(f"{len(tokens)} values; write 'name x y z'")
            if name in found:
                raise ValueError(f"'{name}' is listed twice; keep one line")
            found[name] = np.array([parse_number(token) for token in tokens[1:]])
    return found


def _degrees(value: Any) -> float:
    """Degrees, minutes and seconds as one number."""
    degrees, minutes, seconds = (float(part) for part in value)
    return degrees + minutes / 60 + seconds / 3600


def _sign(reference: Any, negative: str) -> int:
    text = reference.decode(errors="replace") if isinstance(reference, bytes) else str(reference)
    return -1 if text.strip("\0 ").upper() == negative else 1
