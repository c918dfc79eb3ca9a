"""Whether a pose is to be believed: RANSAC finds one for a photo of elsewhere too.

Wrong matches agree with some pose by chance, and with more of them the more there are. So a pose
needs a number of inliers, and a share of the keypoints that have a match in the map. Keypoints are
counted, not correspondences: a keypoint that matches ten images has up to ten points, which agree
or disagree together.
"""

from __future__ import annotations

import math

MIN_INLIERS = 30
MIN_SHARE = 0.1
_HALF_SURE, _STEEPNESS = 0.53, 8.1  # of `confidence`


def least_inliers(num_matched: int, min_inliers: int = MIN_INLIERS) -> int:
    """How many keypoints have to agree with a pose.

    Arguments:
        num_matched: keypoints that have a match with a point.
        min_inliers: however few are matched.
    """
    return max(min_inliers, math.ceil(MIN_SHARE * num_matched))


def confidence(num_inliers: int, num_matched: int) -> float:
    """How probable it is, from 0 to 1, that a pose is no chance, where half of the photos show what
    the map shows and half are of elsewhere.

    Calibrated on right poses and photos of elsewhere (`benchmarks/localizer/accept.py`): logistic
    in the logarithm of how many times the least number of inliers there are. A pose at another
    place that looks the same is no chance either.

    Arguments:
        num_inliers: keypoints that agree with the pose.
        num_matched: keypoints that have a match with a point.
    """
    times = num_inliers / least_inliers(num_matched)
    return times**_STEEPNESS / (times**_STEEPNESS + _HALF_SURE**_STEEPNESS)


def refusal(num_inliers: int, num_matched: int, min_inliers: int = MIN_INLIERS) -> str | None:
    """Why a pose is not believed; None where it is.

    Arguments:
        num_inliers: keypoints that agree with it.
        num_matched: keypoints that have a match with a point.
        min_inliers: see :func:`least_inliers`.
    """
    least = least_inliers(num_matched, min_inliers)
    if num_inliers >= least:
        return None
    return (
        f"{num_inliers} of {num_matched} matched keypoints agree with a pose, "
        f"{least} have to (so many may by chance)"
    )
