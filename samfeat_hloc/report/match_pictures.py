"""Two photos side by side with their matches, as a report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .contents import MatchPicture
from .photos import MAX_KEYPOINTS, detail, relative

_MOST_MATCHES = 3000


def match_picture(
    left: Path,
    right: Path,
    right_name: str,
    keypoints: tuple[np.ndarray, np.ndarray],
    pair: np.ndarray,
    inliers: np.ndarray,
) -> MatchPicture | None:
    """A picture of a pair; None where a photo is missing or broken.

    Args:
        left, right: the photos.
        right_name: name of the image at the right.
        keypoints: of both (N, 2), pixels from the corner of the photo.
        pair: (K, 2) matches, indices of these.
        inliers: (K,) bool.
    """
    first, second = detail(left), detail(right)
    if first is None or second is None:
        return None
    photos = first, second
    # every inlier before any other
    order = np.concatenate([np.flatnonzero(inliers), np.flatnonzero(~inliers)])
    num_inliers = int(inliers.sum())
    kept = order[some(num_inliers, _MOST_MATCHES)]
    kept = np.concatenate(
        [kept, order[num_inliers:][some(len(pair) - num_inliers, _MOST_MATCHES - len(kept))]]
    )
    xy = np.column_stack(
        [relative(keypoints[side][pair[kept, side]], photos[side].size) for side in (0, 1)]
    )
    return MatchPicture(
        photos[0], photos[1], right_name,
        relative(keypoints[0][some(len(keypoints[0]), MAX_KEYPOINTS)], photos[0].size),
        xy, inliers[kept], len(keypoints[0]), len(pair),
    )  # fmt: skip


def choose_pictures(order: Sequence[int], most: int) -> list[int]:
    """Half of the places go to the worst, the others are spread evenly over the rest."""
    if len(order) <= most:
        return list(order)
    worst = most - most // 2
    rest = order[worst:]
    spread = np.linspace(0, len(rest) - 1, most // 2).astype(int)
    return [*order[:worst], *(rest[i] for i in spread)]


def some(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, spread evenly."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int) if most > 0 else np.zeros(0, dtype=int)
