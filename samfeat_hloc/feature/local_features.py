"""What extraction finds in an image; :mod:`samfeat_hloc.feature` has the conventions."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor


class NetworkFeatures(TypedDict):
    """Keypoints of one image of a batch, on the network's device.

    keypoints: (N, 2) float32 xy, the centre of the top-left pixel at (0, 0), best first.
    keypoint_scores: (N,) float32. descriptors: (D, N) float32.
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    descriptors: Tensor


class Features(NetworkFeatures):
    """Features of one image, as :class:`NetworkFeatures`, in pixels of the image given.

    image_size: (2,) int64, its width and height.
    """

    image_size: Tensor


class FeatureArrays(TypedDict):
    """:class:`Features` as NumPy arrays."""

    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    descriptors: np.ndarray
    image_size: np.ndarray


def as_tensors(found: FeatureArrays) -> Features:
    """The same arrays, on the CPU."""
    return Features(
        keypoints=torch.from_numpy(found["keypoints"]),
        keypoint_scores=torch.from_numpy(found["keypoint_scores"]),
        descriptors=torch.from_numpy(found["descriptors"]),
        image_size=torch.from_numpy(found["image_size"]),
    )
