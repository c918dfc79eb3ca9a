"""Lookalike places: of a query's retrieved images, those of the place where it was taken.

Two places may show the same facade, or the same building. Retrieval finds images of both, and the
pose from all matches goes to the place with more of them, which is often that with more images in
the database. Here the retrieved images are split into the places that the map knows (images that
see common points, directly or through others), each place is solved on its own, and images of
places that contradict the best one are left out. Where one place explains all, nothing changes.

The best place is the one with the largest product of two figures, neither of which grows with the
number of photos that the database has of it: the inliers of its best image, and the share of the
place's matches that are inliers. A place that shows what the query shows explains most of its
matches, one that only resembles it explains a part of many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.absolute_pose import estimate_pose
from ..colmap.poses import Pose
from ..datasets.queries import Query
from ..files import provenance
from ..files.outputs import Output
from ..files.pair_lists import pairs_text
from ..parallel.workers import Workers
from ..progress import tqdm
from .correspondences import (
    Correspondences,
    ImageMatches,
    check_keypoints,
    image_matches,
    merged,
)
from .inputs import LocalizationInputs

logger = logging.getLogger(__name__)

MIN_INLIERS = 30  # a place with fewer contradicts nobody: COLMAP's least for a pose


@dataclass(frozen=True, eq=False)
class SolvedPlace:
    """A place and the query's pose in it: its images, its 2D-3D matches, which of them are
    inliers, and how many the best image has."""

    images: list[ImageMatches]
    matches: Correspondences
    pose: Pose
    inliers: np.ndarray
    most: int

    @property
    def score(self) -> float:
        """The best image's inliers times the share of inliers."""
        return self.most * float(self.inliers.mean())


@dataclass(frozen=True, eq=False)
class Agreement:
    """The retrieved images that are kept, and the pose from their matches where it was found on
    the way: with its inliers as `absolute_pose.estimate_pose` gives it."""

    images: list[ImageMatches]
    solved: tuple[Pose, np.ndarray] | None = None


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
        {"max_error": max_error, "min_inliers": MIN_INLIERS},
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
            for image in images:
                check_keypoints(
                    query.name, image.keypoints, len(keypoints), files.features, files.matches
                )
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
    logger.info("places: %d images of lookalike places left out, of %d queries", dropped, changed)
    return result.write_text(pairs_text(lines))


def agreeing(
    images: Sequence[ImageMatches], xyz: np.ndarray, camera: Any, keypoints: np.ndarray, *,
    max_error: float = 12.0,
) -> Agreement:  # fmt: skip
    """The retrieved images without those of places that contradict the best one.

    A place contradicts where it has a pose of its own with at least `MIN_INLIERS` inliers, of
    which the best place's pose explains less than half.

    Args:
        images: in the order of retrieval, which stays, with the query's matches.
        xyz: (P, 3) float64, the map's points.
        camera: the query's `pycolmap.Camera`.
        keypoints: (N, 2) float64 pixels of the query, the corner of the image at (0, 0).
        max_error: of inliers, in pixels.
    """

    def num_inliers(pose: Pose, matched: np.ndarray, points: np.ndarray) -> int:
        error = _reprojection(pose, camera, xyz[points], keypoints[matched])
        return int(np.count_nonzero(error <= max_error))

    places = places_of(images)
    if len(places) < 2:
        return Agreement(list(images))
    solved = []
    for members in places:
        found = merged(members)
        if len(found.keypoints) < MIN_INLIERS:
            continue
        estimate = estimate_pose(
            keypoints[found.keypoints], xyz[found.points], camera, max_error=max_error
        )
        if estimate is not None and estimate[1].sum() >= MIN_INLIERS:
            each = (merged([image]) for image in members)
            most = max(num_inliers(estimate[0], one.keypoints, one.points) for one in each)
            solved.append(SolvedPlace(members, found, *estimate, most))
    left_out: set[str] = set()
    if len(solved) > 1:
        best = max(solved, key=lambda place: place.score)
        for place in solved:
            matched = place.matches.keypoints[place.inliers]
            own = num_inliers(best.pose, matched, place.matches.points[place.inliers])
            if 2 * own < len(matched):
                left_out.update(image.name for image in place.images)
    kept = [image for image in images if image.name not in left_out]
    matched_images = [image for image in kept if len(image.keypoints)]
    for place in solved:
        if matched_images == [image for image in place.images if len(image.keypoints)]:
            return Agreement(kept, (place.pose, place.inliers))
    return Agreement(kept)


def places_of(images: Sequence[ImageMatches]) -> list[list[ImageMatches]]:
    """The images split into those that see common points, directly or through others of them.

    Images that see no point of the map belong to no place.
    """
    images = [image for image in images if len(image.seen)]
    if not images:
        return []
    # the lowest label goes from image to point to image until nothing changes
    lengths = [len(image.seen) for image in images]
    image_of = np.repeat(np.arange(len(images)), lengths)
    points, point_of = np.unique(
        np.concatenate([image.seen for image in images]), return_inverse=True
    )
    by_point = np.argsort(point_of, kind="stable")
    first_of_point = np.searchsorted(point_of[by_point], np.arange(len(points)))
    first_of_image = np.cumsum([0, *lengths[:-1]])
    labels = np.arange(len(images))
    while True:
        of_point = np.minimum.reduceat(labels[image_of[by_point]], first_of_point)
        lowered = np.minimum.reduceat(of_point[point_of], first_of_image)
        if (lowered == labels).all():
            break
        labels = lowered
    return [[images[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]


def _reprojection(pose: Pose, camera: Any, points: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Distances in pixels; infinite for points behind the camera."""
    inside = points @ pose.rotation.T + pose.tvec
    error = np.full(len(points), np.inf)
    front = inside[:, 2] > 0
    if front.any():
        projected = np.asarray(camera.img_from_cam(inside[front]))
        error[front] = np.linalg.norm(projected - keypoints[front], axis=1)
    return error
