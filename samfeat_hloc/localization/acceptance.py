"""Whether a pose is to be believed: RANSAC finds one for a photo of elsewhere too.

Wrong matches agree with some pose by chance, and with more of them the more there are. So a pose
needs a number of inliers, and a share of the keypoints that have a match in the map. Keypoints are
counted, not correspondences: a keypoint that matches ten images has up to ten points, which agree
or disagree together.

The poses with which most wrong matches agree are those of a camera far away, or of one at a point:
the whole map is then in one place of the photo, and every keypoint there agrees within the error
bound. So the keypoints that agree have to lie apart: they are counted in squares as well.
"""

from __future__ import annotations

import math

import numpy as np

MIN_INLIERS = 30
MIN_SHARE = 0.1
MIN_SQUARES = 25
_HALF_SURE, _STEEPNESS = 0.45, 7.0  # of `confidence`


def least_inliers(num_matched: int, min_inliers: int = MIN_INLIERS) -> int:
    """How many keypoints have to agree with a pose.

    Arguments:
        num_matched: keypoints that have a match with a point.
        min_inliers: however few are matched.
    """
    return max(min_inliers, math.ceil(MIN_SHARE * num_matched))


def squares(keypoints: np.ndarray, max_error: float) -> int:
    """How many squares of a photo have one of these keypoints.

    Arguments:
        keypoints: (N, 2) xy in pixels.
        max_error: largest reprojection error of an inlier; squares have sides of twice that.
    """
    return len(np.unique(np.floor(keypoints / (2 * max_error)), axis=0))


def confidence(num_inliers: int, num_matched: int, num_squares: int) -> float:
    """How probable it is, from 0 to 1, that a pose is no chance, where half of the photos show what
    the map shows and half are of elsewhere.

    Calibrated on right poses and photos of elsewhere (`benchmarks/localizer/accept.py`): logistic
    in the logarithm of how many times the least numbers there are, of inliers or of squares, the
    smaller. A pose at another place that looks the same is no chance either.

    Arguments:
        num_inliers: keypoints that agree with the pose.
        num_matched: keypoints that have a match with a point.
        num_squares: those of :func:`squares` that have keypoints that agree.
    """
    times = min(num_inliers / least_inliers(num_matched), num_squares / MIN_SQUARES)
    return times**_STEEPNESS / (times**_STEEPNESS + _HALF_SURE**_STEEPNESS)


def refusal(
    num_inliers: int,
    num_matched: int,
    num_squares: int | None,
    min_inliers: int = MIN_INLIERS,
) -> str | None:
    """Why a pose is not believed; None where it is.

    Arguments:
        num_inliers: keypoints that agree with it.
        num_matched: keypoints that have a match with a point.
        num_squares: those of :func:`squares` that have keypoints that agree; None if not known.
        min_inliers: see :func:`least_inliers`; with fewer than MIN_SQUARES, so many squares do.
    """
    least = least_inliers(num_matched, min_inliers)
    if num_inliers < least:
        return (
            f"{num_inliers} of {num_matched} matched keypoints agree with a pose, "
            f"{least} have to (so many may by chance)"
        )
    if num_squares is not None and num_squares < min(MIN_SQUARES, min_inliers):
        return (
            f"the {num_inliers} keypoints that agree with a pose lie close together (in "
            f"{num_squares} places of the photo), as they may by chance"
        )
    return None
