"""Maps on the pixel grid that several teachers need: borders, and a photo's working size."""

from __future__ import annotations

import cv2
import numpy as np

from .cache import MAP_SIDE


def working_image(pixels: np.ndarray, longest: int = MAP_SIDE) -> np.ndarray:
    """RGB uint8 (H, W, 3) with its longer side brought down to ``longest``."""
    scale = longest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def borders(groups: np.ndarray) -> np.ndarray:
    """Where a group map (H, W) changes: (H, W) float32 of 0 and 1, two pixels wide."""
    found = np.zeros(groups.shape, np.float32)
    across = groups[:, 1:] != groups[:, :-1]
    down = groups[1:] != groups[:-1]
    found[:, 1:][across] = found[:, :-1][across] = 1
    found[1:][down] = found[:-1][down] = 1
    return found


def soft_edges(strength: np.ndarray) -> np.ndarray:
    """Edges (H, W) in [0, 1] with flanks of about a pixel, so that warping them loses none."""
    return np.clip(cv2.GaussianBlur(strength.astype(np.float32), (0, 0), 0.8), 0, 1)


def cells_of(values: np.ndarray, cell: int) -> np.ndarray:
    """Means of a map (H, W, D) over about ``cell`` x ``cell`` pixels: (D, h, w) float32."""
    height, width = values.shape[:2]
    size = max(1, round(width / cell)), max(1, round(height / cell))
    layers = [
        cv2.resize(values[..., d].astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for d in range(values.shape[2])
    ]
    return np.stack(layers)
