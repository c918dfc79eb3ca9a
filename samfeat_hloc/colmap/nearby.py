"""Which images stand near each other and look the same way, from their poses alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .poses import Pose

MOST_ANGLE = 30.0  # degrees between viewing directions, as in hloc


def nearest_views(
    poses: Mapping[str, Pose], count: int, most_angle: float = MOST_ANGLE
) -> dict[str, list[str]]:
    """For each image the others that are next to it, nearest first.

    Cameras turned about their viewing direction see the same, and count as alike.

    Args:
        poses: world to camera.
        count: at most so many others for each.
        most_angle: between viewing directions, in degrees; at it and above images are no pair.
    """
    names = list(poses)
    centres = np.array([pose.centre for pose in poses.values()]).reshape(-1, 3)
    axes = np.array([pose.rotation[2] for pose in poses.values()]).reshape(-1, 3)
    found: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        distance = np.linalg.norm(centres - centres[number], axis=1)
        alike = axes @ axes[number] > np.cos(np.deg2rad(most_angle))
        alike[number] = False
        rows = np.flatnonzero(alike)
        found[name] = [names[i] for i in rows[np.argsort(distance[rows], kind="stable")][:count]]
    return found
