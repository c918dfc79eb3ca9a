"""An image at one scale or several: keypoints of all, descriptors pooled over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import detection
from .local_features import NetworkFeatures
from .options import ExtractOptions

STRIDE = 16  # sides of the network's input are multiples of it
# What a keypoint's logit loses for each halving of the scale: its place is less exact.
COARSE_COSTS = 1.25
POOLED_OCTAVES = 0.5  # sigma over which several scales' logits and descriptors are pooled
LEAST_SHARE = 0.05  # a level whose weight for a keypoint is below it is left out


class EncodedImages(Protocol):
    """What extraction asks of :class:`samfeat_hloc.feature.network.Encoded`."""

    @property
    def keypoint_logits(self) -> Tensor: ...

    @property
    def features(self) -> Tensor: ...

    @property
    def edges(self) -> Tensor: ...


class Network(Protocol):
    """What extraction asks of a network; see :class:`samfeat_hloc.feature.network.SAMFeat`."""

    @property
    def describe(self) -> Callable[[Tensor], Tensor]: ...

    def encode(self, image: Tensor) -> EncodedImages: ...

    def describe_at(self, features: Tensor, keypoints: Tensor) -> Tensor: ...

    def attention_map(self, features: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[Tensor]: ...


class Level(NamedTuple):
    """What the network found in a batch at one scale. points: of each image keypoints (N, 2) in
    pixels of the batch and their scores (N,), best first. logits: (B, 1, H, W), without what the
    scale costs. features: as the network's. ratio: (2,), the batch's pixels to one of this level,
    in x and y. size: width and height that the features cover."""

    points: list[tuple[Tensor, Tensor]]
    logits: Tensor
    features: Tensor
    scale: float
    ratio: Tensor
    size: tuple[int, int]

    def places(self, keypoints: Tensor) -> Tensor:
        """Where keypoints (N, 2) of the batch are in this level, in its pixels."""
        return keypoints if self.scale == 1 else (keypoints + 0.5) / self.ratio - 0.5


class Chosen(NamedTuple):
    """The best keypoints of all levels of an image. keypoints: (N, 2), scores: (N,), best first.
    own: (N,) int64, the level that each is of. shares: (N, L), how much each level counts in its
    descriptor, 0 where it is left out."""

    keypoints: Tensor
    scores: Tensor
    own: Tensor
    shares: Tensor


def detect_levels(model: Network, image: Tensor, options: ExtractOptions) -> list[Level]:
    """Keypoints of a batch (B, 3, H, W) in [0, 1] at all scales that the options allow there."""
    limit = options.scales_up_to
    largest = np.inf if limit is None else limit / max(image.shape[-2:])
    scales = [scale for scale in options.scales if scale <= max(1.0, largest)] or [1.0]
    return [_detect(model, image, scale, options) for scale in scales]


def _detect(model: Network, image: Tensor, scale: float, options: ExtractOptions) -> Level:
    """Keypoints of a batch at one scale, and the maps that describe them."""
    whole = image.shape[-2:]
    if scale != 1:
        size = [max(STRIDE, round(side * scale)) for side in whole]
        image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
        image = image.clamp(0, 1)
    height, width = image.shape[-2:]
    ratio = image.new_tensor([whole[1] / width, whole[0] / height])
    x = F.pad(image * 2 - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    x = x.contiguous(memory_format=torch.channels_last)
    with half_precision(x.device, wanted=options.precision == "auto"):
        maps = model.encode(x)

    # The edge map guides the detector: it is added before the sigmoid.
    edges = F.interpolate(maps.edges.float(), x.shape[-2:], mode="bilinear", align_corners=False)
    logits = maps.keypoint_logits.float() + edges
    cost = COARSE_COSTS * np.log2(scale)
    # Suppression looks at the logits: the sigmoid of large ones is the same number, a tie.
    ranked = torch.sigmoid(logits) if options.official else logits
    threshold = options.detection_threshold
    if not options.official:
        threshold = float(torch.logit(torch.tensor(threshold, dtype=torch.float64))) - cost
    kept = detection.suppress(ranked, options.nms_radius, threshold, exact=options.official)
    kept = detection.clear_border(kept, options.border, width=width, height=height)
    points = []
    for b in range(len(image)):
        xy, ranks = detection.best_points(ranked[b, 0], kept[b, 0], options.max_keypoints)
        keypoints = detection.refine(logits[b, 0], xy) if options.subpixel else xy.float()
        keypoints = (keypoints + 0.5) * ratio - 0.5 if scale != 1 else keypoints
        points.append((keypoints, ranks if options.official else torch.sigmoid(ranks + cost)))
    return Level(points, logits, maps.features, scale, ratio, (x.shape[-1], x.shape[-2]))


def choose(levels: Sequence[Level], b: int, options: ExtractOptions) -> Chosen:
    """The best keypoints of all levels of image ``b``.

    The logits that rank the keypoints of several levels are means over the levels, with weights
    that fall with the distance of a level from the keypoint's own: points that are there at several
    scales come first.
    """
    keypoints, scores = (
        torch.cat(parts) for parts in zip(*(level.points[b] for level in levels), strict=True)
    )
    counts = keypoints.new_tensor([len(level.points[b][0]) for level in levels], dtype=torch.long)
    own = torch.arange(len(levels), device=counts.device).repeat_interleave(counts)
    octaves = keypoints.new_tensor([level.scale for level in levels]).log2()
    shares = torch.exp(-((octaves[:, None] - octaves) ** 2) / (2 * POOLED_OCTAVES**2))
    shares = torch.where(shares > LEAST_SHARE, shares, 0.0)
    if len(levels) > 1:
        logits = [_near(level, b, keypoints) for level in levels]
        ranks = (torch.stack(logits, dim=1) * shares[own]).sum(1) / shares.sum(1)[own]
        ranks = ranks + COARSE_COSTS * octaves[own]
        scores = torch.sigmoid(ranks)
        order = ranks.sort(descending=True, stable=True).indices[: options.max_keypoints]
        order = order[scores[order] >= options.detection_threshold]
        keypoints, scores, own = keypoints[order], scores[order], own[order]
    return Chosen(keypoints, scores, own, shares[own])


def describe(
    model: Network, levels: Sequence[Level], b: int, options: ExtractOptions
) -> NetworkFeatures:
    """The best keypoints of all levels of image ``b``, and their descriptors.

    A descriptor is the mean of those at its place in all levels, with the weights that rank the
    keypoints: what two photos show at different distances is then described over scales that they
    share.
    """
    keypoints, scores, own, shares = choose(levels, b, options)
    pooled: Tensor | None = None
    attention = torch.ones_like(scores)
    for index, level in enumerate(levels):
        share = shares[:, index]
        near = share > 0
        places = level.places(keypoints[near])
        features = level.features[b : b + 1]
        if options.official:  # it samples beside its keypoints
            found = _sampled(model.describe(features), places, level, options)
        else:
            found = model.describe_at(features[0], places)
        if pooled is None:
            pooled = found.new_zeros(len(keypoints), found.shape[1])
        pooled[near] += share[near, None] * F.normalize(found, dim=1)
        if options.descriptor_weighting == "attention":
            mine = own == index
            weights = _sampled(
                model.attention_map(features.float()), places[mine[near]], level, options
            )
            attention[mine] = weights[:, 0]
    assert pooled is not None, "there is a level at least"
    descriptors = F.normalize(pooled, dim=1) * attention[:, None]
    return NetworkFeatures(
        keypoints=keypoints, keypoint_scores=scores, descriptors=descriptors.t().contiguous()
    )


def _near(level: Level, b: int, keypoints: Tensor) -> Tensor:
    """A level's largest logits of image ``b`` within 3x3 pixels of keypoints (N, 2)."""
    logits = detection.local_maximum(level.logits[b : b + 1], 1)[0, 0]
    x, y = level.places(keypoints).round().long().unbind(1)
    return logits[y.clamp(0, logits.shape[0] - 1), x.clamp(0, logits.shape[1] - 1)]


def _sampled(dense: Tensor, places: Tensor, level: Level, options: ExtractOptions) -> Tensor:
    return detection.sample(dense, places[None], *level.size, release=options.official)[0]


def half_precision(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """In this context a network computes in bfloat16, where wanted and the device is fast at it."""
    enabled = wanted and fast_bfloat16(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
