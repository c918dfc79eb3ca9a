"""A pose from all its inliers: Levenberg-Marquardt in a few products of matrices.

It minimises the sum of log(1 + (e / s)^2) over the inliers' reprojection errors e (Cauchy's loss),
as `pycolmap.refine_absolute_pose` does, in a fraction of the time: six unknowns need no general
solver. Matches without a point count a quarter of that, by their distances from their lines.

COLMAP's scale s is a pixel. What a pixel means differs from photo to photo, by the feature, the size
at which it was found and the light; and where most inliers are within a third of a pixel, one that
is a pixel off is a wrong one and should count as such. :func:`error_scale` measures s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import pycolmap
from .pointless_matches import PointlessMatches
from .poses import Pose

_ITERATIONS = 50
_NOTHING = 1e-6  # of the loss: all fit but for rounding
_BEGIN = 1e-4  # of the diagonal, added to it
_STEP = 1e-6  # in normalised coordinates, for the derivatives of the camera's projection
_OF_POINTLESS = 0.25  # of the loss: more of them than of those with a point are wrong
_SHARE = 1 / 3  # of the inliers' median error: half as much and twice as much serve as well
_LEAST_SCALE = 0.1  # pixels: no keypoints are more exact, but a few inliers fit any pose
CONVERGED = 3e-7  # share of the loss by which one more step would lower it
ROUGHLY = 1e-4  # likewise; the pose is then within a third of its own deviation


def refined(
    pose: Pose, camera: Any, keypoints: np.ndarray, points: np.ndarray,
    pointless: PointlessMatches | None = None, scale: float = 1.0, converged: float = CONVERGED,
) -> Pose:  # fmt: skip
    """The pose, moved to where the loss of these correspondences is least.

    Args:
        pose: cam_from_world, with all points before the camera.
        camera: a `pycolmap.Camera`, of any model.
        keypoints: (K, 2) float64 pixels, the corner of the image at (0, 0).
        points: (K, 3) float64.
        pointless: further matches; None for none.
        scale: of the errors, in pixels.
        converged: share of the loss; a step that would not lower it by more is not taken.
    """
    rotation, tvec, damping = pose.rotation, pose.tvec, _BEGIN

    def cost_of(errors: np.ndarray, rotation: np.ndarray, tvec: np.ndarray) -> float:
        of_lines = 0.0
        if pointless is not None:
            apart = pointless.errors(rotation, tvec) / scale
            of_lines = float(np.log1p(apart**2).sum())
        return _cost(errors) + _OF_POINTLESS * of_lines

    inside = points @ rotation.T + tvec
    errors = (_projected(camera, inside) - keypoints) / scale
    cost = cost_of(errors, rotation, tvec)
    for _ in range(_ITERATIONS):
        normal, gradient = _normal_equations(camera, inside, errors, scale)
        if pointless is not None:
            apart, rows = (values / scale for values in pointless.derivatives(rotation, tvec))
            across = 1 / (1 + apart**2)
            bends = np.maximum(1 - apart**2, 0) * across**2  # the other way beyond the scale
            normal += _OF_POINTLESS * (rows * bends) @ rows.T
            gradient += _OF_POINTLESS * rows @ (across * apart)
        try:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        except np.linalg.LinAlgError:  # they leave a direction free
            break
        if damping <= _BEGIN and -(gradient @ step) < converged * max(cost, _NOTHING):
            break
        turn = _turned(step[:3])
        moved = inside @ turn.T + step[3:]
        if (moved[:, 2] > 0).all():
            errors_there = (_projected(camera, moved) - keypoints) / scale
            rotation_there, tvec_there = turn @ rotation, turn @ tvec + step[3:]
            cost_there = cost_of(errors_there, rotation_there, tvec_there)
            if cost_there < cost:
                rotation, tvec = rotation_there, tvec_there
                inside, errors, cost = moved, errors_there, cost_there
                damping /= 10
                continue
        damping *= 10
        if damping > 1e6:
            break
    return Pose.from_matrix(rotation, tvec)


def error_scale(pose: Pose, camera: Any, keypoints: np.ndarray, points: np.ndarray) -> float:
    """Of inliers' errors, in pixels; arguments as those of :func:`refined`, none of them empty."""
    errors = _projected(camera, points @ pose.rotation.T + pose.tvec) - keypoints
    return max(_SHARE * middle(np.hypot(*errors.T)), _LEAST_SCALE)


def middle(values: np.ndarray) -> float:
    """The larger of the one or two in the middle; `np.median` takes ten times as long."""
    half = len(values) // 2
    return float(np.partition(values, half)[half])


def _projected(camera: Any, inside: np.ndarray) -> np.ndarray:
    return np.asarray(camera.img_from_cam(inside))


def _cost(errors: np.ndarray) -> float:
    cost = float(np.log1p(np.einsum("ij,ij->i", errors, errors)).sum())
    return cost if np.isfinite(cost) else np.inf


def _normal_equations(
    camera: Any, inside: np.ndarray, errors: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The second and first derivatives of half the loss, (6, 6) and (6,), by a turn about the
    camera's centre and a shift after it.

    The loss bends less along an error than across it: the mean of both is taken. Beyond the scale,
    where along it it bends the other way, a step that long would lead too far.
    """
    z = inside[:, 2]
    seen = inside / z[:, None]
    steps = np.array([[_STEP, 0, 0], [-_STEP, 0, 0], [0, _STEP, 0], [0, -_STEP, 0]])
    there = _projected(camera, (seen + steps[:, None]).reshape(-1, 3)).reshape(4, len(seen), 2)
    of_x, of_y = (there[::2] - there[1::2]).swapaxes(1, 2) / (2 * _STEP * scale) / z  # (2, K) each
    x, y, _ = inside.T
    of_z = -(of_x * seen[:, 0] + of_y * seen[:, 1])
    rows = np.stack(
        [y * of_z - z * of_y, z * of_x - x * of_z, x * of_y - y * of_x, of_x, of_y, of_z]
    )
    squared = np.einsum("ij,ij->i", errors, errors)
    across = 1 / (1 + squared)
    along = np.where(squared < 1, (1 - squared) * across**2, across)
    normal = (rows * ((across + along) / 2)).reshape(6, -1) @ rows.reshape(6, -1).T
    return normal, rows.reshape(6, -1) @ (across * errors.T).ravel()


def _turned(vector: np.ndarray) -> np.ndarray:
    """The rotation matrix of an axis times an angle (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    axis = vector / angle
    return np.asarray(pycolmap.Rotation3d(axis * angle).matrix())
