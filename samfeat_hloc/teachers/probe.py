"""How well a teacher's embedding tells labelled regions apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import SamfeatError
from ..progress import tqdm
from .cache import TeacherCache
from .labels import find_label_map, read_label_map

LEAST_CELLS = 2.0  # of a region, in cells of the embedding


@dataclass(frozen=True)
class ProbeResult:
    """accuracy: share of regions whose label the neighbours guess. chance: share of the most
    frequent label. balanced: mean over the labels of their regions' accuracy."""

    accuracy: float
    balanced: float
    chance: float
    regions: int
    labels: int
    photos: int
    all_photos: int
    neighbours: int

    def line(self) -> str:
        """The figures in words."""
        return (
            f"{100 * self.accuracy:.1f} % of {self.regions} regions ({self.labels} labels,"
            f" {self.photos} of {self.all_photos} photos) are recognised by their"
            f" {self.neighbours} nearest in other photos ({100 * self.balanced:.1f} % over labels"
            f" alike); always guessing the most frequent label: {100 * self.chance:.1f} %"
        )

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)


def probe(cache: TeacherCache, label_dir: Path, *, neighbours: int = 5) -> ProbeResult:
    """Measure a cache on the label maps of some of its photos.

    A region is all of a photo with one label. Its embedding is the mean of its cells at unit
    length. Photos without label map, and regions of fewer than :data:`LEAST_CELLS` cells, are left
    out.

    Raises:
        SamfeatError: no folder, fewer than two photos of the cache have label maps, or embeddings
            whose dimensions differ between photos (those of several label maps a photo).
    """
    if not label_dir.is_dir():
        raise SamfeatError(label_dir, "no such folder", "give that of the label maps")
    vectors, labels, photos = [], [], []
    used = 0
    for name in tqdm(cache.names, desc="probe", unit="photo", delay=2):
        if (path := find_label_map(label_dir, name)) is None:
            continue
        embedding = cache.read(name, own_dimensions=True).embedding
        found = region_means(embedding, read_label_map(path))
        used += 1
        for label, vector in found.items():
            vectors.append(vector)
            labels.append(label)
            photos.append(used)
    if used < 2 or not labels:
        raise SamfeatError(
            label_dir, f"has label maps of {used} photos of {cache.path}", "at least two are needed"
        )
    if len({len(vector) for vector in vectors}) > 1:
        raise SamfeatError(
            cache.path,
            ("its embeddings relate places of one photo alone, so photos cannot be compared"),
            "probe a teacher that has the same dimensions for all",
        )
    right = guessed_right(np.array(vectors), np.array(labels), np.array(photos), neighbours)
    kinds, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return ProbeResult(
        accuracy=float(right.mean()),
        balanced=float((np.bincount(index, right) / counts).mean()),
        chance=float(counts.max() / counts.sum()),
        regions=len(labels), labels=len(kinds), photos=used, all_photos=len(cache.names),
        neighbours=neighbours,
    )  # fmt: skip


def region_means(embedding: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Mean embedding (C,), at unit length, of each label's region.

    Arguments:
        embedding: (C, h, w). labels: (H, W), -1 where none; both cover the photo.
    """
    height, width = embedding.shape[1:]
    length = np.linalg.norm(embedding, axis=0, keepdims=True)
    cells = (embedding / np.maximum(length, 1e-12)).reshape(len(embedding), -1)
    found = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        share = _shares(labels == label, height, width).ravel()
        if share.sum() >= LEAST_CELLS:
            mean = cells @ share
            found[label] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def guessed_right(
    vectors: np.ndarray, labels: np.ndarray, photos: np.ndarray, neighbours: int
) -> np.ndarray:
    """Which of N regions the nearest ones in other photos give the right label: (N,) bool.

    Arguments:
        vectors: (N, C) of unit length; labels, photos: (N,) numbers. Votes weigh by similarity.
    """
    similarity = vectors @ vectors.T
    similarity[photos[:, None] == photos[None]] = -np.inf
    kinds, index = np.unique(labels, return_inverse=True)
    right = np.zeros(len(labels), bool)
    for row, values in enumerate(similarity):
        nearest = np.argsort(-values, kind="stable")[:neighbours]
        nearest = nearest[np.isfinite(values[nearest])]
        votes = np.bincount(index[nearest], values[nearest] + 1.001, minlength=len(kinds))
        right[row] = len(nearest) > 0 and int(votes.argmax()) == index[row]
    return right


def _shares(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which share of each of height x width cells a mask (H, W) covers."""
    if mask.shape[0] >= height and mask.shape[1] >= width:
        return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
