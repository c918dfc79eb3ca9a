"""Verified pairs of lookalike places, found before they join the places in one model.

Two houses of one style, seen by two upright photos, have many matches that fit an epipolar
geometry: windows lie on rows, and so do the epipolar lines. Such a pair is verified, and nothing in
it says that it is wrong; the other pairs do.

- Matches of what both photos show move together with their neighbours. Some neighbours agree by
  chance where windows lie on rows, but hardly ever all. The *strength* of a pair is the share of
  keypoints that are matched so that nearly all neighbours (`STEADY`) move along. Where it is a
  small part (`WEAK`) of that of the best pairs of both photos, or of a usual photo's where both
  have none as good, the pair is *weak*.
- A weak pair is *confirmed* where tracks through other pairs hold its matches too (a loop of three
  pairs that closes, keypoint by keypoint; see Zach et al., "Disambiguating visual relations using
  loop constraints", CVPR 2010).
- Photos that other pairs join are a *place*. Two places contradict each other where the keypoints
  that a photo of the one shares with the other are matched in photos of it that do not see each
  other: what is one thing here would be several there (see Wilson and Snavely, "Network principles
  for SfM: disambiguating repeated structures with local context", ICCV 2013). Then the weak pairs
  between them are left out, and within them those that hardly anything confirms.

Weak pairs alone are no fault: photos of tourists from far apart have them. Where no two places
contradict each other every pair stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..progress import tqdm

NEIGHBOURS = 12  # of a match, some or nearly all of which have to move with it
MOVES_WITH = 4  # of these neighbours, for a match that can confirm a pair
STEADY = 11  # of these neighbours, for a match that adds to a pair's strength
DEVIATION = 0.7  # times the distance of a neighbour: it does not move along beyond
PRECISION = 4.0  # pixels by which a neighbour may be off whatever its distance
WEAK = 0.08  # times the strength of the best pair of both photos, or of a usual photo
CONFIRMED = 0.25  # of a weak pair's inliers are in tracks of other pairs
LEAST_CONFIRMED = 15  # inliers
UNCONFIRMED = 0.1  # of its inliers are: below, it is left out even within a place
CONTRADICT = 0.02  # of the keypoints matched between two places, to several things of one of them
_ANGLES = 24  # bins


@dataclass(frozen=True, eq=False)
class Pairs:
    """The verified pairs of N images.

    Attributes:
        keypoints: for each image (K, 2) pixels.
        images: (P, 2) int64, the indices of each pair's images.
        inliers: for each pair (M, 2) int64, indices of keypoints.
        num_matches: (P,) int64, of each pair before verification.
        apart: (N, N) bool, symmetric: images that were matched, so that without a pair they do
            not see each other.
    """

    keypoints: Sequence[np.ndarray]
    images: np.ndarray
    inliers: Sequence[np.ndarray]
    num_matches: np.ndarray
    apart: np.ndarray


def lookalikes(pairs: Pairs) -> np.ndarray:
    """(P,) bool: the pairs to leave out. None where no two places contradict each other."""
    if not len(pairs.images):
        return np.zeros(0, dtype=bool)
    every = zip(pairs.images, pairs.inliers, strict=True)
    along = [
        neighbours_along(pairs.keypoints[a][found[:, 0]], pairs.keypoints[b][found[:, 1]])
        for (a, b), found in tqdm(
            every, total=len(pairs.inliers), desc="lookalikes", unit="pair", delay=2
        )
    ]
    sizes = np.array([len(keypoints) for keypoints in pairs.keypoints])
    steady = np.array([np.count_nonzero(one >= STEADY) for one in along])
    strength = steady / sizes[pairs.images].min(axis=1)
    strong = ~weak(pairs.images, strength, len(sizes), WEAK, usual=True)
    moving = [one >= MOVES_WITH for one in along]
    kept = confirmed(pairs, moving, strong)
    matches = np.array([len(found) for found in pairs.inliers])
    return contradicting(pairs, kept, closing(pairs, moving, kept) < UNCONFIRMED * matches)


def neighbours_along(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M,) int64: how many of the `NEIGHBOURS` nearest matches move with each, the fewer of both
    ways.

    Photos may be turned against each other and differ in scale, by as much as most neighbours say.

    Arguments:
        first, second: (M, 2) pixels of the matches in each image.
    """
    return np.minimum(_along(first, second), _along(second, first))


def _along(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if len(first) <= MOVES_WITH:
        return np.zeros(len(first), dtype=np.int64)
    count = min(NEIGHBOURS, len(first) - 1)
    near = cKDTree(first).query(first, k=count + 1)[1][:, 1:]
    # as complex numbers: a quotient is a turn and a scale
    here, there = (points[:, 0] + 1j * points[:, 1] for points in (first, second))
    here, there = here[near] - here[:, None], there[near] - there[:, None]
    apart = (here != 0) & (there != 0)
    quotients = there[apart] / here[apart]
    if not len(quotients):
        return np.zeros(len(first), dtype=np.int64)
    turns = np.round(np.angle(quotients) / (2 * np.pi) * _ANGLES).astype(int) % _ANGLES
    turn = np.bincount(turns, minlength=_ANGLES).argmax()
    scale = np.median(np.abs(quotients[turns == turn]))
    expected = here * scale * np.exp(2j * np.pi * turn / _ANGLES)
    moves = np.abs(there - expected) < DEVIATION * np.abs(expected) + PRECISION
    return np.count_nonzero(moves, axis=1)


def weak(
    images: np.ndarray,
    strength: np.ndarray,
    num_images: int,
    below: float,
    *,
    usual: bool = False,
) -> np.ndarray:
    """(P,) bool: pairs that are weak beside the best pairs of both images, or have no strength.

    Arguments:
        images: (P, 2) int64.
        strength: (P,) from 0 to 1.
        below: times the strength of the best pair.
        usual: an image's best pair counts as no weaker than the median of all images' best. The
            ends of a walk have no good pair, and among themselves wrong ones were not weak.
    """
    best = np.zeros(num_images)
    np.maximum.at(best, images.ravel(), np.repeat(strength, 2))
    if usual:
        best = np.maximum(best, np.median(best))
    return strength <= below * best[images].max(axis=1)


def confirmed(pairs: Pairs, steady: Sequence[np.ndarray], strong: np.ndarray) -> np.ndarray:
    """(P,) bool: the strong pairs, and those that tracks of them confirm.

    Arguments:
        steady: for each pair (M,) bool, the inliers that count.
        strong: (P,) bool.
    """
    enough = np.array([max(CONFIRMED * len(found), LEAST_CONFIRMED) for found in pairs.inliers])
    kept = strong
    while True:
        more = kept | (closing(pairs, steady, kept) >= enough)
        if (more == kept).all():
            return kept
        kept = more


def closing(pairs: Pairs, steady: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """(P,) int64: how many of a pair's inliers that count are in tracks of the kept pairs.

    Arguments:
        steady: for each pair (M,) bool, the inliers that count.
        kept: (P,) bool.
    """
    starts = np.cumsum([0, *map(len, pairs.keypoints)])
    edges = [
        found[which] + starts[images]
        for images, found, which in zip(pairs.images, pairs.inliers, steady, strict=True)
    ]
    none = np.zeros((0, 2), dtype=np.int64)
    used = [edge for edge, one in zip(edges, kept, strict=True) if one]
    track = _connected(np.concatenate([*used, none]), starts[-1])
    closed = [np.count_nonzero(track[edge[:, 0]] == track[edge[:, 1]]) for edge in edges]
    return np.array(closed, dtype=np.int64)


def contradicting(pairs: Pairs, kept: np.ndarray, doubtful: np.ndarray) -> np.ndarray:
    """(P,) bool: the pairs to leave out, of places that contradict each other; see the module.

    Arguments:
        kept: (P,) bool, pairs that join places.
        doubtful: (P,) bool, pairs to leave out within such a place.
    """
    num_images = len(pairs.keypoints)
    place = _connected(pairs.images[kept], num_images)
    between = place[pairs.images[:, 0]] != place[pairs.images[:, 1]]
    shares = _contradictions(pairs, kept, place)
    against = np.maximum(shares, shares.T) >= CONTRADICT
    left_out = np.zeros(len(kept), dtype=bool)
    if not against.any():
        return left_out
    # other places are joined, by most matches first, unless that joins two that contradict
    joined = np.arange(len(against))
    members = [[number] for number in joined]
    matched = np.zeros(against.shape, dtype=np.int64)
    sizes = np.array([len(found) for found in pairs.inliers])
    np.add.at(matched, tuple(np.sort(place[pairs.images], axis=1)[between].T), sizes[between])
    for flat in np.argsort(-matched, axis=None, kind="stable")[: np.count_nonzero(matched)]:
        one, other = joined[list(divmod(int(flat), len(against)))]
        if one != other and not against[np.ix_(members[one], members[other])].any():
            joined[members[other]] = one
            members[one] += members[other]
    left_out |= joined[place[pairs.images[:, 0]]] != joined[place[pairs.images[:, 1]]]
    contradicted = against.any(axis=1)[place[pairs.images[:, 0]]]
    return left_out | (~kept & ~between & contradicted & doubtful)


def _contradictions(pairs: Pairs, kept: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(places, places): of the keypoints of the first that are matched in the second, the share
    that is matched in images of it that do not see each other."""
    num_places = int(place.max()) + 1
    several = np.zeros((num_places, num_places))
    total = np.zeros((num_places, num_places))
    apart = pairs.apart.copy()
    one, other = pairs.images[kept].T
    apart[one, other] = apart[other, one] = False
    partners: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    for (a, b), found in zip(pairs.images, pairs.inliers, strict=True):
        if place[a] != place[b]:
            partners.setdefault((int(a), int(place[b])), []).append((b, found[:, 0]))
            partners.setdefault((int(b), int(place[a])), []).append((a, found[:, 1]))
    for (image, there), seen in partners.items():
        matched = np.zeros((len(seen), len(pairs.keypoints[image])), dtype=np.float32)
        for row, (_, keypoints) in zip(matched, seen, strict=True):
            row[keypoints] = 1
        numbers = [number for number, _ in seen]
        elsewhere = apart[np.ix_(numbers, numbers)].astype(np.float32) @ matched
        several[place[image], there] += np.count_nonzero((elsewhere > 0) & (matched > 0))
        total[place[image], there] += np.count_nonzero(matched)
    return several / np.maximum(total, 1)


def _connected(edges: np.ndarray, size: int) -> np.ndarray:
    """(size,) labels from 0 of what these edges connect."""
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
