"""Extraction: images in, keypoints and descriptors out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..files.image_forms import ImageLike, as_rgb
from .levels import COARSE_COSTS, POOLED_OCTAVES, STRIDE, Network, describe, detect_levels
from .local_features import FeatureArrays, NetworkFeatures
from .options import ExtractOptions


def extract_batch(
    model: Network, images: Sequence[ImageLike], options: ExtractOptions
) -> list[FeatureArrays]:
    """Extract from images of any sizes; those that are equally large go through together.

    Arguments:
        model: the network, on the device to compute on.
        images: in any of the forms of :data:`samfeat_hloc.files.image_forms.ImageLike`.
        options: see :class:`ExtractOptions`.

    Returns:
        The features of each image, in pixels of the image as given.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    arrays = [as_rgb(image) for image in images]
    resized = [resize_image(array, options) for array in arrays]
    same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, array in enumerate(resized):
        same_size[array.shape].append(index)

    device = next(iter(model.parameters())).device
    results: dict[int, FeatureArrays] = {}
    for indices in same_size.values():
        stacked = np.stack([resized[i] for i in indices])
        batch = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255
        for i, found in zip(indices, detect_and_describe(model, batch, options), strict=True):
            size = np.array(arrays[i].shape[1::-1])
            scale = (size / np.array(resized[i].shape[1::-1])).astype(np.float32)
            keypoints = found["keypoints"].cpu().numpy()
            corner = 0.0 if options.official else 0.5
            keypoints = (keypoints + corner) * scale - corner
            results[i] = FeatureArrays(
                keypoints=keypoints,
                keypoint_scores=found["keypoint_scores"].cpu().numpy(),
                descriptors=found["descriptors"].cpu().numpy(),
                image_size=size,
            )
    return [results[i] for i in range(len(arrays))]


@torch.inference_mode()
def detect_and_describe(
    model: Network, image: Tensor, options: ExtractOptions
) -> list[NetworkFeatures]:
    """Keypoints and descriptors of a batch at the size it has; ``resize`` plays no part.

    Arguments:
        model: the network.
        image: (B, 3, H, W) float32 RGB in [0, 1], on the network's device.
        options: see :class:`ExtractOptions`.

    Returns:
        What was found in each image, in pixels of the batch.
    """
    levels = detect_levels(model, image, options)
    return [describe(model, levels, b, options) for b in range(len(image))]


def record(options: ExtractOptions) -> dict[str, Any]:
    """The options, and how several scales are pooled: all that changes what is extracted."""
    pooling = {"coarse_costs": COARSE_COSTS, "pooled_octaves": POOLED_OCTAVES}
    return {**options.asdict(), **(pooling if len(options.scales) > 1 else {})}


def resized_shape(height: int, width: int, options: ExtractOptions) -> tuple[int, int]:
    """Height and width at which an image goes through the network (before padding)."""
    if options.resize is not None:
        longer = max(height, width)
        if options.resize_force or longer > options.resize:
            scale = options.resize / longer
            height, width = (max(1, round(side * scale)) for side in (height, width))
    if options.official:
        # numpy rounds half to even, as the release does.
        height, width = (max(STRIDE, int(np.round(s / STRIDE)) * STRIDE) for s in (height, width))
    return height, width


def resize_image(image: np.ndarray, options: ExtractOptions) -> np.ndarray:
    """Bring an RGB uint8 image (H, W, 3) to the size that the options ask for.

    What was resized is float32 in [0, 255]: hloc resizes so, and rounding back to whole values
    would move most keypoints by hundredths of a pixel. (The release resizes whole values.)
    """
    height, width = resized_shape(image.shape[0], image.shape[1], options)
    if (height, width) == image.shape[:2]:
        return image
    shrinks = width < image.shape[1] or height < image.shape[0]
    area = shrinks and not options.official
    if not options.official:
        image = image.astype(np.float32)
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR
    )
