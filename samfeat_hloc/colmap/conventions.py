"""Poses in another convention than world-to-camera with wxyz, noticed by where they stand.

Queries are taken where the database photos were. Where poses are much nearer to these when they
are read in another convention, they are rather in that one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .poses import Pose

_MANY = 500  # cameras are enough to tell


def odd_convention(poses: Mapping[str, Pose], database: Mapping[str, Pose], what: str) -> list[str]:
    """Sentences on poses that are rather of another convention or frame; none where all is well.

    Args:
        poses: to look at, world to camera.
        database: the database images' poses.
        what: what the poses are of, as "ground truth cameras".
    """
    if len(database) < 2 or not poses:
        return []
    some = list(poses.values())[:: max(1, len(poses) // _MANY)]
    centres = np.array([pose.centre for pose in database.values()])
    axes = np.array([pose.rotation[2] for pose in database.values()])
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    as_given = _median_distance(some, centres)
    others = {
        "camera-to-world; they have to be world-to-camera": [pose.inverse() for pose in some],
        "centres in place of translations; they have to be qw qx qy qz tx ty tz with t = -R c": [
            Pose(pose.qvec, -pose.rotation @ pose.tvec) for pose in some
        ],
        "written qx qy qz qw; they have to be qw qx qy qz tx ty tz": [
            Pose(np.roll(pose.qvec, 1), pose.tvec) for pose in some
        ],
    }
    distances = {read: _median_distance(found, centres) for read, found in others.items()}
    distance = min(distances.values())
    if as_given > 4 * distance and as_given > 3 * _spacing(centres):
        # The first two stand at the same places, and look elsewhere.
        alike = [read for read, far in distances.items() if far <= distance * (1 + 1e-6)]
        convention = min(alike, key=lambda read: _looking_away(others[read], centres, axes))
        return [
            f"{what} are {as_given:.3g} m from the nearest database photo (median), "
            f"but {distance:.3g} m if their poses are {convention}"
        ]
    if as_given > extent:
        return [
            f"{what} are {as_given:.3g} m from the nearest database photo (median), "
            f"and all database photos within {extent:.3g} m; are they in the model's frame?"
        ]
    away = _looking_away(some, centres, axes)
    if 2 * away <= len(some):
        return []
    return [
        f"{what} look away from what the database photos beside them show in {away} of "
        f"{len(some)} cases; are their rotations world-to-camera, with x to the right and y down?"
    ]


def _looking_away(poses: list[Pose], centres: np.ndarray, axes: np.ndarray) -> int:
    """How many look against all of the five database cameras next to them."""
    away = 0
    for pose in poses:
        nearest = np.argsort(np.linalg.norm(centres - pose.centre, axis=1))[:5]
        away += bool((axes[nearest] @ pose.rotation[2]).max() < 0)
    return away


def _median_distance(poses: list[Pose], centres: np.ndarray) -> float:
    """Median distance of a camera to the nearest of the centres."""
    return float(np.median([np.linalg.norm(centres - pose.centre, axis=1).min() for pose in poses]))


def _spacing(centres: np.ndarray) -> float:
    """Median distance of a camera centre to the next one."""
    some = centres[:: max(1, len(centres) // _MANY)]
    nearest = [np.partition(np.linalg.norm(centres - centre, axis=1), 1)[1] for centre in some]
    return float(np.median(nearest))
