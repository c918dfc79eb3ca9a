"""How many matches of posed photos are right, by the epipolar lines of their known poses.

A matching accuracy says which share of the matches is right. A map of few photos asks how *many*
are: each right match is a chance for a point. Without depth a match can be held against the
epipolar line of its partner only, on which some wrong matches lie too; how many is measured with
partners drawn at random, and taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.covisibility import shared_points
from ..colmap.epipolar import essential_matrix, line_distances
from ..colmap.model import Model, read_model
from ..errors import SamfeatError
from ..progress import tqdm
from .matching import CachedFeatures, mutual_nearest, similarities
from .predictions import Predictions
from .tables import aligned
from .trade import LEAST

THRESHOLD = 2.0  # pixels from the epipolar line, in both images
LEAST_SHARED = 20  # points that both images of a pair see
_DRAWN = 400  # matches of a pair whose keypoints are paired at random: 160,000 wrong partners


@dataclass(frozen=True)
class PosedPair:
    """Two images of a model.

    names: of the images. fundamental: (3, 3) float64, with ``x1^T F x0 = 0`` for undistorted
    pixels x0, x1. cameras: both, to take distortion away.
    """

    names: tuple[str, str]
    fundamental: np.ndarray
    cameras: tuple[Any, Any]


@dataclass(frozen=True)
class RightMatches:
    """Means over the pairs of a set. matches: mutual nearest neighbours a pair. right: of these,
    near the epipolar lines, less those that would be there by chance. share: right / matches.
    trade: matches and right ones at each least similarity of :data:`.trade.LEAST`."""

    pairs: int
    matches: float
    right: float
    share: float
    trade: tuple[tuple[float, float], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def posed_pairs(model: Path, *, least_shared: int = LEAST_SHARED) -> list[PosedPair]:
    """Pairs of a COLMAP model's images that see enough common points, by name.

    Arguments:
        model: folder of the model.
        least_shared: points that both images see.

    Raises:
        SamfeatError: a model that cannot be read, or without such a pair.
    """
    opened = read_model(model)
    names = sorted(opened.images)
    rows = [opened.images[name].points for name in names]
    seen = [points[points >= 0] for points in rows]
    if not any(len(points) for points in seen):
        raise SamfeatError(model, "its images share no points", "take a triangulated model")
    pairs = []
    for first, common in enumerate(shared_points(seen)):
        for second in np.flatnonzero(common >= least_shared):
            if second > first:
                pairs.append(_pair(opened, names[first], names[int(second)]))
    if not pairs:
        raise SamfeatError(
            model, f"no two images share {least_shared} points", "take a triangulated model"
        )
    return pairs


def evaluate(
    pairs: Sequence[PosedPair], predictions: Predictions, *, label: str = ""
) -> RightMatches:
    """Match every pair by mutual nearest neighbours and count what is right.

    Raises:
        SamfeatError: an image without features.
    """
    counted = []
    read: dict[str, CachedFeatures] = {}
    for pair in tqdm(pairs, desc=label or "posed pairs", unit="pair", delay=2):
        for name in pair.names:
            if name not in read:
                read[name] = predictions.read(name)
        counted.append(count_right(pair, read[pair.names[0]], read[pair.names[1]]))
    trade = np.mean(np.array(counted, dtype=np.float64), axis=0)  # (thresholds, 2)
    (matches, right), points = trade[0].tolist(), [(n, k) for n, k in trade.tolist()]
    return RightMatches(len(counted), matches, right, right / max(matches, 1), tuple(points))


def count_right(
    pair: PosedPair, features0: CachedFeatures, features1: CachedFeatures
) -> list[tuple[int, float]]:
    """The matches of a pair, and how many of them are right beyond chance, at each least similarity
    of :data:`.trade.LEAST`, the first of which keeps all.

    With n matches, k of them within :data:`THRESHOLD` of the epipolar lines in both images, and a
    share p of random partners that is, ``right = max(0, (k - p n) / (1 - p))``.
    """
    matches = mutual_nearest(features0.descriptors, features1.descriptors)
    if len(matches) == 0:
        return [(0, 0.0)] * len(LEAST)
    xy0 = _undistorted(pair.cameras[0], features0.keypoints[matches[:, 0]])
    xy1 = _undistorted(pair.cameras[1], features1.keypoints[matches[:, 1]])
    near = _distances(pair.fundamental, xy0, xy1) <= THRESHOLD
    alike = similarities(features0.descriptors, features1.descriptors, matches)
    drawn = np.random.default_rng(0).permutation(len(matches))[:_DRAWN]
    first, second = (side.ravel() for side in np.meshgrid(drawn, drawn, indexing="ij"))
    apart = first != second
    first, second = first[apart], second[apart]
    chance = 0.0
    if len(first):
        chance = float((_distances(pair.fundamental, xy0[first], xy1[second]) <= THRESHOLD).mean())
    points = []
    for least in LEAST:
        kept = alike >= least
        beyond = (int(near[kept].sum()) - chance * int(kept.sum())) / max(1 - chance, 1e-9)
        points.append((int(kept.sum()), max(0.0, beyond)))
    return points


def _pair(model: Model, name0: str, name1: str) -> PosedPair:
    """The pair with the fundamental matrix of its poses and calibrations."""
    pose0, pose1 = model.images[name0].pose, model.images[name1].pose
    rotation = pose1.rotation @ pose0.rotation.T
    relative = np.column_stack([rotation, pose1.tvec - rotation @ pose0.tvec])
    cameras = tuple(model.camera_of(name).to_pycolmap() for name in (name0, name1))
    inverse0, inverse1 = (np.linalg.inv(camera.calibration_matrix()) for camera in cameras)
    fundamental = inverse1.T @ essential_matrix(relative) @ inverse0
    return PosedPair((name0, name1), fundamental, (cameras[0], cameras[1]))


def _undistorted(camera: Any, keypoints: np.ndarray) -> np.ndarray:
    """(N, 2) keypoints, the centre of the top-left pixel at (0, 0), as pixels of a pinhole camera
    with the same calibration matrix, its corner at (0, 0)."""
    rays = np.asarray(camera.cam_from_img(keypoints + 0.5)).reshape(-1, 2)
    homogeneous = np.column_stack([rays, np.ones(len(rays))])
    return np.asarray((homogeneous @ camera.calibration_matrix().T)[:, :2])


def _distances(fundamental: np.ndarray, xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
    """(N,) the larger of the distances of two points (N, 2) to each other's epipolar lines."""
    return np.maximum(*line_distances(fundamental, xy0, xy1))


def table(dataset: str, results: dict[str, RightMatches]) -> str:
    """Aligned text, a row a method."""
    rows = [
        (name, str(r.pairs), f"{r.matches:.0f}", f"{r.right:.0f}", f"{100 * r.share:.1f}")
        for name, r in results.items()
    ]
    title = f"{dataset}: matches within {THRESHOLD:g} px of the epipolar lines, less chance"
    return f"{title}\n{aligned(('method', 'pairs', 'matches', 'right', 'share %'), rows)}"
