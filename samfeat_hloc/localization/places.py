"""Lookalike places: of a query's retrieved images, those of the place where it was taken.

Two places may show the same facade, or the same building. Retrieval finds images of both, and the
pose from all matches goes to the place with more of them, which is often that with more images in
the database. Here the retrieved images are split into the places that the map knows (images that
see common points, directly or through others), and images of places whose matches the pose in the
best one does not explain are left out. Where one place explains all, nothing changes.

The best place is the one with the largest product of two figures, neither of which grows with the
number of photos that the database has of it: the inliers of its best image, and the share of the
place's matches that are inliers. A place that shows what the query shows explains most of its
matches, one that only resembles it explains a part of many.

RANSAC is nearly all that this costs. The place whose best image has the most matches is solved
first; of another, that number is the most that its product can be, so that most are known to be
worse without being solved, and RANSAC in the others draws only as many samples as a better pose
needs to be found.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.absolute_pose import estimate_pose, reprojection_errors
from ..colmap.poses import Pose
from ..datasets.queries import Query
from ..files import provenance
from ..files.outputs import Output
from ..files.pair_lists import pairs_text
from ..parallel.workers import Workers
from ..progress import tqdm
from .acceptance import MIN_INLIERS, MIN_SHARE, least_inliers
from .correspondences import (
    ImageMatches,
    check_keypoints,
    image_matches,
    merged,
)
from .inputs import LocalizationInputs

logger = logging.getLogger(__name__)

AGREES = 0.5  # times the best place's share of explained matches: a place with less is left out


@dataclass(frozen=True, eq=False)
class Agreement:
    """The retrieved images that are kept.

    Attributes:
        images: in the order of retrieval.
        solved: the pose from their matches and its inliers, as `absolute_pose.estimate_pose` gives
            them, where they were found on the way.
        ransacs: how many places were solved.
    """

    images: list[ImageMatches]
    solved: tuple[Pose, np.ndarray] | None = None
    ransacs: int = 0


def main(
    inputs: LocalizationInputs,
    output: Path,
    *,
    max_error: float = 12.0,
    overwrite: bool = False,
    workers: int = 2,
) -> Path:
    """Write the pairs without those of contradicting places; arguments as in `localize.main`.

    Args:
        inputs: see `LocalizationInputs`; the order of its pairs stays.
        output: the pairs file to write.

    Raises:
        SamfeatError: a file is missing or damaged, or `output` was created with other settings.
    """
    made_by = provenance.made_by(
        "places",
        {
            "max_error": max_error,
            "min_inliers": MIN_INLIERS,
            "min_share": MIN_SHARE,
            "agrees": AGREES,
        },
        inputs.hashes(),
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    queries = inputs.queries
    with inputs.open() as files:

        def choose(query: Query) -> list[str]:
            keypoints = files.features.keypoints(query.name)
            images = [
                image_matches(files.map_model, query.name, name, files.matches)
                for name in files.retrieved[query.name]
            ]
            check_keypoints(query.name, images, len(keypoints), files.features, files.matches)
            camera = query.camera.to_pycolmap()
            found = agreeing(images, files.map_model.xyz, camera, keypoints, max_error=max_error)
            return [image.name for image in found.images]

        with Workers(workers, "the search for places") as pool:
            chosen = pool.map(choose, queries, name=lambda query: query.name)
            kept = list(tqdm(chosen, total=len(queries), desc="places", unit="query"))
    lines = [
        (query.name, name) for query, names in zip(queries, kept, strict=True) for name in names
    ]
    dropped = sum(map(len, files.retrieved.values())) - len(lines)
    changed = sum(len(k) < len(files.retrieved[q.name]) for q, k in zip(queries, kept, strict=True))
    logger.info("places: %d images of other places left out, of %d queries", dropped, changed)
    return result.write_text(pairs_text(lines))


def agreeing(
    images: Sequence[ImageMatches], xyz: np.ndarray, camera: Any, keypoints: np.ndarray, *,
    max_error: float = 12.0,
) -> Agreement:  # fmt: skip
    """The retrieved images without those of places that the pose in the best one contradicts.

    It contradicts a place of whose images' matches it explains a share less than `AGREES` times
    that of the best place. This one has a pose to be believed (see `acceptance`); where none has,
    all stay.

    Args:
        images: in the order of retrieval, which stays, with the query's matches.
        xyz: (P, 3) float64, the map's points.
        camera: the query's `pycolmap.Camera`.
        keypoints: (N, 2) float64 pixels of the query, the corner of the image at (0, 0).
        max_error: of inliers, in pixels.
    """
    places = places_of(images)
    if len(places) < 2:
        return Agreement(list(images))
    points = np.concatenate([image.points for place in places for image in place])
    seen = np.concatenate([image.keypoints for place in places for image in place])
    lengths = [[len(image.points) for image in place] for place in places]
    bounds = np.cumsum([0, *(length for place in lengths for length in place)])
    firsts = np.cumsum([0, *map(len, places)])

    def explained(pose: Pose) -> list[np.ndarray]:
        """How many matches of each image of each place the pose explains."""
        error = reprojection_errors(pose, camera, keypoints[seen], xyz[points])
        before = np.concatenate([[0], np.cumsum(error <= max_error)])
        counts = np.diff(before[bounds])
        return [counts[first:last] for first, last in pairwise(firsts)]

    found = [merged(place) for place in places]
    most = [max(length) for length in lengths]
    best, best_score, ransacs = 0, 0.0, 0
    solved: tuple[Pose, np.ndarray] | None = None
    best_counts: list[np.ndarray] = []
    for i in sorted(range(len(places)), key=lambda i: -most[i]):
        count = len(found[i].keypoints)
        # with a share of inliers above this it would be the best
        share = best_score / max(most[i], 1)
        matched = len(np.unique(found[i].keypoints))
        enough = least_inliers(matched)
        least = max(enough, math.floor(share * count) + 1)
        if matched < enough or count < least:
            continue
        ransacs += 1
        estimate = estimate_pose(
            keypoints[found[i].keypoints], xyz[found[i].points], camera,
            max_error=max_error, min_inliers=least, support=found[i].support,
        )  # fmt: skip
        if estimate is None:
            continue
        pose, inliers = estimate
        if len(np.unique(found[i].keypoints[inliers])) < enough:
            continue
        counts = explained(pose)
        score = float(counts[i].max()) * float(inliers.mean())
        if score > best_score:
            best, best_score, solved, best_counts = i, score, estimate, counts
    if solved is None:
        return Agreement(list(images), ransacs=ransacs)
    # counted image by image: what all images of a place show counts once among its matches, and
    # its share of them falls with every further image
    shares = [
        float(counts.sum()) / max(sum(length), 1)
        for counts, length in zip(best_counts, lengths, strict=True)
    ]
    agree = [share >= AGREES * shares[best] for share in shares]
    left_out = {image.name for i, place in enumerate(places) if not agree[i] for image in place}
    kept = [image for image in images if image.name not in left_out]
    alone = not any(ok and most[i] for i, ok in enumerate(agree) if i != best)
    return Agreement(kept, solved if alone else None, ransacs)


def most_promising(images: Sequence[ImageMatches]) -> list[ImageMatches]:
    """The images of the place of which one has the most matches."""
    return max(places_of(images), key=lambda p: max(len(i.keypoints) for i in p), default=[])


def places_of(images: Sequence[ImageMatches]) -> list[list[ImageMatches]]:
    """The images split into those that see common points, directly or through others of them.

    Images that see no point of the map belong to no place.
    """
    images = [image for image in images if len(image.seen)]
    if not images:
        return []
    number = len(images)
    image_of = np.repeat(np.arange(number), [len(image.seen) for image in images])
    points = np.concatenate([image.seen for image in images])
    by_point = np.argsort(points)
    points, image_of = points[by_point], image_of[by_point]
    links = (image_of[:-1] * number + image_of[1:])[points[:-1] == points[1:]]
    linked = np.bincount(links, minlength=number**2).reshape(number, number) > 0
    linked |= linked.T | np.eye(number, dtype=bool)
    labels = np.arange(number)
    while True:  # the lowest label goes from image to image until nothing changes
        lowered = np.where(linked, labels, number).min(axis=1)
        if (lowered == labels).all():
            break
        labels = lowered
    return [[images[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
