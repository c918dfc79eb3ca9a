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
    """A retrieved image of the map, and the query's matches with its keypoints that have a point.

    seen: (S,) rows of the points that the image sees.
    keypoints, points: (K,) int64 rows of the query's keypoints and of the map's points.
    """

    name: str
    seen: np.ndarray
    keypoints: np.ndarray
    points: np.ndarray


def image_matches(map_model: Model, name: str, db_name: str, matches: MatchReader) -> ImageMatches:
    """Follow a query's matches with one image to points of the map.

    Raises:
        SamfeatError: the pair has no matches in the file, or they are of other keypoints than
            the map has.
    """
    to_point = map_model.images[db_name].points
    seen = to_point[to_point >= 0]
    if not len(seen):  # pycolmap 3.13 even drops such an image's keypoints
        none = np.zeros(0, dtype=np.int64)
        return ImageMatches(db_name, seen, none, none)
    pair = matches.matches(name, db_name, (None, len(to_point)))
    rows = to_point[pair[:, 1]].astype(np.int64)
    return ImageMatches(db_name, seen, pair[rows >= 0, 0], rows[rows >= 0])


def correspondences(
    map_model: Model, name: str, retrieved: Sequence[str], matches: MatchReader
) -> Correspondences:
    """Follow a query's matches with its retrieved images to points of the map.

    Raises:
        SamfeatError: see `image_matches`.
    """
    return merged([image_matches(map_model, name, db_name, matches) for db_name in retrieved])


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
    name: str, matched: np.ndarray, count: int, features: FeatureReader, matches: MatchReader
) -> None:
    """Refuse matches of keypoints (rows) that the query, which has ``count``, does not have."""
    if len(matched) and matched.max() >= count:
        raise SamfeatError(
            matches.path,
            f"{name} has matches of keypoints that {features.path} does not have",
            "match these features again",
        )
