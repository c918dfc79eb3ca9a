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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import SamfeatError
from . import provenance
from .dataset import Query
from .feature_readers import FeatureReader, MatchReader
from .localize import (
    Correspondences,
    correspondences,
    estimate_pose,
    map_hash,
    queries_hash,
    retrieved_images,
)
from .map_model import MapModel, read_map
from .pairs import shared_points
from .poses import Pose

logger = logging.getLogger(__name__)

MIN_INLIERS = 30  # a place with fewer contradicts nobody: COLMAP's least for a pose


@dataclass(frozen=True)
class SolvedPlace:
    """A place and the query's pose in it: its images, its 2D-3D matches, which of them are
    inliers, and how many the best image has."""

    images: list[str]
    matches: Correspondences
    pose: Pose
    inliers: np.ndarray
    most: int

    @property
    def score(self) -> float:
        """The best image's inliers times the share of inliers."""
        return self.most * float(self.inliers.mean())


def main(
    map_dir: Path,
    queries: Sequence[Query],
    pairs: Path,
    features: Path,
    matches: Path,
    output: Path,
    *,
    max_error: float = 12.0,
    overwrite: bool = False,
    workers: int = 2,
) -> Path:
    """Write the pairs without those of contradicting places; arguments as in `localize.main`.

    Args:
        pairs: list of "query database-image" in order of retrieval; the order stays.
        output: the pairs file to write.

    Raises:
        SamfeatError: a file is missing or damaged, or `output` was made differently.
    """
    made_by = provenance.made_by(
        "places",
        {"max_error": max_error, "min_inliers": MIN_INLIERS},
        {
            "map": map_hash(map_dir),
            "queries": queries_hash(queries),
            "pairs": provenance.file_hash(pairs),
            "features": provenance.file_hash(features),
            "matches": provenance.file_hash(matches),
        },
    )
    if provenance.is_made(output, made_by, overwrite=overwrite):
        logger.info("places: %s is there already, skipped", output)
        return output
    retrieved = retrieved_images(pairs, queries)
    map_model = read_map(map_dir)
    with FeatureReader(features) as feature_file, MatchReader(matches) as match_file:
        missing = feature_file.missing([query.name for query in queries])
        if missing:
            raise SamfeatError(f"{features}: no features of query {missing[0]}; extract them")

        def choose(query: Query) -> list[str]:
            return agreeing(
                map_model, query.name, query.camera.to_pycolmap(),
                feature_file.keypoints(query.name), retrieved[query.name], match_file,
                max_error=max_error,
            )  # fmt: skip

        with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
            kept = list(
                tqdm(pool.map(choose, queries), total=len(queries), desc="places", unit="query")
            )
    lines = [
        (query.name, name) for query, names in zip(queries, kept, strict=True) for name in names
    ]
    dropped = sum(map(len, retrieved.values())) - len(lines)
    changed = sum(len(k) < len(retrieved[q.name]) for q, k in zip(queries, kept, strict=True))
    logger.info("places: %d images of lookalike places left out, of %d queries", dropped, changed)
    return provenance.write_text(output, "".join(f"{a} {b}\n" for a, b in lines), made_by)


def agreeing(
    map_model: MapModel, name: str, camera: Any, keypoints: np.ndarray, retrieved: Sequence[str],
    matches: MatchReader, *, max_error: float = 12.0,
) -> list[str]:  # fmt: skip
    """The retrieved images without those of places that contradict the best one.

    A place contradicts where it has a pose of its own with at least `MIN_INLIERS` inliers, of
    which the best place's pose explains less than half.

    Args:
        name: the query; camera: its `pycolmap.Camera`; keypoints: (N, 2) float64 pixels, the corner
            of the image at (0, 0).
        retrieved: in the order of retrieval, which stays.
        max_error: of inliers, in pixels.
    """

    def num_inliers(pose: Pose, used: Correspondences) -> int:
        error = _reprojection(pose, camera, map_model.xyz[used.points], keypoints[used.keypoints])
        return int(np.count_nonzero(error <= max_error))

    places = places_of(map_model, retrieved)
    if len(places) < 2:
        return list(retrieved)
    solved = []
    for images in places:
        found = correspondences(map_model, name, images, matches)
        if len(found.keypoints) and found.keypoints.max() >= len(keypoints):
            raise SamfeatError(
                f"{matches.path}: {name} has matches of keypoints that its features do not have; "
                "match these features again"
            )
        estimate = estimate_pose(
            keypoints[found.keypoints], map_model.xyz[found.points], camera, max_error=max_error
        )
        if estimate is not None and estimate[1].sum() >= MIN_INLIERS:
            each = (correspondences(map_model, name, [image], matches) for image in images)
            most = max(num_inliers(estimate[0], of_image) for of_image in each)
            solved.append(SolvedPlace(images, found, *estimate, most))
    if len(solved) < 2:
        return list(retrieved)
    best = max(solved, key=lambda place: place.score)
    left_out: set[str] = set()
    for place in solved:
        own = Correspondences(
            place.matches.keypoints[place.inliers], place.matches.points[place.inliers], []
        )
        if 2 * num_inliers(best.pose, own) < len(own.keypoints):
            left_out.update(place.images)
    return [image for image in retrieved if image not in left_out]


def places_of(map_model: MapModel, names: Sequence[str]) -> list[list[str]]:
    """The images split into those that see common points, directly or through others of them.

    Images that are not in the map, or see no point of it, belong to no place.
    """
    known = [name for name in names if name in map_model.images]
    seen = [map_model.images[name].points for name in known]
    seen = [points[points >= 0] for points in seen]
    known = [name for name, points in zip(known, seen, strict=True) if len(points)]
    seen = [points for points in seen if len(points)]
    if not known:
        return []
    neighbours = [np.flatnonzero(common) for common in shared_points(seen)]
    place = np.full(len(known), -1)
    for start in range(len(known)):
        if place[start] >= 0:
            continue
        reached = [start]
        place[start] = start
        while reached:
            new = neighbours[reached.pop()]
            new = new[place[new] < 0]
            place[new] = start
            reached.extend(new.tolist())
    return [[known[i] for i in np.flatnonzero(place == p)] for p in np.unique(place)]


def _reprojection(pose: Pose, camera: Any, points: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Distances in pixels; infinite for points behind the camera."""
    inside = points @ pose.rotation.T + pose.tvec
    error = np.full(len(points), np.inf)
    front = inside[:, 2] > 0
    if front.any():
        projected = np.asarray(camera.img_from_cam(inside[front]))
        error[front] = np.linalg.norm(projected - keypoints[front], axis=1)
    return error
