"""Which images of a model see the same points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def most_covisible(
    seen: Sequence[np.ndarray], num_matched: int
) -> Iterator[tuple[int, np.ndarray]]:
    """For each image the indices of those that share most points, most first.

    Arguments:
        seen: for each image the indices of the points it observes, one entry an observation.
        num_matched: at most so many neighbours.
    """
    for image, common in enumerate(shared_points(seen)):
        best = np.argsort(-common, kind="stable")[:num_matched]
        yield image, best[common[best] > 0]


def shared_points(seen: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """For each image how many points it shares with every other, (len(seen),); 0 with itself.

    Arguments:
        seen: for each image the indices of the points it observes, one entry an observation.
    """
    lengths = np.array([len(points) for points in seen])
    points = np.concatenate([np.asarray(points) for points in seen])
    image_of = np.repeat(np.arange(len(seen)), lengths)
    order = np.argsort(points, kind="stable")
    observers = image_of[order]  # grouped by point
    starts = np.concatenate([[0], np.cumsum(np.bincount(points))]).astype(np.int64)
    for image, own in enumerate(seen):
        first, count = starts[own], starts[np.asarray(own) + 1] - starts[own]
        # all ranges [first, first + count) one after the other
        offsets = np.repeat(first - (np.cumsum(count) - count), count)
        common = np.bincount(observers[offsets + np.arange(len(offsets))], minlength=len(seen))
        common[image] = 0
        yield common
