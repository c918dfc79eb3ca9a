"""Turning photos upright as their EXIF orientation says, and bringing keypoints back."""

from __future__ import annotations

import numpy as np


def to_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a stored image (H, W[, C]) so that it stands as EXIF ``orientation`` says.

    Returns a C-contiguous copy; sides are swapped for orientations 5 to 8.
    """
    _check_orientation(orientation)
    if orientation in (5, 7):
        image = image.swapaxes(0, 1)
    turns, mirror_x, mirror_y = {
        1: (0, False, False),
        2: (0, True, False),
        3: (0, True, True),
        4: (0, False, True),
        5: (0, False, False),
        6: (-1, False, False),
        7: (0, True, True),
        8: (1, False, False),
    }[orientation]
    image = np.rot90(image, turns) if turns else image
    image = image[:, ::-1] if mirror_x else image
    image = image[::-1] if mirror_y else image
    return np.array(image, order="C")


def turned(orientation: int, quarters: int) -> int:
    """The orientation, 1 to 8, of an image that is to stand turned by ``quarters`` quarters,
    clockwise, from how it stands at ``orientation``."""
    sample = np.arange(6).reshape(2, 3)
    wanted = np.rot90(to_upright(sample, orientation), -quarters)
    return next(o for o in range(1, 9) if np.array_equal(to_upright(sample, o), wanted))


def keypoints_to_stored(
    keypoints: np.ndarray, orientation: int, stored_size_wh: tuple[int, int]
) -> np.ndarray:
    """Bring keypoints found on an upright image back to the pixels of the stored one.

    Args:
        keypoints: (N, 2) xy on ``to_upright(stored, orientation)``, centre of the top-left pixel
            at (0, 0).
        orientation: EXIF orientation of the stored image, 1 to 8.
        stored_size_wh: width and height of the stored image in pixels.

    Returns:
        (N, 2) xy on the stored image, of the dtype of ``keypoints``.
    """
    _check_orientation(orientation)
    keypoints = np.asarray(keypoints)
    x, y = keypoints[:, 0], keypoints[:, 1]
    right, bottom = stored_size_wh[0] - 1, stored_size_wh[1] - 1
    stored_x, stored_y = {
        1: (x, y),
        2: (right - x, y),
        3: (right - x, bottom - y),
        4: (x, bottom - y),
        5: (y, x),
        6: (y, bottom - x),
        7: (right - y, bottom - x),
        8: (right - y, x),
    }[orientation]
    return np.stack([stored_x, stored_y], axis=1).astype(keypoints.dtype, copy=False)


def upright_direction(orientation: int) -> np.ndarray:
    """Up on the upright photo, as a unit vector (2,) xy on the stored one of an EXIF
    orientation."""
    low, high = keypoints_to_stored(np.array([[0.0, 1.0], [0.0, 0.0]]), orientation, (2, 2))
    return high - low


def _check_orientation(orientation: int) -> None:
    if not 1 <= orientation <= 8:
        raise ValueError(f"EXIF orientation has to be 1 to 8, not {orientation}")
