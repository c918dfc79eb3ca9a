"""Extraction: images in, keypoints and descriptors out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError
from ..files.images import read_image
from .levels import COARSE_COSTS, POOLED_OCTAVES, STRIDE, Network, describe, detect_levels
from .options import ExtractOptions


def extract_batch(
    model: Network, images: Sequence[np.ndarray | Tensor | str | Path], options: ExtractOptions
) -> list[dict[str, np.ndarray]]:
    """Extract from images of any sizes; those that are equally large go through together.

    Arguments:
        model: the network, on the device to compute on.
        images: RGB uint8 arrays (H, W, 3), float tensors (3, H, W) in [0, 1], or paths.
        options: see :class:`ExtractOptions`.

    Returns:
        For each image a dict of arrays: ``keypoints`` (N, 2) float32 xy in pixels of the image as
        given (centre of the top-left pixel at (0, 0)), best first; ``keypoint_scores`` (N,)
        float32; ``descriptors`` (128, N) float32; ``image_size`` (2,) int64, width and height.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    arrays = [as_array(image) for image in images]
    resized = [resize_image(array, options) for array in arrays]
    same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, array in enumerate(resized):
        same_size[array.shape].append(index)

    device = next(iter(model.parameters())).device
    results: list[dict[str, np.ndarray]] = [{} for _ in arrays]
    for indices in same_size.values():
        stacked = np.stack([resized[i] for i in indices])
        batch = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255
        for i, found in zip(indices, detect_and_describe(model, batch, options), strict=True):
            size = np.array(arrays[i].shape[1::-1])
            scale = (size / np.array(resized[i].shape[1::-1])).astype(np.float32)
            found_np = {name: value.cpu().numpy() for name, value in found.items()}
            if options.official:
                keypoints = found_np["keypoints"] * scale
            else:
                keypoints = (found_np["keypoints"] + 0.5) * scale - 0.5
            results[i] = {**found_np, "keypoints": keypoints, "image_size": size}
    return results


@torch.inference_mode()
def detect_and_describe(
    model: Network, image: Tensor, options: ExtractOptions
) -> list[dict[str, Tensor]]:
    """Keypoints and descriptors of a batch at the size it has; ``resize`` plays no part.

    Arguments:
        model: the network.
        image: (B, 3, H, W) float32 RGB in [0, 1], on the network's device.
        options: see :class:`ExtractOptions`.

    Returns:
        For each image a dict of float32 tensors: ``keypoints`` (N, 2) xy in its pixels,
        ``keypoint_scores`` (N,), ``descriptors`` (128, N).
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


def as_array(image: np.ndarray | Tensor | str | Path) -> np.ndarray:
    """An image in any accepted form as RGB uint8 (H, W, 3)."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
            raise SamfeatError(
                "image",
                f"a tensor of shape {tuple(image.shape)} and type {image.dtype} was given",
                "give (3, H, W) floats in [0, 1]",
            )
        image = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        image = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise SamfeatError(
            "image",
            f"an array of shape {image.shape} and type {image.dtype} was given",
            "give RGB uint8 (H, W, 3)",
        )
    return np.ascontiguousarray(image)
