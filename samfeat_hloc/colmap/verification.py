"""Geometric verification of a map's matches against the poses that it is to have.

It is done in batches of pairs, which can be kept until the map is there: a mapping that was killed
goes on after the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import Group, SegmentWriter
from .epipolar import epipolar_errors

PAIRS_A_BATCH = 256
_CACHED_IMAGES = 512  # keypoints of so many images are kept while their pairs are verified


class Verifier:
    """Matches of single pairs that agree with the epipolar geometry of known poses."""

    def __init__(self, reference: Any, features: FeatureReader, matches: MatchReader) -> None:
        """
        Arguments:
            reference: a `pycolmap.Reconstruction` with poses and cameras.
        """
        self._images = {image.name: image for image in reference.images.values() if image.has_pose}
        self._poses = {name: image.cam_from_world() for name, image in self._images.items()}
        self._cameras = reference.cameras
        self._features, self._matches = features, matches
        self._limits: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._rays = lru_cache(maxsize=_CACHED_IMAGES)(self._read_rays)

    def add_image(self, name: str, num_keypoints: int, max_error: float) -> None:
        """An image whose pairs are to be verified; `max_error`: of its matches, in pixels."""
        camera = self._cameras[self._images[name].camera_id]
        self._sizes[name] = num_keypoints
        self._limits[name] = camera.cam_from_img_threshold(max_error)

    def inliers(self, name0: str, name1: str) -> tuple[np.ndarray, int]:
        """A pair's matches that agree with the poses, (K, 2) uint32, and how many it has in all.

        Raises:
            SamfeatError: the matches are of other keypoints than the images have.
        """
        counts = self._sizes[name0], self._sizes[name1]
        pair = self._matches.matches(name0, name1, counts)
        if not len(pair):
            return np.zeros((0, 2), dtype=np.uint32), 0
        errors0, errors1 = epipolar_errors(
            (self._poses[name1] * self._poses[name0].inverse()).matrix(),
            self._rays(name0)[pair[:, 0]],
            self._rays(name1)[pair[:, 1]],
        )
        agree = (errors0 <= self._limits[name0]) & (errors1 <= self._limits[name1])
        return pair[agree].astype(np.uint32), len(pair)

    def _read_rays(self, name: str) -> np.ndarray:
        keypoints = self._features.keypoints(name)
        if not len(keypoints):
            return np.zeros((0, 2))
        camera = self._cameras[self._images[name].camera_id]
        return np.asarray(camera.cam_from_img(keypoints), dtype=float)


def verified(
    verifier: Verifier, pairs: Sequence[tuple[str, str]], kept: SegmentWriter | None = None
) -> Iterator[tuple[tuple[str, str], np.ndarray, int]]:
    """Every pair in order, with `Verifier.inliers` of it.

    Args:
        kept: where finished batches go, and come from after a kill.
    """
    for start in range(0, len(pairs), PAIRS_A_BATCH):
        batch = pairs[start : start + PAIRS_A_BATCH]
        name = f"{start}-{start + len(batch)}"
        if kept is not None and name in kept.done:
            arrays = kept.read(name)
            counts, inliers = arrays["counts"], arrays["inliers"]
        else:
            found = [verifier.inliers(*pair) for pair in batch]
            counts = np.array([(total, len(agree)) for agree, total in found], dtype=np.int64)
            inliers = np.concatenate([agree for agree, _ in found])
            if kept is not None:
                kept.add({name: Group({"counts": counts, "inliers": inliers})})
        parts = np.split(inliers, np.cumsum(counts[:-1, 1]))
        for pair, agree, (total, _) in zip(batch, parts, counts, strict=True):
            yield pair, agree, int(total)
