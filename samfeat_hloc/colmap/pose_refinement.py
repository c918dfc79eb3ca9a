"""A pose from all its inliers: Levenberg-Marquardt in a few products of matrices.

It minimises what `pycolmap.refine_absolute_pose` does, the sum of log(1 + e^2) over the inliers'
reprojection errors e in pixels (Cauchy's loss), in a fraction of the time: six unknowns need no
general solver.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import pycolmap
from .poses import Pose

_ITERATIONS = 50
_BEGIN = 1e-4  # of the diagonal, added to it
_STEP = 1e-6  # in normalised coordinates, for the derivatives of the camera's projection
_CONVERGED = 1e-6  # of the cost, by which the last step lowered it


def refined(pose: Pose, camera: Any, keypoints: np.ndarray, points: np.ndarray) -> Pose:
    """The pose, moved to where the loss of these correspondences is least.

    Args:
        pose: cam_from_world, with all points before the camera.
        camera: a `pycolmap.Camera`, of any model.
        keypoints: (K, 2) float64 pixels, the corner of the image at (0, 0).
        points: (K, 3) float64.
    """
    rotation, tvec, damping = pose.rotation, pose.tvec, _BEGIN
    inside = points @ rotation.T + tvec
    errors = _projected(camera, inside) - keypoints
    cost = _cost(errors)
    for _ in range(_ITERATIONS):
        normal, gradient = _normal_equations(camera, inside, errors)
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        turn = _turned(step[:3])
        moved = inside @ turn.T + step[3:]
        if (moved[:, 2] > 0).all():
            errors_there = _projected(camera, moved) - keypoints
            cost_there = _cost(errors_there)
            if cost_there < cost:
                rotation, tvec = turn @ rotation, turn @ tvec + step[3:]
                lowered = (cost - cost_there) / cost
                inside, errors, cost = moved, errors_there, cost_there
                damping /= 10
                if lowered < _CONVERGED and damping < _BEGIN:  # not a small step for its damping
                    break
                continue
        damping *= 10
        if damping > 1e6:
            break
    return Pose.from_matrix(rotation, tvec)


def _projected(camera: Any, inside: np.ndarray) -> np.ndarray:
    return np.asarray(camera.img_from_cam(inside))


def _cost(errors: np.ndarray) -> float:
    cost = float(np.log1p(np.einsum("ij,ij->i", errors, errors)).sum())
    return cost if np.isfinite(cost) else np.inf


def _normal_equations(
    camera: Any, inside: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The second and first derivatives of half the loss, (6, 6) and (6,), by a turn about the
    camera's centre and a shift after it.

    The loss bends less along an error than across it: the mean of both is taken. Beyond a pixel,
    where along it it bends the other way, a step that long would lead too far.
    """
    x, y, z = inside.T
    seen = np.stack([x / z, y / z, np.ones_like(z)], axis=1)
    by_x, by_y = (
        (_projected(camera, seen + step) - _projected(camera, seen - step)) / (2 * _STEP)
        for step in np.eye(3)[:2] * _STEP
    )
    squared = np.einsum("ij,ij->i", errors, errors)
    across = 1 / (1 + squared)
    along = np.where(squared < 1, (1 - squared) * across**2, across)
    bends = (across + along) / 2
    normal, gradient = np.zeros((6, 6)), np.zeros(6)
    for axis in (0, 1):
        of_x, of_y = by_x[:, axis] / z, by_y[:, axis] / z
        of_z = -(of_x * seen[:, 0] + of_y * seen[:, 1])
        rows = np.stack(
            [y * of_z - z * of_y, z * of_x - x * of_z, x * of_y - y * of_x, of_x, of_y, of_z],
        )
        normal += (rows * bends) @ rows.T
        gradient += rows @ (across * errors[:, axis])
    return normal, gradient


def _turned(vector: np.ndarray) -> np.ndarray:
    """The rotation matrix of an axis times an angle (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    axis = vector / angle
    return np.asarray(pycolmap.Rotation3d(axis * angle).matrix())
