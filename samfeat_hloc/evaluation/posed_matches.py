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
import pycolmap
from tqdm import tqdm

from ..colmap.covisibility import shared_points
from ..errors import SamfeatError
from .matching import Features, mutual_nearest
from .predictions import Predictions

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
    near the epipolar lines, less those that would be there by chance. share: right / matches."""

    pairs: int
    matches: float
    right: float
    share: float

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
    try:
        opened = pycolmap.Reconstruction(str(model))
    except Exception as error:  # pycolmap raises several types
        why = " ".join(str(error).split())
        raise SamfeatError(model, f"not a COLMAP model ({why})", "check the path") from None
    images = sorted((i for i in opened.images.values() if i.has_pose), key=lambda i: i.name)
    seen = [
        np.array([p.point3D_id for p in image.points2D if p.has_point3D()], dtype=np.int64)
        for image in images
    ]
    if not any(len(points) for points in seen):
        raise SamfeatError(model, "its images share no points", "take a triangulated model")
    _, rows = np.unique(np.concatenate(seen), return_inverse=True)
    rows_of = np.split(rows, np.cumsum([len(points) for points in seen])[:-1])
    pairs = []
    for first, common in enumerate(shared_points(rows_of)):
        for second in np.flatnonzero(common >= least_shared):
            if second > first:
                pairs.append(_pair(opened, images[first], images[int(second)]))
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
    read: dict[str, Features] = {}
    for pair in tqdm(pairs, desc=label or "posed pairs", unit="pair", delay=2):
        for name in pair.names:
            if name not in read:
                read[name] = predictions.read(name)
        counted.append(count_right(pair, read[pair.names[0]], read[pair.names[1]]))
    matches, right = np.mean(np.array(counted, dtype=np.float64), axis=0)
    return RightMatches(len(counted), float(matches), float(right), float(right / max(matches, 1)))


def count_right(pair: PosedPair, features0: Features, features1: Features) -> tuple[int, float]:
    """The matches of a pair, and how many of them are right beyond chance.

    With n matches, k of them within :data:`THRESHOLD` of the epipolar lines in both images, and a
    share p of random partners that is, ``right = max(0, (k - p n) / (1 - p))``.
    """
    matches = mutual_nearest(features0.descriptors, features1.descriptors)
    if len(matches) == 0:
        return 0, 0.0
    xy0 = _undistorted(pair.cameras[0], features0.keypoints[matches[:, 0]])
    xy1 = _undistorted(pair.cameras[1], features1.keypoints[matches[:, 1]])
    near = int((_distances(pair.fundamental, xy0, xy1) <= THRESHOLD).sum())
    drawn = np.random.default_rng(0).permutation(len(matches))[:_DRAWN]
    first, second = (side.ravel() for side in np.meshgrid(drawn, drawn, indexing="ij"))
    apart = first != second
    first, second = first[apart], second[apart]
    chance = 0.0
    if len(first):
        chance = float((_distances(pair.fundamental, xy0[first], xy1[second]) <= THRESHOLD).mean())
    return len(matches), max(0.0, (near - chance * len(matches)) / max(1 - chance, 1e-9))


def _pair(model: Any, image0: Any, image1: Any) -> PosedPair:
    """The pair with the fundamental matrix of its poses and calibrations."""
    relative = image1.cam_from_world() * image0.cam_from_world().inverse()
    tx, ty, tz = relative.translation / max(float(np.linalg.norm(relative.translation)), 1e-12)
    cross = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]])
    cameras = (model.cameras[image0.camera_id], model.cameras[image1.camera_id])
    inverse0, inverse1 = (np.linalg.inv(camera.calibration_matrix()) for camera in cameras)
    fundamental = inverse1.T @ cross @ relative.rotation.matrix() @ inverse0
    return PosedPair((image0.name, image1.name), fundamental, cameras)


def _undistorted(camera: Any, keypoints: np.ndarray) -> np.ndarray:
    """(N, 2) keypoints, the centre of the top-left pixel at (0, 0), as pixels of a pinhole camera
    with the same calibration matrix, its corner at (0, 0)."""
    rays = np.asarray(camera.cam_from_img(keypoints + 0.5)).reshape(-1, 2)
    homogeneous = np.column_stack([rays, np.ones(len(rays))])
    return np.asarray((homogeneous @ camera.calibration_matrix().T)[:, :2])


def _distances(fundamental: np.ndarray, xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
    """(N,) the larger of the distances of two points (N, 2) to each other's epipolar lines."""
    points0 = np.column_stack([xy0, np.ones(len(xy0))])
    points1 = np.column_stack([xy1, np.ones(len(xy1))])
    lines1, lines0 = points0 @ fundamental.T, points1 @ fundamental
    residual = np.abs(np.einsum("ij,ij->i", points1, lines1))
    lengths = np.minimum(np.hypot(*lines0[:, :2].T), np.hypot(*lines1[:, :2].T))
    return np.asarray(residual / np.maximum(lengths, 1e-12))
