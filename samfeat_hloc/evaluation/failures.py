"""Why a query was localized wrongly, as far as its log, the map and its true pose can tell.

The stages of localization fail one after the other, so the first that failed is the reason: no
retrieved image sees what the query sees; too few matches lead to points of the map; too few of
these agree on a pose; many agree, but on a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.model import Model, is_model, read_model
from ..colmap.poses import Pose
from ..datasets.dataset import LONG_TERM, Dataset
from ..localization.result import LocalizationResult, QueryResult, log_path, read_result
from ..progress import tqdm
from .localization import position_error, rotation_error, within

MIN_CORRESPONDENCES = 30  # hloc users take a pose from fewer with caution
MIN_INLIERS = 20
_SAMPLED_POINTS = 200  # of a database image; enough for the share of them that is in view
_MIN_SHARE = 0.1
_MIN_POINTS = 5
_MAX_ANGLE = math.radians(60)  # a surface seen from farther round looks different, or is hidden


class Reason(str, Enum):
    """What went wrong, by the stage that did."""

    RETRIEVAL = "no image of the right place"
    FEW_MATCHES = "few matches"
    FEW_INLIERS = "few inliers"
    WRONG_PLACE = "wrong although many inliers"
    INACCURATE = "inaccurate"
    NO_POSE = "no pose given"


@dataclass(frozen=True)
class RetrievedImage:
    """A database image retrieved for a query.

    name: of the image.
    num_matches: its matches with points of the map.
    distance: metres from the query's true position; None when that is not known.
    sees_the_same: whether it shows part of what the query sees; None when not known.
    """

    name: str
    num_matches: int
    distance: float | None
    sees_the_same: bool | None


@dataclass(frozen=True)
class Diagnosis:
    """How a query went.

    name, condition: of the query.
    error: metres and degrees; None without a true pose.
    failed: whether the error is above the limit, or, without a true pose, whether no pose was
        found.
    reason, text: of a failure, the text in a sentence with its figures; None and empty otherwise.
    retrieved: in the order of retrieval.
    """

    name: str
    condition: str
    error: tuple[float, float] | None
    failed: bool
    reason: Reason | None
    text: str
    retrieved: list[RetrievedImage]

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the list of retrieved images."""
        return {
            "query": self.name,
            "condition": self.condition,
            "metres": None if self.error is None else self.error[0],
            "degrees": None if self.error is None else self.error[1],
            "reason": None if self.reason is None else self.reason.value,
            "explanation": self.text,
        }


def diagnose(
    query: QueryResult,
    map_model: Model,
    truth: Pose | None = None,
    camera: Camera | None = None,
    limit: tuple[float, float] = LONG_TERM[0],
) -> Diagnosis:
    """Say whether a query failed, and why.

    Args:
        query: its log.
        map_model: the map that it was localized in.
        truth: true pose, cam_from_world.
        camera: intrinsics; without them no view can be compared.
        limit: metres and degrees above which a query has failed, both included in success.
    """
    retrieved = _retrieved(query, map_model, truth, camera)
    error = None
    if truth is not None:
        error = position_error(query.pose, truth), rotation_error(query.pose, truth)
        failed = not within(error, limit)
    else:
        failed = not query.localized
    reason, text = _reason(query, retrieved, error) if failed else (None, "")
    return Diagnosis(query.name, query.condition, error, failed, reason, text, retrieved)


def diagnose_all(
    result: LocalizationResult, map_model: Model, dataset: Dataset | None
) -> list[Diagnosis]:
    """`diagnose` for all queries, with the true poses and cameras of the dataset."""
    truth: Mapping[str, Pose] = (dataset.ground_truth if dataset else None) or {}
    cameras = {query.name: query.camera for query in dataset.queries} if dataset else {}
    return [
        diagnose(query, map_model, truth.get(name), cameras.get(name))
        for name, query in tqdm(
            result.queries.items(), desc="diagnose", unit="query", delay=2, leave=False
        )
    ]


def without_pose(names: Sequence[str], dataset: Dataset) -> list[Diagnosis]:
    """Diagnoses of queries that the poses do not have: each has failed."""
    conditions = {query.name: query.condition for query in dataset.queries}
    return [
        Diagnosis(
            name,
            conditions[name],
            None,
            True,
            Reason.NO_POSE,
            "the poses file does not have it",
            [],
        )
        for name in names
    ]


def read_run(poses: Path, map_dir: Path | None = None) -> tuple[LocalizationResult, Model] | None:
    """The log and the map that belong to a poses file, or None where they are not beside it.

    Raises:
        SamfeatError: they are there but damaged.
    """
    map_dir = map_dir or poses.parent / "map"
    if not log_path(poses).is_file() or not is_model(map_dir):
        return None
    return read_result(poses), read_model(map_dir)


def failures_table(diagnoses: Sequence[Diagnosis]) -> str:
    """One line for each failed query: condition, name, error and why; and the count by reason."""
    failed = [found for found in diagnoses if found.failed]
    if not failed:
        return "no failed query"
    counts = {reason: sum(found.reason is reason for found in failed) for reason in Reason}
    summary = ", ".join(f"{count} {reason.value}" for reason, count in counts.items() if count)
    width = max(len(found.name) for found in failed)
    lines = [f"{len(failed)} of {len(diagnoses)} queries failed: {summary}"]
    for found in sorted(failed, key=lambda found: (found.condition, found.name)):
        error = "" if found.error is None else f"{found.error[0]:9.2f} m {found.error[1]:7.2f}°  "
        lines.append(f"  {found.name:<{width}}  {error}{found.text}")
    return "\n".join(lines)


def share_in_view(name: str, map_model: Model, pose: Pose, camera: Camera) -> tuple[float, int]:
    """How much of what a database image sees is also seen from a pose.

    Args:
        name: the database image.
        pose, camera: of the other view.

    Returns:
        Share (0 to 1) of its points that lie in that view and are seen from a direction less
        than 60 degrees apart, and the number of points looked at. What stands in between is not
        looked for.
    """
    image = map_model.images[name]
    rows = image.points[image.points >= 0]
    if not len(rows):
        return 0.0, 0
    if len(rows) > _SAMPLED_POINTS:
        rows = rows[np.linspace(0, len(rows) - 1, _SAMPLED_POINTS).astype(int)]
    points = map_model.xyz[rows]
    in_camera = points @ pose.rotation.T + pose.tvec
    seen = in_camera[:, 2] > 1e-6
    pixels = np.full((len(points), 2), np.nan)
    if seen.any():
        pixels[seen] = np.asarray(camera.to_pycolmap().img_from_cam(in_camera[seen]), dtype=float)
    with np.errstate(invalid="ignore"):
        seen &= (pixels >= 0).all(axis=1) & (pixels <= (camera.width, camera.height)).all(axis=1)
    here, there = points - pose.centre, points - image.pose.centre
    norms = np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1)
    cosine = np.einsum("ij,ij->i", here, there) / np.maximum(norms, 1e-12)
    return float((seen & (cosine > math.cos(_MAX_ANGLE))).mean()), len(rows)


def _retrieved(
    query: QueryResult, map_model: Model, truth: Pose | None, camera: Camera | None
) -> list[RetrievedImage]:
    found = []
    for name, num_matches in query.retrieved:
        distance, sees = None, None
        if truth is not None and name in map_model.images:
            distance = position_error(map_model.images[name].pose, truth)
            if camera is not None:
                share, looked_at = share_in_view(name, map_model, truth, camera)
                sees = share >= _MIN_SHARE and share * looked_at >= _MIN_POINTS
        found.append(RetrievedImage(name, num_matches, distance, sees))
    return found


def _reason(
    query: QueryResult, retrieved: Sequence[RetrievedImage], error: tuple[float, float] | None
) -> tuple[Reason, str]:
    views = [image.sees_the_same for image in retrieved]
    distances = [image.distance for image in retrieved if image.distance is not None]
    if None not in views and not any(views):
        nearest = f"; the nearest was taken {min(distances):.1f} m away" if distances else ""
        return Reason.RETRIEVAL, (
            f"{Reason.RETRIEVAL.value}: none of the {len(retrieved)} images used shows what the "
            f"query sees{nearest}; retrieval missed it, or it was left out for a lookalike place"
        )
    inliers = f"{query.num_inliers} inliers of {query.num_correspondences} matches"
    if query.frame is not None:
        inliers += f" ({query.frame.num_agreeing} inliers in all {len(query.frame.queries)} "
        inliers += "photos of its frame)"
    if query.num_correspondences < MIN_CORRESPONDENCES:
        return Reason.FEW_MATCHES, (
            f"{Reason.FEW_MATCHES.value}: {query.num_correspondences} with points of the map, "
            f"of {query.num_keypoints} keypoints"
        )
    if (query.num_inliers if query.frame is None else query.frame.num_agreeing) < MIN_INLIERS:
        return Reason.FEW_INLIERS, f"{Reason.FEW_INLIERS.value}: {inliers}"
    if error is not None and not within(error, LONG_TERM[-1]):
        return Reason.WRONG_PLACE, (
            f"{Reason.WRONG_PLACE.value}: {inliers}; a place that looks alike, or a wrong true "
            "pose or focal length"
        )
    return Reason.INACCURATE, f"{Reason.INACCURATE.value}: the right place, {inliers}"
