"""Points on two walls seen by cameras in an arc: features whose matches and poses are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from samfeat_hloc.colmap.poses import Pose

WIDTH, HEIGHT, FOCAL = 640, 480, 560.0
_NOISE = 0.3  # pixels


@dataclass(frozen=True)
class Scene:
    """World points (P, 3), a descriptor (128,) for each, and cameras looking at them."""

    points: np.ndarray
    descriptors: np.ndarray
    poses: dict[str, Pose]


def build(names: list[str], num_points: int = 350) -> Scene:
    """A scene with a camera for each name, on an arc around two walls that meet at an edge."""
    random = np.random.default_rng(1)
    along = random.uniform(-3, 3, num_points)
    points = np.stack([along, random.uniform(-2, 2, num_points), np.abs(along) * 0.6], axis=1)
    descriptors = random.normal(size=(num_points, 128))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    poses = {}
    for i, name in enumerate(names):
        angle = np.deg2rad(-30 + 60 * i / max(len(names) - 1, 1))
        centre = np.array([9 * np.sin(angle), 0.4 * (i % 3 - 1), -9 * np.cos(angle)])
        turned = Pose(np.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0]), np.zeros(3))
        poses[name] = Pose(turned.qvec, -turned.rotation @ centre)
    return Scene(points, descriptors, poses)


def project(scene: Scene, pose: Pose) -> np.ndarray:
    """(P, 2) with the corner of the top-left pixel at (0, 0), as COLMAP has it."""
    camera = scene.points @ pose.rotation.T + pose.tvec
    return camera[:, :2] / camera[:, 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]


def write_images(scene: Scene, image_dir: Path) -> None:
    """Flat photos: only their sizes and EXIF data count."""
    for name in scene.poses:
        path = image_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(path)


def write_features(scene: Scene, path: Path, without: frozenset[str] = frozenset()) -> Path:
    """A feature file of hloc's format; images in ``without`` see noise only."""
    random = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        for name, pose in scene.poses.items():
            order = random.permutation(len(scene.points))
            xy = project(scene, pose)[order] + random.normal(scale=_NOISE, size=(len(order), 2))
            if name in without:
                xy = random.uniform([0, 0], [WIDTH, HEIGHT], xy.shape)
            seen = ((xy > 0) & (xy < [WIDTH, HEIGHT])).all(axis=1)
            group = file.create_group(name)
            group["keypoints"] = (xy[seen] - 0.5).astype(np.float32)
            group["keypoint_scores"] = np.ones(seen.sum(), np.float32)
            group["descriptors"] = scene.descriptors[order][seen].T.astype(np.float16)
            group["image_size"] = np.array([WIDTH, HEIGHT])
    return path
