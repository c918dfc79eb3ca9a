"""Features of a batch with the same number of keypoints in every image, to train a matcher on.

Where the network finds fewer, places drawn at random are described as well, with scores of 0: a
matcher then learns to leave such points out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SamfeatError
from .levels import Extracted, Level, Network, describe, detect_levels
from .options import ExtractOptions


def extract_stacked(
    model: Network,
    images: Tensor,
    options: ExtractOptions,
    *,
    sizes: Tensor | None = None,
    fill: bool = False,
) -> Extracted:
    """Features of a batch at the size that it has, as many in each image.

    Arguments:
        model: the network, on the device to compute on.
        images: (B, 3, H, W) float32 RGB in [0, 1], on the network's device.
        options: of one scale.
        sizes: (B, 2) width and height of the images in pixels; what is beyond is padding, and has
            no keypoints. None where there is none.
        fill: have ``options.max_keypoints`` in each image, random ones where there are fewer.

    Returns:
        The features, in pixels of the batch, the centre of its top-left pixel at (0, 0). They are
        constants: no gradient goes back into the network.

    Raises:
        SamfeatError: options that do not go with it, or images with different numbers of
            keypoints that are not to be filled up.
    """
    count = options.max_keypoints
    if fill and count is None:
        raise SamfeatError("max_keypoints", "is not given", "say how many each image is to have")
    if len(options.scales) > 1:
        raise SamfeatError("scales", "are several", "give one, (1.0,)")
    whole = [images.shape[-1], images.shape[-2]]
    found: list[Extracted] = []
    with torch.inference_mode():
        for index, size in enumerate([whole] * len(images) if sizes is None else sizes.tolist()):
            width, height = round(size[0]), round(size[1])
            (level,) = detect_levels(model, images[index : index + 1, :, :height, :width], options)
            if fill and count is not None:
                level = _filled(level, count, width, height)
            found.append(describe(model, [level], options))
    counts = [int(each.counts) for each in found]
    if len(set(counts)) > 1:
        raise SamfeatError(
            "keypoints",
            f"a batch has images with {min(counts)} and with {max(counts)}",
            "set force_num_keypoints, or batches of one image",
        )
    # Tensors of inference cannot be part of a graph; copies of them can.
    return Extracted(
        torch.cat([each.keypoints[:, : counts[0]] for each in found]).clone(),
        torch.cat([each.scores[:, : counts[0]] for each in found]).clone(),
        torch.cat([each.descriptors[..., : counts[0]] for each in found]).clone(),
        torch.tensor(counts, device=images.device),
    )


def _filled(level: Level, count: int, width: int, height: int) -> Level:
    """The level with so many keypoints in each image: its own, then random ones."""
    batch, there = level.scores.shape
    ends = level.keypoints.new_tensor([width, height])
    drawn = torch.rand(batch, count, 2, device=ends.device) * ends - 0.5
    rest = count - there
    own = torch.cat([level.found, level.found.new_zeros(batch, rest)], dim=1)
    keypoints = torch.cat([level.keypoints, drawn[:, :rest]], dim=1)
    scores = torch.cat([level.scores, level.scores.new_zeros(batch, rest)], dim=1)
    return level._replace(
        keypoints=torch.where(own[..., None], keypoints, drawn),
        scores=torch.where(own, scores, 0.0),
        found=torch.ones_like(own),
    )
