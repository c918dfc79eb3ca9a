"""A feature file of random keypoints, on which matching is timed: it needs no photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np


def write_random_features(
    path: Path, names: Sequence[str], num_keypoints: int, dimension: int
) -> None:
    """Write a file in hloc's layout, the same each time.

    Every image sees a random half of the same ``2 * num_keypoints`` descriptors, each with noise of
    its own, of unit length. Keypoints lie anywhere in (0, 1000), which no match depends on.
    """
    random = np.random.default_rng(0)
    scene = random.normal(size=(2 * num_keypoints, dimension)).astype(np.float32)
    with h5py.File(path, "w") as file:
        for name in names:
            looks = scene[random.permutation(len(scene))[:num_keypoints]]
            looks = looks + random.normal(scale=0.4, size=looks.shape).astype(np.float32)
            looks /= np.linalg.norm(looks, axis=1, keepdims=True)
            group = file.create_group(name)
            group["descriptors"] = looks.T.astype(np.float16)
            group["keypoints"] = random.uniform(0, 1000, (num_keypoints, 2)).astype(np.float32)
            group["image_size"] = np.array([1024, 768])
