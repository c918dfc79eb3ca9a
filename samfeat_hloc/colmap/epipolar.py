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
    rotation, t = cam1_from_cam0[:, :3], cam1_from_cam0[:, 3]
    norm = np.linalg.norm(t)
    if norm < 1e-12:
        return np.full(len(rays0), np.nan), np.full(len(rays1), np.nan)
    tx, ty, tz = t / norm
    essential = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]]) @ rotation
    points0 = np.column_stack([rays0, np.ones(len(rays0))])
    points1 = np.column_stack([rays1, np.ones(len(rays1))])
    lines1 = points0 @ essential.T
    lines0 = points1 @ essential
    residual = np.abs(np.einsum("ij,ij->i", points1, lines1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            residual / np.hypot(lines0[:, 0], lines0[:, 1]),
            residual / np.hypot(lines1[:, 0], lines1[:, 1]),
        )
