"""A pose from all its inliers: Levenberg-Marquardt in a few products of matrices.

It minimises the sum of log(1 + (e / s)^2) over the inliers' reprojection errors e (Cauchy's loss),
as `pycolmap.refine_absolute_pose` does, in a fraction of the time: six unknowns need no general
solver. Matches without a point count a quarter of that, by their distances from their lines.

COLMAP's scale s is a pixel. But errors are larger in one photo than in another, by the feature, by
the size at which the photo was read and by its light; where most inliers are within a third of a
pixel, one that is a pixel off is wrong and should count as such. :func:`error_scale` measures s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .library import pycolmap
from .pointless_matches import PointlessMatches, SeenLines
from .poses import Pose

_ITERATIONS = 50
_NOTHING = 1e-6  # of the loss: all fit but for rounding
_BEGIN = 1e-4  # of the diagonal, added to it
_STEP = 1e-6  # in normalised coordinates, for the derivatives of the camera's projection
_OF_POINTLESS = 0.25  # of the loss: more of them than of those with a point are wrong
_SHARE = 1 / 3  # of the inliers' median error: half as much and twice as much serve as well
_LEAST_SCALE = 0.1  # pixels: no keypoints are more exact, but a few inliers fit any pose
CONVERGED = 2e-6  # share of the loss by which one more step would lower it
ROUGHLY = 1e-4  # likewise; the pose is then within a third of its own deviation


class View(NamedTuple):
    """What one camera says of the pose.

    camera: a `pycolmap.Camera`, of any model. keypoints: (K, 2) float64 pixels, the corner of the
    image at (0, 0). points: (K, 3) float64, what they show. pointless: further matches; None for
    none. cam_from_rig: where the pose is a rig's; None where it is this camera's.
    """

    camera: Any
    keypoints: np.ndarray
    points: np.ndarray
    pointless: PointlessMatches | None = None
    cam_from_rig: Pose | None = None

    def posed(self, rotation: np.ndarray, tvec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The camera's own pose, from the rig's."""
        if self.cam_from_rig is None:
            return rotation, tvec
        turn = self.cam_from_rig.rotation
        return turn @ rotation, turn @ tvec + self.cam_from_rig.tvec


def refined(
    pose: Pose, views: Sequence[View], scale: float = 1.0, converged: float = CONVERGED
) -> Pose:
    """The pose, moved to where the loss of these views is least.

    Args:
        pose: cam_from_world, or rig_from_world; returned where a point is behind its camera.
        views: one of a camera, several of a rig.
        scale: of the errors, in pixels.
        converged: share of the loss; a step that would not lower it by more is not taken.
    """
    rotation, tvec, damping = pose.rotation, pose.tvec, _BEGIN
    cost, looks = _looks(views, rotation, tvec, scale)
    if not looks:
        return pose
    # The steps are so short that a lens bends what is seen there no other way.
    bends = [
        _of_rays(view.camera, look.inside) / scale for view, look in zip(views, looks, strict=True)
    ]
    for _ in range(_ITERATIONS):
        normal, gradient = np.zeros((6, 6)), np.zeros(6)
        for view, look, of_rays in zip(views, looks, bends, strict=True):
            of_view = _normal_equations(view, look, of_rays, scale)
            normal += of_view[0]
            gradient += of_view[1]
        try:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        except np.linalg.LinAlgError:  # they leave a direction free
            break
        if damping <= _BEGIN and -(gradient @ step) < converged * max(cost, _NOTHING):
            break
        turn = _turned(step[:3])
        there = turn @ rotation, turn @ tvec + step[3:]
        cost_there, looks_there = _looks(views, *there, scale)
        if cost_there < cost:
            (rotation, tvec), cost, looks = there, cost_there, looks_there
            damping /= 10
        else:
            damping *= 10
            if damping > 1e6:
                break
    return Pose.from_matrix(rotation, tvec)


def error_scale(pose: Pose, views: Sequence[View]) -> float:
    """Of inliers' errors, in pixels; arguments as those of :func:`refined`. A pixel where a point
    is behind its camera."""
    _, looks = _looks(views, pose.rotation, pose.tvec, 1.0)
    if not looks:
        return 1.0
    errors = np.concatenate([look.errors for look in looks])
    return max(_SHARE * middle(np.hypot(*errors.T)), _LEAST_SCALE)


def middle(values: np.ndarray) -> float:
    """The larger of the one or two in the middle; `np.median` takes ten times as long."""
    half = len(values) // 2
    return float(np.partition(values, half)[half])


class _Look(NamedTuple):
    """From a pose: the points in the camera (K, 3), their errors (K, 2) in scales, and the lines
    of the matches without a point."""

    inside: np.ndarray
    errors: np.ndarray
    lines: SeenLines | None


def _looks(
    views: Sequence[View], rotation: np.ndarray, tvec: np.ndarray, scale: float
) -> tuple[float, list[_Look]]:
    """The loss of the views, and what they show; infinite and nothing where a point is behind its
    camera."""
    cost, looks = 0.0, []
    for view in views:
        turn, shift = view.posed(rotation, tvec)
        inside = view.points @ turn.T + shift
        if not (inside[:, 2] > 0).all():
            return np.inf, []
        errors = (_projected(view.camera, inside) - view.keypoints) / scale
        cost += float(np.log1p(np.einsum("ij,ij->i", errors, errors)).sum())
        lines = None if view.pointless is None else view.pointless.seen(turn, shift)
        if lines is not None:
            cost += _OF_POINTLESS * float(np.log1p((lines.errors() / scale) ** 2).sum())
        looks.append(_Look(inside, errors, lines))
    return (cost, looks) if np.isfinite(cost) else (np.inf, [])


def _projected(camera: Any, inside: np.ndarray) -> np.ndarray:
    if not len(inside):
        return np.zeros((0, 2))
    return np.asarray(camera.img_from_cam(inside)).reshape(-1, 2)


def _of_rays(camera: Any, inside: np.ndarray) -> np.ndarray:
    """Derivatives of keypoints, u and v, by x / z and y / z of points (K, 3): (2, 2, K) pixels."""
    seen = inside / inside[:, 2:]
    steps = np.array([[_STEP, 0, 0], [-_STEP, 0, 0], [0, _STEP, 0], [0, -_STEP, 0]])
    there = _projected(camera, (seen + steps[:, None]).reshape(-1, 3)).reshape(4, len(seen), 2)
    return np.ascontiguousarray((there[::2] - there[1::2]).swapaxes(1, 2)) / (2 * _STEP)


def _normal_equations(
    view: View, look: _Look, of_rays: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The second and first derivatives of half a view's loss, (6, 6) and (6,), by a turn of the
    pose about its origin and a shift after it.

    The loss bends less along an error than across it: the mean of both is taken. Beyond the scale,
    where along it it bends the other way, half of what it bends across it stands for that: with
    nothing a step would lead too far, with all of it not far enough.

    Args:
        of_rays: (2, 2, K), see :func:`_of_rays`, in scales.
    """
    x, y, z = look.inside.T
    of_x, of_y = of_rays / z
    of_z = -(of_x * x + of_y * y) / z
    rows = np.stack(
        [y * of_z - z * of_y, z * of_x - x * of_z, x * of_y - y * of_x, of_x, of_y, of_z]
    ).reshape(6, -1)
    squared = np.einsum("ij,ij->i", look.errors, look.errors)
    across = 1 / (1 + squared)
    along = np.where(squared < 1, (1 - squared) * across**2, across / 2)
    normal = (rows * np.tile((across + along) / 2, 2)) @ rows.T
    gradient = rows @ (across * look.errors.T).ravel()
    if look.lines is not None:
        apart, of_lines = look.lines.errors() / scale, look.lines.derivatives()
        across = 1 / (1 + apart**2)
        bends = np.maximum(1 - apart**2, 0) * across**2  # the other way beyond the scale
        normal += _OF_POINTLESS / scale**2 * (of_lines * bends) @ of_lines.T
        gradient += _OF_POINTLESS / scale * of_lines @ (across * apart)
    if view.cam_from_rig is None:
        return normal, gradient
    # A turn of the rig about its origin turns the camera, and moves it by its place in the rig.
    turn, (x, y, z) = view.cam_from_rig.rotation, view.cam_from_rig.tvec
    moved = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    of_rig = np.block([[turn, np.zeros((3, 3))], [moved, turn]])
    return of_rig.T @ normal @ of_rig, of_rig.T @ gradient


def _turned(vector: np.ndarray) -> np.ndarray:
    """The rotation matrix of an axis times an angle (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    axis = vector / angle
    return np.asarray(pycolmap.Rotation3d(axis * angle).matrix())
