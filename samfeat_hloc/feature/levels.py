"""An image at one scale or several: keypoints of all, descriptors pooled over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import detection
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

    def describe_at(
        self, features: Tensor, keypoints: Tensor, images: Tensor | None = None
    ) -> Tensor: ...

    def attention_map(self, features: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[Tensor]: ...


class Level(NamedTuple):
    """What the network found in a batch at one scale. keypoints: (B, N, 2) in pixels of the batch,
    scores: (B, N), best first; found: (B, N), False behind the last keypoint of an image that has
    fewer. logits: (B, 1, H, W), without what the scale costs. features: as the network's. ratio:
    the batch's pixels to one of this level, in x and y. size: width and height that the features
    cover."""

    keypoints: Tensor
    scores: Tensor
    found: Tensor
    logits: Tensor
    features: Tensor
    scale: float
    ratio: tuple[float, float]
    size: tuple[int, int]

    def places(self, keypoints: Tensor) -> Tensor:
        """Where keypoints (..., 2) of the batch are in this level, in its pixels."""
        if self.scale == 1:
            return keypoints
        return (keypoints + 0.5) / detection.constants(self.ratio, keypoints) - 0.5


class Chosen(NamedTuple):
    """The best keypoints of all levels of the images of a batch. keypoints: (B, N, 2), scores:
    (B, N), best first. found: (B, N), False behind the last keypoint of an image that has fewer.
    own: (B, N) int64, the level that each is of. shares: (B, N, L), how much each level counts in
    its descriptor, 0 where it is left out."""

    keypoints: Tensor
    scores: Tensor
    found: Tensor
    own: Tensor
    shares: Tensor


class Extracted(NamedTuple):
    """Features of a batch. keypoints: (B, N, 2) xy in its pixels, scores: (B, N), descriptors:
    (B, 128, N), all float32. counts: (B,) int64, how many of the N an image has, the first ones."""

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    counts: Tensor


def detect_levels(
    model: Network, image: Tensor, options: ExtractOptions, mask: Tensor | None = None
) -> list[Level]:
    """Keypoints of a batch (B, 3, H, W) in [0, 1] at all scales that the options allow there;
    none where the mask (B, 1, H, W) is False."""
    limit = options.scales_up_to
    largest = np.inf if limit is None else limit / max(image.shape[-2:])
    scales = [scale for scale in options.scales if scale <= max(1.0, largest)] or [1.0]
    return [_detect(model, image, mask, scale, options) for scale in scales]


def _detect(
    model: Network, image: Tensor, mask: Tensor | None, scale: float, options: ExtractOptions
) -> Level:
    """Keypoints of a batch at one scale, and the maps that describe them."""
    whole = image.shape[-2:]
    if scale != 1:
        size = [max(STRIDE, round(side * scale)) for side in whole]
        image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
        image = image.clamp(0, 1)
    height, width = image.shape[-2:]
    ratio = (whole[1] / width, whole[0] / height)
    x = F.pad(image * 2 - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    x = x.contiguous(memory_format=torch.channels_last)
    with half_precision(x.device, wanted=options.precision == "auto"):
        maps = model.encode(x)

    # The edge map guides the detector: it is added before the sigmoid.
    edges = F.interpolate(maps.edges.float(), x.shape[-2:], mode="bilinear", align_corners=False)
    logits = maps.keypoint_logits.float() + edges
    cost = COARSE_COSTS * math.log2(scale)
    # Suppression looks at the logits: the sigmoid of large ones is the same number, a tie.
    ranked = torch.sigmoid(logits) if options.official else logits
    threshold = options.detection_threshold
    if not options.official:
        threshold = math.log(threshold / (1 - threshold)) - cost if threshold else -math.inf
    kept = detection.suppress(ranked, options.nms_radius, threshold, exact=options.official)
    kept = detection.clear_border(kept, options.border, width=width, height=height)
    if mask is not None:  # after suppression: what is beside a masked peak is no peak
        shown = F.interpolate(mask.float(), (height, width), mode="nearest-exact") > 0
        kept[..., :height, :width] &= shown
    xy, ranks = detection.best_points(ranked[:, 0], kept[:, 0], options.max_keypoints)
    keypoints = detection.refine(logits[:, 0], xy) if options.subpixel else xy.float()
    if scale != 1:
        keypoints = (keypoints + 0.5) * detection.constants(ratio, keypoints) - 0.5
    found = ranks > -torch.inf
    scores = ranks if options.official else torch.sigmoid(ranks + cost)
    covered = (x.shape[-1], x.shape[-2])
    return Level(keypoints, scores, found, logits, maps.features, scale, ratio, covered)


def choose(levels: Sequence[Level], options: ExtractOptions) -> Chosen:
    """The best keypoints of all levels of each image.

    The logits that rank the keypoints of several levels are means over the levels, with weights
    that fall with the distance of a level from the keypoint's own: points that are there at several
    scales come first.
    """
    keypoints = torch.cat([level.keypoints for level in levels], dim=1)
    scores = torch.cat([level.scores for level in levels], dim=1)
    found = torch.cat([level.found for level in levels], dim=1)
    own = torch.cat(
        [torch.full_like(lv.found[0], n, dtype=torch.long) for n, lv in enumerate(levels)]
    )
    octaves = detection.constants([level.scale for level in levels], keypoints).log2()
    shares = torch.exp(-((octaves[:, None] - octaves) ** 2) / (2 * POOLED_OCTAVES**2))
    shares = torch.where(shares > LEAST_SHARE, shares, 0.0)
    own = own.expand(len(keypoints), -1)
    if len(levels) > 1:
        logits = [_near(level, keypoints) for level in levels]
        ranks = (torch.stack(logits, dim=-1) * shares[own]).sum(-1) / shares.sum(1)[own]
        ranks = (ranks + COARSE_COSTS * octaves[own]).masked_fill(~found, -torch.inf)
        order = ranks.sort(dim=1, descending=True, stable=True).indices[:, : options.max_keypoints]
        scores, own = torch.sigmoid(ranks).gather(1, order), own.gather(1, order)
        found = found.gather(1, order) & (scores >= options.detection_threshold)
        if detection.counts_first(order.device):
            most = int(found.sum(1).amax())
            order, scores, own, found = (part[:, :most] for part in (order, scores, own, found))
        keypoints = keypoints.gather(1, order[..., None].expand(-1, -1, 2))
    return Chosen(keypoints, scores, found, own, shares[own] * found[..., None])


def describe(model: Network, levels: Sequence[Level], options: ExtractOptions) -> Extracted:
    """The best keypoints of all levels of each image, and their descriptors.

    A descriptor is the mean of those at its place in all levels, with the weights that rank the
    keypoints: what two photos show at different distances is then described over scales that they
    share.
    """
    keypoints, scores, found, own, shares = choose(levels, options)
    pooled: Tensor | None = None
    attention = torch.ones_like(scores)
    for index, level in enumerate(levels):
        share, places = shares[..., index], level.places(keypoints)
        if options.official:  # it samples beside its keypoints
            described = _sampled(model.describe(level.features), places, level, options)
            pooled = F.normalize(described, dim=-1)
        else:
            pooled = _add_described(model, level, places, share, pooled)
        if options.descriptor_weighting == "attention":
            maps = model.attention_map(level.features.float())
            weights = _sampled(maps, places, level, options)[..., 0]
            attention = torch.where(own == index, weights, attention)
    assert pooled is not None, "there is a level at least"
    descriptors = F.normalize(pooled, dim=-1) * attention[..., None]
    return Extracted(keypoints, scores, descriptors.transpose(1, 2).contiguous(), found.sum(1))


def _add_described(
    model: Network, level: Level, places: Tensor, share: Tensor, pooled: Tensor | None
) -> Tensor:
    """What a level says at places (B, N, 2), times its share (B, N), added to the sum (B, N, D)."""
    batch, count = share.shape
    images = torch.arange(batch, device=share.device)[:, None].expand(-1, count)
    if not detection.counts_first(share.device):
        found = model.describe_at(level.features, places.flatten(0, 1), images.flatten())
        added = share[..., None] * F.normalize(found, dim=1).unflatten(0, (batch, count))
        return added if pooled is None else pooled + added
    near = share > 0
    found = model.describe_at(level.features, places[near], images[near])
    if pooled is None:
        pooled = found.new_zeros(batch, count, found.shape[1])
    pooled[near] += share[near][:, None] * F.normalize(found, dim=1)
    return pooled


def _near(level: Level, keypoints: Tensor) -> Tensor:
    """A level's largest logits within 3x3 pixels of keypoints (B, N, 2): (B, N)."""
    logits = detection.local_maximum(level.logits, 1)[:, 0]
    height, width = logits.shape[-2:]
    x, y = level.places(keypoints).round().long().unbind(-1)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return logits.flatten(1).gather(1, index)


def _sampled(dense: Tensor, places: Tensor, level: Level, options: ExtractOptions) -> Tensor:
    return detection.sample(dense, places, *level.size, release=options.official)


def half_precision(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """In this context a network computes in bfloat16, where wanted and the device is fast at it."""
    enabled = wanted and fast_bfloat16(device)
    # Not every torch knows autocast on other devices, even to switch it off.
    kind = device.type if device.type in ("cpu", "cuda") else "cpu"
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
