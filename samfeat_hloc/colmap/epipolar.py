"""Distances of matches to the epipolar lines of known poses."""

from __future__ import annotations

import numpy as np


def epipolar_errors(
    cam1_from_cam0: np.ndarray, rays0: np.ndarray, rays1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of matched points to the epipolar lines of their partners, in both images.

    Args:
        cam1_from_cam0: (3, 4) rotation and translation.
        rays0, rays1: (K, 2) matched points on the plane z = 1 of their cameras.

    Returns:
        Two (K,) arrays in units of that plane. A relative pose without translation has no
        epipolar geometry: the errors are then NaN.
    """
    return line_distances(essential_matrix(cam1_from_cam0), rays0, rays1)


def essential_matrix(cam1_from_cam0: np.ndarray) -> np.ndarray:
    """(3, 3) E with ``x1^T E x0 = 0`` for rays of one point, of a (3, 4) relative pose whose
    translation counts as 1; NaN where there is no translation."""
    rotation, t = cam1_from_cam0[:, :3], cam1_from_cam0[:, 3]
    norm = np.linalg.norm(t)
    if norm < 1e-12:
        return np.full((3, 3), np.nan)
    tx, ty, tz = t / norm
    return np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]]) @ rotation


def line_distances(
    matrix: np.ndarray, xy0: np.ndarray, xy1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of matched points (K, 2) to each other's epipolar lines, in images 0 and 1.

    Args:
        matrix: (3, 3), essential or fundamental, with ``x1^T M x0 = 0``.
    """
    points0 = np.column_stack([xy0, np.ones(len(xy0))])
    points1 = np.column_stack([xy1, np.ones(len(xy1))])
    lines1 = points0 @ matrix.T
    lines0 = points1 @ matrix
    residual = np.abs(np.einsum("ij,ij->i", points1, lines1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            residual / np.hypot(lines0[:, 0], lines0[:, 1]),
            residual / np.hypot(lines1[:, 0], lines1[:, 1]),
        )
