"""Photos of a report, small enough to be embedded by the thousand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import SamfeatError
from ..files.images import read_image

THUMBNAIL_SIDE = 160
DETAIL_SIDE = 720
MAX_KEYPOINTS = 4096


@dataclass(frozen=True)
class ReportPhoto:
    """`jpeg` of at most a given longer side, and the (width, height) of the photo it is of."""

    jpeg: bytes
    size: tuple[int, int]


def encode(image: np.ndarray, longer_side: int, quality: int) -> ReportPhoto:
    """Shrink (never enlarge) an RGB image and encode it."""
    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise SamfeatError("opencv", "it could not encode a photo as JPEG", "reinstall it")
    return ReportPhoto(data.tobytes(), (width, height))


def thumbnail(path: Path) -> ReportPhoto | None:
    """A small picture; None where the photo is missing or broken: a report shows what there is."""
    return _of(path, THUMBNAIL_SIDE, 62)


def small(image: np.ndarray) -> ReportPhoto:
    """A small picture of an RGB image."""
    return encode(image, THUMBNAIL_SIDE, 62)


def detail(path: Path) -> ReportPhoto | None:
    """A picture large enough to follow matches in; None as for `thumbnail`."""
    return _of(path, DETAIL_SIDE, 72)


def _of(path: Path, longer_side: int, quality: int) -> ReportPhoto | None:
    try:
        return encode(read_image(path), longer_side, quality)
    except SamfeatError:
        return None


def relative(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (K, 2), origin at the image's corner, as uint16 shares of width and height."""
    shares = np.asarray(xy, dtype=np.float64).reshape(-1, 2) / np.asarray(size, dtype=np.float64)
    return np.round(np.clip(shares, 0, 1) * 65535).astype(np.uint16)
