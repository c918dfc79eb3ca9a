"""Embeddings small enough to keep: what the relation losses need of them, and the error made.

The losses compare cosines between the cells of one photo. So cells are brought to unit length,
turned onto the photo's own principal axes (cosines stay as they are) and rounded, each axis in
steps of its own. A cosine sums products over the axes, so an error on an axis counts by the axis'
own energy: axes of much energy get fine steps, those of little energy coarse ones or none at all
(``step = t / rms of the axis`` minimises the bytes for an error of the cosines; one number t
decides all). The t taken is the largest that keeps the cosines, within the bytes allowed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RELATION_ERROR = 0.01  # mean absolute, of the matrix of cosines
_AIM = 0.93 * RELATION_ERROR  # the search looks at a sample of the cells
_SAMPLED_CELLS = 1024
_BASIS_BYTES = 16 << 10
_WIDEST_STEP = 4.0  # of the axis' rms; with wider ones an axis is left out


@dataclass(frozen=True)
class ReducedEmbedding:
    """An embedding map in few bytes.

    values: (k, h, w) int8; times ``scale`` (k,) float32 they are the coordinates on the photo's
    principal axes.
    basis: (r, C) int8, 127 times the first r <= k axes; they lead back to the teacher's own
    dimensions, which only comparisons between photos need.
    relation_error: mean absolute error of the cosines between all cells.
    """

    values: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    relation_error: float


def reduce_embedding(embedding: np.ndarray, budget: int) -> ReducedEmbedding:
    """The smallest form whose relations are right within :data:`RELATION_ERROR`, if it fits.

    Arguments:
        embedding: (C, h, w) float, finite.
        budget: bytes that the compressed form may have. Where the error bound needs more, the
            budget holds and the error is larger; the result states it.
    """
    channels, height, width = embedding.shape
    cells = unit_cells(embedding)
    _, axes = np.linalg.eigh(cells.T @ cells)
    axes = np.ascontiguousarray(axes[:, ::-1])
    coordinates = cells @ axes
    order = np.random.default_rng(0).permutation(len(cells))[:_SAMPLED_CELLS]
    sample, expected = coordinates[order], cells[order] @ cells[order].T

    def is_precise(coarseness: float) -> bool:
        scale = _scales(coordinates, coarseness)
        rounded = _rounded(sample, scale) * scale
        return _relation_error(expected, rounded) <= _AIM

    def is_small(coarseness: float) -> bool:
        scale = _scales(coordinates, coarseness)
        rows = min(len(scale), max(1, _BASIS_BYTES // channels))
        return _compressed(_rounded(coordinates, scale)) + rows * (channels + 4) <= budget

    coarseness = _boundary(is_precise, 1e-5, 1.0)
    if not is_small(coarseness):
        coarseness = 1 / _boundary(lambda inverse: is_small(1 / inverse), 1e-2, 1 / coarseness)
    while True:
        scale = _scales(coordinates, coarseness)
        values = _rounded(coordinates, scale)
        error = _error_of_all(cells, values * scale)
        # The sample may have been kinder than all cells are.
        if error <= RELATION_ERROR or coarseness < 1e-5 or not is_small(0.9 * coarseness):
            break
        coarseness *= 0.9
    rows = min(len(scale), max(1, _BASIS_BYTES // channels))
    return ReducedEmbedding(
        np.ascontiguousarray(values.T).reshape(len(scale), height, width),
        scale,
        np.round(axes[:, :rows].T * 127).astype(np.int8),
        error,
    )


def _scales(coordinates: np.ndarray, coarseness: float) -> np.ndarray:
    """Step widths (k,) float32 of the axes that are kept, at least one; int8 holds all steps."""
    rms = np.sqrt(np.square(coordinates).mean(axis=0)) + 1e-9
    steps = np.maximum(coarseness / rms, np.abs(coordinates).max(axis=0) / 127)
    kept = int((steps < _WIDEST_STEP * rms).sum())
    return np.maximum(steps[: max(kept, 1)], 1e-9).astype(np.float32)


def _boundary(holds: Callable[[float], bool], low: float, high: float) -> float:
    """About the largest value in [low, high] for which a condition holds; ``low`` if none does."""
    for _ in range(10):
        middle = float(np.sqrt(low * high))
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def unit_cells(embedding: np.ndarray) -> np.ndarray:
    """The cells of a map (C, h, w) as rows (h * w, C) float32 of unit length; zeros stay zero."""
    cells = embedding.reshape(len(embedding), -1).T.astype(np.float32)
    length = np.linalg.norm(cells, axis=1, keepdims=True)
    return cells / np.maximum(length, 1e-12)


def relations(embedding: np.ndarray) -> np.ndarray:
    """The matrix of cosines between all cells of a map (C, h, w): (h * w, h * w) float32."""
    cells = unit_cells(embedding)
    return cells @ cells.T


def _rounded(coordinates: np.ndarray, scale: np.ndarray) -> np.ndarray:
    kept = coordinates[:, : len(scale)]
    return np.clip(np.round(kept / scale), -127, 127).astype(np.int8)


def _compressed(values: np.ndarray) -> int:
    return len(zlib.compress(np.ascontiguousarray(values.T).tobytes(), 4))


def _relation_error(expected: np.ndarray, coordinates: np.ndarray) -> float:
    length = np.linalg.norm(coordinates, axis=1, keepdims=True)
    found = coordinates / np.maximum(length, 1e-12)
    return float(np.abs(found @ found.T - expected).mean())


def _error_of_all(cells: np.ndarray, coordinates: np.ndarray) -> float:
    """The same over all cells, a block of rows at a time."""
    found = coordinates / np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-12)
    total = 0.0
    for start in range(0, len(cells), 512):
        rows = slice(start, start + 512)
        total += float(np.abs(found[rows] @ found.T - cells[rows] @ cells.T).sum())
    return total / len(cells) ** 2
