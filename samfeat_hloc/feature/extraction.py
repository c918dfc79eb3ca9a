"""Extraction: images in, keypoints and descriptors out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..files.image_forms import ImageLike, as_rgb
from ..parallel.devices import stack_to_device, to_host
from .levels import (
    COARSE_COSTS,
    POOLED_OCTAVES,
    STRIDE,
    Extracted,
    Network,
    describe,
    detect_levels,
)
from .local_features import FeatureArrays, NetworkFeatures
from .options import ExtractOptions


@dataclass(frozen=True)
class Prepared:
    """An image at the size of the network's input, (h, w, 3), and its width and height before."""

    pixels: np.ndarray
    size: tuple[int, int]


def prepare(image: ImageLike, options: ExtractOptions) -> Prepared:
    """What of extraction needs no network, so that other threads can do it.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    array = as_rgb(image)
    return Prepared(resize_image(array, options), (array.shape[1], array.shape[0]))


def extract_batch(
    model: Network, images: Sequence[ImageLike | Prepared], options: ExtractOptions
) -> list[FeatureArrays]:
    """Extract from images of any sizes; those that are equally large go through together.

    Arguments:
        model: the network, on the device to compute on.
        images: in any of the forms of :data:`samfeat_hloc.files.image_forms.ImageLike`, or what
            :func:`prepare` made of one with the same options.
        options: see :class:`ExtractOptions`.

    Returns:
        The features of each image, in pixels of the image as given.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    inputs = [image if isinstance(image, Prepared) else prepare(image, options) for image in images]
    same_size: dict[Any, list[int]] = defaultdict(list)
    for index, prepared in enumerate(inputs):
        same_size[prepared.pixels.shape, prepared.pixels.dtype].append(index)

    device = next(iter(model.parameters())).device
    begun = []
    for indices in same_size.values():
        stacked = stack_to_device([inputs[i].pixels for i in indices], device)
        batch = stacked.permute(0, 3, 1, 2).float() / 255
        begun.append((indices, to_host(extract_tensors(model, batch, options))))
    results: dict[int, FeatureArrays] = {}
    for indices, arrived in begun:
        keypoints, scores, descriptors, counts = (part.numpy() for part in arrived())
        for b, i in enumerate(indices):
            size, count = np.array(inputs[i].size), counts[b]
            scale = (size / np.array(inputs[i].pixels.shape[1::-1])).astype(np.float32)
            places = keypoints[b, :count]
            results[i] = FeatureArrays(
                keypoints=places * scale if options.official else (places + 0.5) * scale - 0.5,
                keypoint_scores=np.ascontiguousarray(scores[b, :count]),
                descriptors=np.ascontiguousarray(descriptors[b, :, :count]),
                image_size=size,
            )
    return [results[i] for i in range(len(inputs))]


@torch.inference_mode()
def extract_tensors(model: Network, image: Tensor, options: ExtractOptions) -> Extracted:
    """Keypoints and descriptors of a batch at the size it has; ``resize`` plays no part.

    On a GPU nothing in it waits for the device, unless the number of keypoints is not limited.

    Arguments:
        model: the network.
        image: (B, 3, H, W) float32 RGB in [0, 1], on the network's device.
        options: see :class:`ExtractOptions`.
    """
    return describe(model, detect_levels(model, image, options), options)


def detect_and_describe(
    model: Network, image: Tensor, options: ExtractOptions
) -> list[NetworkFeatures]:
    """As :func:`extract_tensors`, image by image.

    Returns:
        What was found in each image, in pixels of the batch.
    """
    found = extract_tensors(model, image, options)
    return [
        NetworkFeatures(
            keypoints=found.keypoints[b, :count],
            keypoint_scores=found.scores[b, :count],
            descriptors=found.descriptors[b, :, :count],
        )
        for b, count in enumerate(found.counts.tolist())
    ]


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
