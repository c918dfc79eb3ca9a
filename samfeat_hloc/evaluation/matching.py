"""How many matches are right: pure functions over the features of two images.

The protocol of D2-Net on HPatches: mutual nearest neighbours by dot product; a match is right at t
when the keypoint of image 1, taken to image 2 by the true homography, is within t pixels of its
match; the share of right matches is averaged over pairs (a pair without matches has share 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import homography as homographies

THRESHOLDS = tuple(range(1, 11))  # pixels
AREA_UP_TO = 5  # pixels
HOMOGRAPHY_THRESHOLDS = (1, 3, 5, 10)  # pixels
RIGHT_WITHIN = 3  # pixels, of what is counted as right matches and as repeated keypoints


@dataclass(frozen=True)
class CachedFeatures:
    """Cached features of one image.

    keypoints: (N, 2) float64 xy, centre of the top-left pixel at (0, 0), in the file's pixels.
    descriptors: (D, N) float32.
    image_size: width and height, None where the file does not say.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PairResult:
    """What came out for images 1 and k of a sequence.

    images: their names. kind: the group it counts in, such as "v". num_keypoints: of both.
    repeatability: see :func:`repeatability`.
    errors: (M,) reprojection error of each match, pixels of image 2. similarities: (M,) dot product
    of its descriptors. corner_error: of the
    homography estimated from the matches, pixels of image 2; infinite where that failed.
    """

    images: tuple[str, str]
    kind: str
    num_keypoints: tuple[int, int]
    errors: np.ndarray
    corner_error: float
    repeatability: float
    similarities: np.ndarray


@dataclass(frozen=True)
class MatchingResult:
    """Figures of a set of pairs; all shares from 0 to 1.

    accuracy: mean matching accuracy at each of :data:`THRESHOLDS`. area: mean of the accuracies
    at 1 to 5 pixels ("AUC up to 5 px"). num_features: mean number an image. num_matches: mean
    number a pair. right_matches: mean number a pair of those within :data:`RIGHT_WITHIN` pixels,
    which is what a map has points from. repeatability: mean over the pairs. homography: area
    under the curve of the corner errors up to each of :data:`HOMOGRAPHY_THRESHOLDS`.
    """

    num_pairs: int
    num_features: float
    num_matches: float
    right_matches: float
    repeatability: float
    accuracy: tuple[float, ...]
    area: float
    homography: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "num_pairs": self.num_pairs,
            "features_per_image": self.num_features,
            "matches_per_pair": self.num_matches,
            f"right_matches_per_pair_{RIGHT_WITHIN}px": self.right_matches,
            f"repeatability_{RIGHT_WITHIN}px": self.repeatability,
            "mean_matching_accuracy": dict(zip(map(str, THRESHOLDS), self.accuracy, strict=True)),
            f"accuracy_area_up_to_{AREA_UP_TO}px": self.area,
            "homography_auc": dict(
                zip(map(str, HOMOGRAPHY_THRESHOLDS), self.homography, strict=True)
            ),
        }


def mutual_nearest(descriptors1: np.ndarray, descriptors2: np.ndarray) -> np.ndarray:
    """Mutual nearest neighbours by dot product of (D, N1) and (D, N2): (M, 2) int64 indices."""
    import torch

    from ..feature.matching import nearest_neighbours

    first = torch.from_numpy(np.ascontiguousarray(descriptors1, dtype=np.float32))
    second = torch.from_numpy(np.ascontiguousarray(descriptors2, dtype=np.float32))
    matches = nearest_neighbours(first, second)[0].numpy()
    index = np.flatnonzero(matches >= 0)
    return np.stack([index, matches[index]], axis=1)


def similarities(
    descriptors1: np.ndarray, descriptors2: np.ndarray, matches: np.ndarray
) -> np.ndarray:
    """(M,) dot products of the descriptors (D, N1) and (D, N2) of matches (M, 2)."""
    first, second = descriptors1[:, matches[:, 0]], descriptors2[:, matches[:, 1]]
    return np.asarray((first * second).sum(axis=0, dtype=np.float64))


def reprojection_errors(
    keypoints1: np.ndarray, keypoints2: np.ndarray, matches: np.ndarray, homography: np.ndarray
) -> np.ndarray:
    """(M,) distance in image 2 of each match (M, 2) from where the homography takes it."""
    projected = homographies.transform(keypoints1[matches[:, 0]], homography)
    return np.asarray(np.linalg.norm(projected - keypoints2[matches[:, 1]], axis=1))


def repeatability(
    keypoints1: np.ndarray,
    keypoints2: np.ndarray,
    homography: np.ndarray,
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> float:
    """Share of the keypoints in the part that both images show with a keypoint of the other image
    within :data:`RIGHT_WITHIN` pixels, measured in image 2 (Mikolajczyk and Schmid, 2004).

    Arguments:
        keypoints1, keypoints2: (N1, 2) and (N2, 2) xy.
        homography: (3, 3) from image 1 to image 2.
        sizes: width and height of both images.

    Returns:
        From 0 to 1; 0 where no keypoint is in the common part.
    """
    import torch

    in2 = homographies.transform(keypoints1, homography)
    in1 = homographies.transform(keypoints2, np.linalg.inv(homography))
    shown1, shown2 = _inside(in2, sizes[1]), _inside(in1, sizes[0])
    first, second = (torch.from_numpy(k) for k in (in2[shown1], keypoints2[shown2]))
    if len(first) == 0 or len(second) == 0:
        return 0.0
    near = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist") <= RIGHT_WITHIN
    repeated = int(near.any(dim=1).sum()) + int(near.any(dim=0).sum())
    return repeated / (len(first) + len(second))


def _inside(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(((xy >= -0.5) & (xy < np.array(size) - 0.5)).all(axis=1))


def accuracy(errors: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """(T,) share of errors at most each threshold; 0 where there is no match."""
    if len(errors) == 0:
        return np.zeros(len(thresholds))
    return np.asarray((errors[None] <= np.asarray(thresholds)[:, None]).mean(axis=1))


def evaluate_pair(
    images: tuple[str, str],
    kind: str,
    features1: CachedFeatures,
    features2: CachedFeatures,
    homography: np.ndarray,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    *,
    short_side: int | None = None,
    ransac_threshold: float = homographies.RANSAC_THRESHOLD,
) -> PairResult:
    """Match two images and compare with the homography between them.

    Arguments:
        images: names, for the result. kind: group, for the result.
        homography: (3, 3) from image 1 to image 2.
        sizes: width and height of both images.
        short_side: estimate the homography, and count its error, as if both images were resized
            to this shorter side; None for their own pixels. Reprojection errors stay in theirs.
        ransac_threshold: see :func:`.homography.estimate_homography`.
    """
    matches = mutual_nearest(features1.descriptors, features2.descriptors)
    errors = reprojection_errors(features1.keypoints, features2.keypoints, matches, homography)
    scale1, scale2 = (1.0 if short_side is None else short_side / min(size) for size in sizes)
    estimated = homographies.estimate_homography(
        homographies.resize_points(features1.keypoints[matches[:, 0]], scale1),
        homographies.resize_points(features2.keypoints[matches[:, 1]], scale2),
        threshold=ransac_threshold,
    )
    corner = homographies.corner_error(
        estimated,
        homographies.rescale(homography, scale1, scale2),
        (round(sizes[0][0] * scale1), round(sizes[0][1] * scale1)),
    )
    counts = (len(features1.keypoints), len(features2.keypoints))
    repeated = repeatability(features1.keypoints, features2.keypoints, homography, sizes)
    alike = similarities(features1.descriptors, features2.descriptors, matches)
    return PairResult(images, kind, counts, errors, corner, repeated, alike)


def summarize(pairs: Sequence[PairResult]) -> MatchingResult:
    """Figures of these pairs.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("no pairs to summarize")
    shares = np.mean([accuracy(pair.errors) for pair in pairs], axis=0)
    features = {
        name: count
        for pair in pairs
        for name, count in zip(pair.images, pair.num_keypoints, strict=True)
    }
    return MatchingResult(
        num_pairs=len(pairs),
        num_features=float(np.mean(list(features.values()))),
        num_matches=float(np.mean([len(pair.errors) for pair in pairs])),
        right_matches=float(np.mean([(pair.errors <= RIGHT_WITHIN).sum() for pair in pairs])),
        repeatability=float(np.mean([pair.repeatability for pair in pairs])),
        accuracy=tuple(float(share) for share in shares),
        area=area_of(shares),
        homography=tuple(
            homographies.area_under_curve(
                [pair.corner_error for pair in pairs], HOMOGRAPHY_THRESHOLDS
            )
        ),
    )


def area_of(accuracies: Sequence[float] | np.ndarray) -> float:
    """ "AUC up to 5 px" of a curve of accuracies at 1, 2, 3… pixels: their mean up to 5."""
    return float(np.mean(np.asarray(accuracies)[:AREA_UP_TO]))


def by_kind(pairs: Sequence[PairResult]) -> dict[str, MatchingResult]:
    """Figures of each kind, in alphabetical order, and of "all" where there are several kinds."""
    kinds = sorted({pair.kind for pair in pairs})
    results = {kind: summarize([pair for pair in pairs if pair.kind == kind]) for kind in kinds}
    return {**results, "all": summarize(pairs)} if len(kinds) > 1 else results
