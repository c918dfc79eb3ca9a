"""Homographies between images: reading, applying, estimating them, and how wrong they are.

``H_1_2`` takes pixels of image 1 to pixels of image 2, both with the centre of the top-left pixel
at (0, 0), as in HPatches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import SamfeatError
from ..files.textlines import data_lines, in_line, parse_number

RANSAC_THRESHOLD = 3.0  # pixels
RANSAC_ITERATIONS = 10_000
RANSAC_CONFIDENCE = 0.9999
SMALLEST_RCOND = 1e-12  # real ones are some 1e-8: translations of 1e3 beside perspective of 1e-4


def read_homography(path: Path) -> np.ndarray:
    """Read a 3x3 matrix, three numbers a line.

    Returns:
        (3, 3) float64.

    Raises:
        SamfeatError: no such file, not three lines of three finite numbers (``file:line``), or a
            matrix that cannot be inverted.
    """
    rows = []
    lines = data_lines(path)
    if len(lines) != 3:
        raise SamfeatError(
            path, f"{len(lines)} lines of numbers where a homography has 3", "write a 3x3 matrix"
        )
    for number, tokens in lines:
        with in_line(path, number, "write a 3x3 matrix"):
            if len(tokens) != 3:
                raise ValueError(f"{len(tokens)} numbers where a homography has 3")
            rows.append([parse_number(token) for token in tokens])
    return check_homography(np.array(rows), str(path))


def check_homography(matrix: np.ndarray, name: str) -> np.ndarray:
    """The same matrix, when it is a homography.

    Raises:
        SamfeatError: not (3, 3), not finite, or singular; ``name`` is what the message blames.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise SamfeatError(name, "not a finite 3x3 matrix", "a homography is needed")
    singular = np.linalg.svd(matrix, compute_uv=False)
    if singular[2] <= SMALLEST_RCOND * singular[0]:
        raise SamfeatError(
            name,
            "the homography is singular (it maps the image to a line or a point)",
            "check the file",
        )
    return matrix


def transform(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Points (N, 2) through a homography (3, 3): (N, 2) float64; what goes to infinity is inf."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    moved = points @ homography[:, :2].T + homography[:, 2]
    depth = moved[:, 2:]
    safe = np.where(depth == 0, 1.0, depth)
    return np.where(depth == 0, np.inf, moved[:, :2] / safe)


def rescale(homography: np.ndarray, scale1: float, scale2: float) -> np.ndarray:
    """The homography between the images once resized by these factors (pixel centres kept)."""
    return _resize_matrix(scale2) @ homography @ np.linalg.inv(_resize_matrix(scale1))


def resize_points(points: np.ndarray, scale: float) -> np.ndarray:
    """Points (N, 2) on the image once it is resized by ``scale``."""
    return (np.asarray(points, dtype=np.float64) + 0.5) * scale - 0.5


def estimate_homography(
    points1: np.ndarray, points2: np.ndarray, *, threshold: float = RANSAC_THRESHOLD
) -> np.ndarray | None:
    """Homography from matches by OpenCV's MAGSAC++; the same matches give the same result.

    Arguments:
        points1, points2: (K, 2), matched row by row.
        threshold: largest noise of an inlier in pixels of image 2.

    Returns:
        (3, 3) float64, or None: fewer than four matches, or no model found.
    """
    if len(points1) < 4:
        return None
    try:
        matrix, _ = cv2.findHomography(
            np.ascontiguousarray(points1, dtype=np.float64),
            np.ascontiguousarray(points2, dtype=np.float64),
            cv2.USAC_MAGSAC,
            threshold,
            maxIters=RANSAC_ITERATIONS,
            confidence=RANSAC_CONFIDENCE,
        )
    except cv2.error:  # raised on some degenerate sets of matches
        return None
    return matrix if matrix is not None and np.isfinite(matrix).all() else None


def corner_error(estimated: np.ndarray | None, true: np.ndarray, size: tuple[int, int]) -> float:
    """Mean distance in image 2 of the four corners of image 1, in pixels.

    Arguments:
        estimated: (3, 3), or None where estimation failed (infinite error).
        true: (3, 3).
        size: width and height of image 1.
    """
    if estimated is None:
        return float("inf")
    right, bottom = size[0] - 1.0, size[1] - 1.0
    corners = np.array([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]])
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(transform(corners, estimated) - transform(corners, true), axis=1)
    error = float(distance.mean())
    return error if np.isfinite(error) else float("inf")


def area_under_curve(errors: Sequence[float], thresholds: Sequence[float]) -> list[float]:
    """Area under the curve of the share of errors below t, for t up to each threshold.

    Divided by the threshold, so that no error at all gives 1. It is the exact area: the code of
    SuperGlue joins the sorted errors by straight lines instead, which gives up to 1 / (2 N) more
    with N errors: nothing on the lists that papers use, several percent on eight pairs.

    Arguments:
        errors: infinite for a failure; may be empty (areas are then 0).
    """
    array = np.asarray(errors, dtype=np.float64)
    if not len(array):
        return [0.0 for _ in thresholds]
    return [float(np.clip(1 - array / threshold, 0, None).mean()) for threshold in thresholds]


def _resize_matrix(scale: float) -> np.ndarray:
    shift = 0.5 * (scale - 1)
    return np.array([[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]])
