"""Extraction: images in, keypoints and descriptors out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError
from ..files.image_forms import ImageLike, as_rgb
from ..files.masks import MaskLike, as_mask
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
from .recordings import recordings_of, where_they_are


@dataclass(frozen=True, eq=False)
class Masked:
    """An image and its mask, (H, W) bool: there are no keypoints where it is False."""

    image: ImageLike
    mask: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image at the size of the network's input, (h, w, 3), its width and height before, and its
    mask (H, W) of that size, where it has one."""

    pixels: np.ndarray
    size: tuple[int, int]
    mask: np.ndarray | None = None


def prepare(image: ImageLike | Masked, options: ExtractOptions) -> Prepared:
    """What of extraction needs no network, so that other threads can do it.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    image, mask = (image.image, image.mask) if isinstance(image, Masked) else (image, None)
    array = as_rgb(image)
    return Prepared(resize_image(array, options), (array.shape[1], array.shape[0]), mask)


def masked(images: Sequence[ImageLike], masks: object) -> list[ImageLike | Masked]:
    """Images with their masks, in any of the forms of :data:`samfeat_hloc.files.masks.MaskLike`.

    Arguments:
        masks: one for each image, None for an image without; None for none at all.

    Raises:
        SamfeatError: an image that cannot be read, another number of masks, or a mask of another
            size than its image.
    """
    if masks is None:
        return list(images)
    if not isinstance(masks, (list, tuple)) or len(masks) != len(images):
        given = f"{len(masks)} masks" if isinstance(masks, (list, tuple)) else "one mask"
        raise SamfeatError(
            "mask",
            f"{given} for {len(images)} images",
            "give a list with a mask, or None, for each image",
        )
    return [
        image if mask is None else _with_mask(as_rgb(image), mask)
        for image, mask in zip(images, masks, strict=True)
    ]


def _with_mask(image: np.ndarray, mask: MaskLike) -> Masked:
    return Masked(image, as_mask(mask, (image.shape[1], image.shape[0])))


def extract_batch(
    model: Network, images: Sequence[ImageLike | Masked | Prepared], options: ExtractOptions
) -> list[FeatureArrays]:
    """Extract from images of any sizes; those that are equally large go through together.

    Arguments:
        model: the network, on the device to compute on.
        images: in any of the forms of :data:`samfeat_hloc.files.image_forms.ImageLike`, such a one
            with a mask, or what :func:`prepare` made of one with the same options.
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
    begun = [
        (indices, _begin(model, [inputs[i] for i in indices], options, device))
        for indices in same_size.values()
    ]
    results: dict[int, FeatureArrays] = {}
    for indices, arrived in begun:
        keypoints, scores, descriptors, counts = (part.numpy() for part in arrived())
        for b, i in enumerate(indices):
            size, count = np.array(inputs[i].size), counts[b]
            scale = (size / np.array(inputs[i].pixels.shape[1::-1])).astype(np.float32)
            places = keypoints[b, :count]
            places = places * scale if options.official else (places + 0.5) * scale - 0.5
            mask = inputs[i].mask
            kept = slice(count) if mask is None else shown_rows(places, mask)
            results[i] = FeatureArrays(
                keypoints=places[kept],
                keypoint_scores=np.ascontiguousarray(scores[b, kept]),
                descriptors=np.ascontiguousarray(descriptors[b][:, kept]),
                image_size=size,
            )
    return [results[i] for i in range(len(inputs))]


def _begin(
    model: Network, inputs: Sequence[Prepared], options: ExtractOptions, device: torch.device
) -> Callable[[], list[Tensor]]:
    """Begin to extract from images of one size; what is returned waits for :class:`Extracted`."""
    masks = _stacked(inputs, device)

    def extract(stacked: Tensor) -> Extracted:
        return extract_tensors(model, stacked.permute(0, 3, 1, 2).float() / 255, options, masks)

    stacked = stack_to_device([prepared.pixels for prepared in inputs], device)
    waits = options.official or options.max_keypoints is None
    if device.type == "cuda" and masks is None and not waits:
        key = (options, where_they_are(model.parameters()))
        return recordings_of(model).begin(key, stacked, extract)
    return to_host(extract(stacked))


def _stacked(inputs: Sequence[Prepared], device: torch.device) -> Tensor | None:
    """The masks of a batch at the size of the network's input, (B, 1, h, w) bool."""
    if all(prepared.mask is None for prepared in inputs):
        return None
    height, width = inputs[0].pixels.shape[:2]
    masks = np.ones((len(inputs), 1, height, width), dtype=bool)
    for b, prepared in enumerate(inputs):
        if prepared.mask is not None:  # at the centres of the network's pixels
            rows, columns = (
                ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
                for new, old in zip((height, width), prepared.mask.shape, strict=True)
            )
            masks[b, 0] = prepared.mask[rows[:, None], columns]
    return torch.from_numpy(masks).to(device)


def shown_rows(keypoints: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rows of keypoints (N, 2) in pixels that the mask shows: some were moved by a fraction."""
    last = np.array(mask.shape[1::-1]) - 1
    x, y = np.clip(np.floor(keypoints + 0.5).astype(np.int64), 0, last).T
    return np.flatnonzero(mask[y, x])


@torch.inference_mode()
def extract_tensors(
    model: Network, image: Tensor, options: ExtractOptions, mask: Tensor | None = None
) -> Extracted:
    """Keypoints and descriptors of a batch at the size it has; ``resize`` plays no part.

    On a GPU nothing in it waits for the device, unless the number of keypoints is not limited.

    Arguments:
        model: the network.
        image: (B, 3, H, W) float32 RGB in [0, 1], on the network's device.
        options: see :class:`ExtractOptions`.
        mask: (B, 1, H, W) bool there, False where there are to be no keypoints; those elsewhere
            are what they are without it, and more of them where their number is limited.
    """
    return describe(model, detect_levels(model, image, options, mask), options)


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


def recorded(config: Mapping[str, Any]) -> ExtractOptions:
    """The options in what :func:`record` returns, and in the record of a feature file.

    Raises:
        KeyError, TypeError, SamfeatError: those of another version.
    """
    return ExtractOptions(**{field.name: config[field.name] for field in fields(ExtractOptions)})


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
