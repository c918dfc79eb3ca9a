"""From a query's matches with its retrieved images to 2D-3D correspondences with the map.

All in arrays (database keypoint -> point of the map); each correspondence once, in hloc's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..colmap.model import Model
from ..errors import SamfeatError
from ..files.feature_readers import FeatureReader, MatchReader


@dataclass(frozen=True)
class Correspondences:
    """2D-3D matches of a query, each once; the points of a keypoint together, else as they came.

    keypoints, points: (K,) int64 rows of the query's keypoints and of the map's points.
    support: (K,) int64, how many of the retrieved images each is a match of.
    matches_per_image: matches with a point in every retrieved image, before duplicates go.
    """

    keypoints: np.ndarray
    points: np.ndarray
    support: np.ndarray
    matches_per_image: list[int]


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """A retrieved image of the map, and the query's matches with its keypoints.

    seen: (S,) rows of the points that the image sees.
    keypoints, points: (K,) int64 rows of the query's keypoints and of the map's points.
    pointless: (M, 2) int64 rows of the query's keypoints and of the image's, of the matches with
        those that have no point.
    """

    name: str
    seen: np.ndarray
    keypoints: np.ndarray
    points: np.ndarray
    pointless: np.ndarray

    @classmethod
    def of(cls, name: str, points: np.ndarray, pair: np.ndarray) -> ImageMatches:
        """From the points (N,) of the image's keypoints, -1 for none, and the matches (M, 2)."""
        rows = points[pair[:, 1]].astype(np.int64)
        there = rows >= 0
        return cls(name, points[points >= 0], pair[there, 0], rows[there], pair[~there])


def image_matches(map_model: Model, name: str, db_name: str, matches: MatchReader) -> ImageMatches:
    """Follow a query's matches with one image to points of the map, where there are any.

    Raises:
        SamfeatError: the pair has no matches in the file, or they are of other keypoints than
            the map has.
    """
    to_point = map_model.images[db_name].points
    if not len(to_point):  # pycolmap 3.13 drops the keypoints of an image without points
        pair = matches.matches(name, db_name)
        to_point = np.full(pair[:, 1].max(initial=-1) + 1, -1)
    else:
        pair = matches.matches(name, db_name, (None, len(to_point)))
    return ImageMatches.of(db_name, to_point, pair)


def merged(images: Sequence[ImageMatches]) -> Correspondences:
    """The matches with several images as correspondences, each once."""
    counts = [len(image.keypoints) for image in images]
    if not any(counts):
        none = np.zeros(0, dtype=np.int64)
        return Correspondences(none, none, none, counts)
    points = np.concatenate([image.points for image in images])
    num_points = int(points.max()) + 1
    unique, first, support = np.unique(
        np.concatenate([image.keypoints for image in images]) * num_points + points,
        return_index=True, return_counts=True,
    )  # fmt: skip
    found = unique // num_points
    starts = np.flatnonzero(np.diff(found, prepend=-1))
    first_of_keypoint = np.repeat(
        np.minimum.reduceat(first, starts), np.diff(starts, append=len(found))
    )
    # RANSAC draws by position: in hloc's order both engines draw the same.
    order = np.lexsort((first, first_of_keypoint))
    return Correspondences(found[order], unique[order] % num_points, support[order], counts)


def check_keypoints(
    name: str,
    images: Sequence[ImageMatches],
    count: int,
    features: FeatureReader,
    matches: MatchReader,
) -> None:
    """Refuse matches of keypoints that the query, which has ``count``, does not have, or an image
    of which the map does not tell."""

    def check(name: str, rows: np.ndarray, count: int) -> None:
        if rows.max(initial=-1) >= count:
            raise SamfeatError(
                matches.path,
                f"{name} has matches of keypoints that {features.path} does not have",
                "match these features again",
            )

    for image in images:
        check(name, image.keypoints, count)
        check(name, image.pointless[:, 0], count)
        if not len(image.seen) and features.has(image.name):
            check(image.name, image.pointless[:, 1], features.count(image.name))
