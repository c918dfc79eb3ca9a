"""The teacher `regions`: graph-based segmentation, no weights, no semantics.

Felzenszwalb and Huttenlocher's segmentation at three scales, in which neighbours of nearly the same
colour are merged. A stand-in where there is no checkpoint of a real teacher: regions of colour and
texture instead of objects.

Groups are the regions of the middle scale. An edge is the stronger, the more of the three
segmentations have it. The embedding has, for each cell of 8 x 8 working pixels and each of the
three segmentations, the statistics of the region that it lies in: mean and spread of colour (Lab),
energy of the gradient at two scales and in two directions, position and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from .cache import Taught
from .maps import borders, cells_of, soft_edges, working_image
from .registry import Photo, TeacherOptions, need

CELL = 8  # working pixels
_LEVELS = ((60, 40), (250, 100), (900, 250))  # scale and least pixels of a segmentation
_SIGMA = 0.8  # of the blur before it, pixels
_MERGE = 3.0  # distance of mean colours in Lab below which neighbours merge


def load(options: TeacherOptions, device: str) -> Regions:
    """The teacher; it computes on the processor whatever the device."""
    return Regions()


class Regions:
    """See the module."""

    name = "regions"
    weights_sha256: str | None = None

    def __init__(self) -> None:
        self._segmentation = need("skimage.segmentation", "teacher regions")
        self._graph = need("scipy.sparse.csgraph", "teacher regions")
        self._sparse = need("scipy.sparse", "teacher regions")
        self.config: Mapping[str, Any] = {
            "cell": CELL, "levels": [list(level) for level in _LEVELS], "sigma": _SIGMA,
            "merge": _MERGE,
        }  # fmt: skip

    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What it says of each photo; the maps have the photo's working size."""
        return [self._teach(photo.pixels) for photo in photos]

    def segment(self, image: np.ndarray) -> list[np.ndarray]:
        """Three segmentations of an RGB image (H, W, 3), from fine to coarse: (H, W) from 0 on."""
        lab, levels = _lab(image), []
        for scale, least in _LEVELS:
            found = self._segmentation.felzenszwalb(
                image, scale=scale, sigma=_SIGMA, min_size=least, channel_axis=2
            )
            regions = np.unique(found, return_inverse=True)[1].reshape(found.shape)
            levels.append(self._merged(regions, lab, _MERGE))
        return levels

    def _merged(self, regions: np.ndarray, lab: np.ndarray, threshold: float) -> np.ndarray:
        """Regions (H, W) without the borders between neighbours of similar mean colour."""
        count = int(regions.max()) + 1
        area = np.bincount(regions.ravel(), minlength=count)
        means = np.stack(
            [np.bincount(regions.ravel(), c.ravel(), count) / area for c in np.moveaxis(lab, 2, 0)]
        )
        across = np.stack([regions[:, 1:].ravel(), regions[:, :-1].ravel()])
        down = np.stack([regions[1:].ravel(), regions[:-1].ravel()])
        pairs = np.concatenate([across, down], axis=1)
        pairs = pairs[:, pairs[0] != pairs[1]]
        one, other = np.divmod(np.unique(pairs[0].astype(np.int64) * count + pairs[1]), count)
        alike = np.linalg.norm(means[:, one] - means[:, other], axis=0) < threshold
        links = np.ones(int(alike.sum()), bool), (one[alike], other[alike])
        graph = self._sparse.coo_matrix(links, shape=(count, count))
        merged = self._graph.connected_components(graph, directed=False)[1]
        return np.asarray(merged[regions])

    def _teach(self, pixels: np.ndarray) -> Taught:
        image = working_image(pixels)
        levels = self.segment(image)
        statistics = _pixel_statistics(image)
        pooled = np.concatenate([_pooled(statistics, regions) for regions in levels], axis=2)
        strength = sum(borders(regions) for regions in levels) / len(levels)
        return Taught(
            cells_of(pooled, CELL), levels[1].astype(np.int32), soft_edges(np.asarray(strength))
        )


def _lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _pixel_statistics(image: np.ndarray) -> np.ndarray:
    """(H, W, 9): colour, gradient energies and position.

    The numbers in here and in :func:`_pooled` bring each statistic of photos to a mean of about 0
    and a spread of about 1: what all cells share would drown what tells them apart.
    """
    height, width = image.shape[:2]
    lab = _lab(image)
    colour = (lab - np.array([47, -1, 12], np.float32)) / np.array([24, 12, 18], np.float32)
    gradients = []
    for sigma, usual, spread in ((0.8, 0.75, 0.4), (2.5, 0.52, 0.3)):
        smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), sigma)
        for dx, dy in ((1, 0), (0, 1)):
            slope = cv2.Sobel(smooth, cv2.CV_32F, dx, dy, scale=1 / 8)
            gradients.append((np.log1p(np.abs(slope)) - usual) / spread)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    position = np.stack([2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / height - 1], axis=2)
    return np.concatenate([colour, np.stack(gradients, axis=2), position], axis=2)


def _pooled(statistics: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Each pixel gets its region's means, spreads of colour, and size: (H, W, 13)."""
    labels = np.unique(regions, return_inverse=True)[1].reshape(-1)
    area = np.bincount(labels).astype(np.float64)
    flat = statistics.reshape(-1, statistics.shape[2])

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(labels, weights=values) / area

    means = np.stack([mean(column) for column in flat.T], axis=1)
    spread = np.stack([mean(flat[:, c] ** 2) - means[:, c] ** 2 for c in range(3)], axis=1)
    spread = (np.sqrt(np.maximum(spread, 0)) - 0.3) / 0.2
    size = (np.log(area / area.sum()) + 3.2)[:, None] / 2
    table = np.concatenate([means, spread, size], axis=1).astype(np.float32)
    return table[labels].reshape(*regions.shape, -1)
