"""Which way was down when a photo was taken: the accelerometer that iPhones and iPads write.

It is tag 0x0008 of the MakerNote in a photo's EXIF, three numbers in units of g along the phone's
axes: x to its right, y to its top, z out of its screen. The camera on its back has the stored
photo's x axis along -y, its y axis along -x, and looks along -z.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..progress import tqdm
from .images import exif_of
from .orientation import upright_direction

_EXIF_BLOCK, _MAKER_NOTE, _LENS_MODEL = 0x8769, 0x927C, 0xA434
_HEAD = b"Apple iOS\0"
_DIRECTORY = 14  # where the tags begin, in bytes, behind the head, a version and the byte order
_ACCELERATION, _SIGNED_RATIONAL = 0x0008, 10
_WHOLE = 0.2  # a phone that was moved quickly has another length than 1 g by more
_IN_PLANE = 0.5  # of a photo of the floor or the sky, less of it lies in the picture


def down_in_camera(path: Path, orientation: int) -> np.ndarray | None:
    """Down as a unit vector (3,) in the camera's frame (x right, y down, z forward), as the
    photo is stored; None where its EXIF does not say, or says what cannot be.

    Programs that turn the pixels upright leave the accelerometer's numbers as they were: of the
    four quarter turns the one is taken by which down points down on the upright photo.

    Args:
        orientation: EXIF's, 1 to 8, by which the stored photo is upright.

    Raises:
        SamfeatError: not an image.
    """
    block = exif_of(path).get_ifd(_EXIF_BLOCK)
    measured = _acceleration(block.get(_MAKER_NOTE))
    if measured is None or "front" in str(block.get(_LENS_MODEL, "")).lower():
        return None
    x, y, z = measured / np.linalg.norm(measured)
    down = np.array([-y, -x, -z])
    if np.hypot(down[0], down[1]) < _IN_PLANE:
        return None
    wanted = -upright_direction(orientation)
    turned = [down]
    for _ in range(3):
        turned.append(np.array([-turned[-1][1], turned[-1][0], down[2]]))
    return max(turned, key=lambda vector: float(vector[:2] @ wanted))


def downs_in_cameras(image_dir: Path, orientations: Mapping[str, int]) -> dict[str, np.ndarray]:
    """`down_in_camera` of those photos that have it, by name.

    Raises:
        SamfeatError: as there.
    """
    told = tqdm(orientations.items(), desc="gravity", unit="image", delay=2, leave=False)
    found = {name: down_in_camera(image_dir / name, turn) for name, turn in told}
    return {name: down for name, down in found.items() if down is not None}


def _acceleration(note: object) -> np.ndarray | None:
    """The accelerometer's numbers (3,) of Apple's MakerNote."""
    if not isinstance(note, bytes) or not note.startswith(_HEAD):
        return None
    order = {b"MM": ">", b"II": "<"}.get(note[_DIRECTORY - 2 : _DIRECTORY])
    try:
        (count,) = struct.unpack_from(f"{order}H", note, _DIRECTORY)
        for number in range(count):
            at = _DIRECTORY + 2 + 12 * number
            tag, kind, values, offset = struct.unpack_from(f"{order}HHII", note, at)
            if (tag, kind, values) == (_ACCELERATION, _SIGNED_RATIONAL, 3):
                parts = np.array(struct.unpack_from(f"{order}6i", note, offset), dtype=np.float64)
                if not parts[1::2].all():
                    return None
                found = parts[::2] / parts[1::2]
                return found if abs(np.linalg.norm(found) - 1) < _WHOLE else None
    except struct.error:
        return None
    return None
