"""Relative pose of image pairs: lists with intrinsics and pose a line, and the angular errors.

The protocol of SuperGlue and LoFTR: an essential matrix from the matches, rotation and direction
of translation from it; the error of a pair is the larger of both angles, and the figure is the
area under the curve of these errors up to 5, 10 and 20 degrees.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines, parse_number
from .homography import area_under_curve
from .matching import CachedFeatures, mutual_nearest
from .tables import aligned

THRESHOLDS = (5, 10, 20)  # degrees
RANSAC_THRESHOLD = 1.0  # pixels
ESTIMATORS = ("poselib", "pycolmap")
_TOKENS = 38
_ITERATIONS = 10_000
_CONFIDENCE = 0.99999
_ROTATION_TOLERANCE = 1e-2  # lists are written with few decimals


@dataclass(frozen=True)
class ListedPair:
    """A line of the list.

    names: relative to the image folder. turns: quarter turns counter-clockwise that stand each
    image upright. intrinsics: (3, 3) of each image as it is stored, in pixels. rotation (3, 3)
    and translation (3,): from camera 0 to camera 1.
    """

    names: tuple[str, str]
    turns: tuple[int, int]
    intrinsics: tuple[np.ndarray, np.ndarray]
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True)
class PoseResult:
    """What came out for a pair; angles in degrees, infinite where no pose was found."""

    names: tuple[str, str]
    num_matches: int
    num_inliers: int
    rotation_error: float
    translation_error: float

    @property
    def error(self) -> float:
        """The larger of both angles."""
        return max(self.rotation_error, self.translation_error)


def read_list(path: Path) -> list[ListedPair]:
    """Read ``name0 name1 rot0 rot1 K0 (9) K1 (9) T_0to1 (16)`` a line, matrices row by row.

    Raises:
        SamfeatError: with ``file:line``: another number of values, a value that is no number, a
            name that is not allowed, intrinsics or poses that are none; without: no such file,
            no pairs.
    """
    pairs = []
    for number, tokens in data_lines(path):
        try:
            pairs.append(_parsed(tokens))
        except (SamfeatError, ValueError) as error:
            raise SamfeatError(
                f"{path}:{number}",
                error,
                (
                    "write 'name0 name1 rot0 rot1', then 9 values of K0, 9 of K1 and 16 of "
                    "the pose from camera 0 to camera 1"
                ),
            ) from None
    if not pairs:
        raise SamfeatError(path, "there are no pairs in it", "check the path")
    return pairs


def estimate(
    points0: np.ndarray, points1: np.ndarray, intrinsics0: np.ndarray, intrinsics1: np.ndarray,
    *, estimator: str = "pycolmap", threshold: float = RANSAC_THRESHOLD,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:  # fmt: skip
    """Relative pose of two calibrated images from matches; the same matches, the same pose.

    Arguments:
        points0, points1: (K, 2) pixels, matched row by row. Used as the list's intrinsics have
            them, without a shift of half a pixel, as in the published protocol.
        intrinsics0, intrinsics1: (3, 3).
        estimator: one of :data:`ESTIMATORS`.
        threshold: largest noise of an inlier, in pixels.

    Returns:
        Rotation (3, 3) and unit translation (3,) from camera 0 to camera 1, and which matches are
        inliers (K,) bool; None with fewer than five matches or where no pose was found.

    Raises:
        SamfeatError: an unknown estimator, or PoseLib is not installed.
    """
    check_estimator(estimator)
    if len(points0) < 5:
        return None
    run = _poselib if estimator == "poselib" else _pycolmap
    found = run(np.asarray(points0, dtype=np.float64), np.asarray(points1, dtype=np.float64),
                intrinsics0, intrinsics1, threshold)  # fmt: skip
    if found is None or not (np.isfinite(found[0]).all() and np.isfinite(found[1]).all()):
        return None
    return found


def default_estimator() -> str:
    """PoseLib where it is installed, as in the published figures; else COLMAP's LO-RANSAC."""
    return ESTIMATORS[0] if importlib.util.find_spec("poselib") else ESTIMATORS[1]


def check_estimator(estimator: str) -> None:
    """Refuse what is not there.

    Raises:
        SamfeatError: an unknown estimator, or PoseLib is not installed.
    """
    if estimator not in ESTIMATORS:
        raise SamfeatError(
            "estimator", f"{estimator!r} is unknown", f"give {' or '.join(ESTIMATORS)}"
        )
    if estimator == "poselib" and importlib.util.find_spec("poselib") is None:
        raise SamfeatError(
            "estimator", "PoseLib is not installed", "install poselib, or give --estimator pycolmap"
        )


def evaluate_pair(
    pair: ListedPair, features0: CachedFeatures, features1: CachedFeatures,
    *, estimator: str = "pycolmap", threshold: float = RANSAC_THRESHOLD,
) -> PoseResult:  # fmt: skip
    """Match two images, estimate their relative pose and compare it with the list's."""
    matches = mutual_nearest(features0.descriptors, features1.descriptors)
    found = estimate(
        features0.keypoints[matches[:, 0]], features1.keypoints[matches[:, 1]],
        *pair.intrinsics, estimator=estimator, threshold=threshold,
    )  # fmt: skip
    if found is None:
        return PoseResult(pair.names, len(matches), 0, math.inf, math.inf)
    rotation, translation, inliers = found
    return PoseResult(
        pair.names,
        len(matches),
        int(inliers.sum()),
        rotation_angle(rotation, pair.rotation),
        direction_angle(translation, pair.translation),
    )


def rotation_angle(first: np.ndarray, second: np.ndarray) -> float:
    """Angle between two rotations (3, 3) in degrees, 0 to 180; exact for tiny angles too."""
    relative = first.T @ second
    skew = np.array(
        [relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0],
         relative[1, 0] - relative[0, 1]]
    )  # fmt: skip
    return math.degrees(math.atan2(float(np.linalg.norm(skew)), float(np.trace(relative)) - 1))


def direction_angle(first: np.ndarray, second: np.ndarray) -> float:
    """Angle between two directions (3,) in degrees, 0 to 90: opposite ones are equal.

    The published protocol counts so: an essential matrix does not tell the sign.
    """
    cross = float(np.linalg.norm(np.cross(first, second)))
    return math.degrees(math.atan2(cross, abs(float(first @ second))))


def summarize(results: Sequence[PoseResult]) -> dict[str, Any]:
    """Figures of these pairs as plain values; shares from 0 to 1, medians in degrees or None."""
    if not results:
        raise ValueError("no pairs to summarize")
    errors = [result.error for result in results]
    areas = area_under_curve(errors, THRESHOLDS)

    def median(values: Sequence[float]) -> float | None:
        value = float(np.median(values))
        return value if math.isfinite(value) else None

    return {
        "num_pairs": len(results),
        "num_failed": sum(not math.isfinite(error) for error in errors),
        "auc": dict(zip(map(str, THRESHOLDS), areas, strict=True)),
        "median_rotation_degrees": median([result.rotation_error for result in results]),
        "median_translation_degrees": median([result.translation_error for result in results]),
        "matches_per_pair": float(np.mean([result.num_matches for result in results])),
        "inliers_per_pair": float(np.mean([result.num_inliers for result in results])),
    }


def table(summaries: dict[str, dict[str, Any]], title: str) -> str:
    """Aligned text, a line for each method; areas in percent."""
    header = ["method", "pairs", "failed", "matches", "inliers"]
    header += [f"AUC@{t}°" for t in THRESHOLDS] + ["median R °", "median t °"]
    rows = []
    for method, summary in summaries.items():
        medians = (summary["median_rotation_degrees"], summary["median_translation_degrees"])
        rows.append(
            [method, str(summary["num_pairs"]), str(summary["num_failed"]),
             f"{summary['matches_per_pair']:.0f}", f"{summary['inliers_per_pair']:.0f}",
             *(f"{100 * area:.1f}" for area in summary["auc"].values()),
             *("-" if value is None else f"{value:.2f}" for value in medians)]
        )  # fmt: skip
    return f"{title}\n{aligned(header, rows)}"


def _parsed(tokens: Sequence[str]) -> ListedPair:
    if len(tokens) != _TOKENS:
        raise ValueError(f"{len(tokens)} values where {_TOKENS} are needed")
    names = (check_name(tokens[0]), check_name(tokens[1]))
    if not all(token in ("0", "1", "2", "3") for token in tokens[2:4]):
        raise ValueError(f"rotations '{tokens[2]} {tokens[3]}' are not 0, 1, 2 or 3")
    values = np.array([parse_number(token) for token in tokens[4:]])
    intrinsics = (values[:9].reshape(3, 3), values[9:18].reshape(3, 3))
    for which, matrix in enumerate(intrinsics):
        if min(matrix[0, 0], matrix[1, 1]) <= 0 or not np.allclose(matrix[2], [0, 0, 1]):
            raise ValueError(f"K{which} is no matrix of intrinsics")
    pose = values[18:].reshape(4, 4)
    rotation, translation = pose[:3, :3], pose[:3, 3]
    orthonormal = np.abs(rotation @ rotation.T - np.eye(3)).max() < _ROTATION_TOLERANCE
    if not orthonormal or np.linalg.det(rotation) < 0 or not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValueError("the pose is no rigid transform")
    if not np.linalg.norm(translation) > 0:
        raise ValueError("the cameras stand in one place, so there is no direction to compare")
    return ListedPair(names, (int(tokens[2]), int(tokens[3])), intrinsics, rotation, translation)


def _pycolmap(
    points0: np.ndarray, points1: np.ndarray, k0: np.ndarray, k1: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    from ..colmap.library import pycolmap

    options = pycolmap.RANSACOptions()
    options.max_error = threshold
    options.max_num_trials = _ITERATIONS
    options.confidence = _CONFIDENCE
    if hasattr(options, "random_seed"):
        options.random_seed = 0
    else:
        pycolmap.set_random_seed(0)
    cameras = [pycolmap.Camera(**_camera(k)) for k in (k0, k1)]
    found = pycolmap.estimate_essential_matrix(points0, points1, *cameras, options)
    if found is None:
        return None
    pose = found["cam2_from_cam1"]
    inliers = np.asarray(found["inlier_mask"], dtype=bool)
    return _with_direction(pose.rotation.matrix(), pose.translation, inliers)


def _poselib(
    points0: np.ndarray, points1: np.ndarray, k0: np.ndarray, k1: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    import poselib  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = {"max_epipolar_error": threshold, "max_iterations": _ITERATIONS,
               "success_prob": _CONFIDENCE, "seed": 0}  # fmt: skip
    pose, info = poselib.estimate_relative_pose(
        points0, points1, _camera(k0), _camera(k1), options, {}
    )
    return _with_direction(pose.R, pose.t, np.array(info["inliers"], dtype=bool))


def _with_direction(
    rotation: np.ndarray, translation: np.ndarray, inliers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    norm = float(np.linalg.norm(translation))
    if inliers.sum() < 5 or not norm > 0:
        return None
    return np.asarray(rotation), np.asarray(translation) / norm, inliers


def _camera(k: np.ndarray) -> dict[str, Any]:
    """Intrinsics (3, 3) as PoseLib and COLMAP describe a camera; the size plays no part."""
    return {
        "model": "PINHOLE",
        "width": math.ceil(2 * k[0, 2]),
        "height": math.ceil(2 * k[1, 2]),
        "params": [k[0, 0], k[1, 1], k[0, 2], k[1, 2]],
    }
