"""Extraction: images in, keypoints and descriptors out."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import detection
from .errors import SamfeatError
from .images import read_image

logger = logging.getLogger(__name__)

STRIDE = 16  # sides of the network's input are multiples of it
RELEASE_THRESHOLD = 0.9
# What a keypoint's logit loses for each halving of the scale: its place is less exact.
COARSE_COSTS = 1.25
POOLED_OCTAVES = 0.5  # sigma over which several scales' logits and descriptors are pooled
LEAST_SHARE = 0.05  # a level whose weight for a keypoint is below it is left out


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract.

    resize: bring the longer side down to so many pixels; None keeps the size.
    resize_force: also bring a smaller image up to that size.
    scales: look at the image at these scales of that size and keep the best keypoints of all. Each
        costs its square in time. Smaller scales find what another photo shows from farther away;
        larger ones place small photos' points more exactly.
    scales_up_to: without the scales that make the longer side larger than so many pixels.
    max_keypoints: the best so many; None for all.
    detection_threshold: least keypoint score, in (0, 1).
    nms_radius: no two keypoints closer than this, in pixels of the resized image.
    border: no keypoints closer than this to the image's edge, in pixels of the resized image.
    descriptor_weighting: "unit" for unit length; "attention" multiplies by the attention map, as
        the paper matches them (hloc's matcher wants unit length).
    subpixel: positions finer than a pixel.
    precision: "auto" computes convolutions in bfloat16 where the processor is fast at it,
        "float32" never does.
    official: reproduce the public release's extraction, quirks and all: both sides resized to the
        nearest multiple of 16 whatever the aspect ratio, greedy suppression, whole pixels, and
        descriptors sampled beside their keypoints.
    """

    resize: int | None = None
    resize_force: bool = False
    scales: tuple[float, ...] = (1.0,)
    scales_up_to: int | None = None
    max_keypoints: int | None = 4096
    detection_threshold: float = 0.05
    nms_radius: int = 1
    border: int = 4
    descriptor_weighting: Literal["unit", "attention"] = "unit"
    subpixel: bool = True
    precision: Literal["auto", "float32"] = "auto"
    official: bool = False

    def __post_init__(self) -> None:
        def refuse(name: str, wanted: str) -> None:
            value = getattr(self, name)
            raise SamfeatError(f"{name}: {value!r} is not possible; give {wanted}")

        if self.resize is not None and not 16 <= self.resize <= 16384:
            refuse("resize", "a size in pixels between 16 and 16384, or None")
        if self.resize_force and self.resize is None:
            refuse("resize_force", "resize, the size to force, as well")
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            refuse("scales", "scales between 0.1 and 4, such as (1.0, 1.5)")
        if self.scales_up_to is not None and self.scales_up_to < 16:
            refuse("scales_up_to", "a size in pixels from 16, or None")
        if self.official and self.scales != (1.0,):
            refuse("scales", "(1.0,), the release's, or leave official out")
        if self.max_keypoints is not None and self.max_keypoints < 1:
            refuse("max_keypoints", "a number from 1, or None for all")
        if not 0 <= self.detection_threshold < 1:
            refuse("detection_threshold", "a score in [0, 1)")
        if not 0 <= self.nms_radius <= 64:
            refuse("nms_radius", "a whole number of pixels from 0 to 64")
        if self.border < 0:
            refuse("border", "a whole number of pixels from 0")
        if self.descriptor_weighting not in ("unit", "attention"):
            refuse("descriptor_weighting", "'unit' or 'attention'")
        if self.precision not in ("auto", "float32"):
            refuse("precision", "'auto' or 'float32'")

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> ExtractOptions:
        """Options from keyword arguments; ``official=True`` changes the defaults to the release's.

        Raises:
            SamfeatError: an unknown option or an impossible value.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(keywords) - known)
        if unknown:
            raise SamfeatError(
                f"{unknown[0]}: no such extraction option; choose from {', '.join(sorted(known))}"
            )
        if keywords.get("official"):
            keywords = {**RELEASE_DEFAULTS, **keywords}
        return cls(**keywords)

    def asdict(self) -> dict[str, Any]:
        """The options as plain values, for a configuration file."""
        return {**asdict(self), "scales": list(self.scales)}

    def record(self) -> dict[str, Any]:
        """The options, and how several scales are pooled: all that changes what is extracted."""
        pooling = {"coarse_costs": COARSE_COSTS, "pooled_octaves": POOLED_OCTAVES}
        return {**self.asdict(), **(pooling if len(self.scales) > 1 else {})}


RELEASE_DEFAULTS: dict[str, Any] = {
    "max_keypoints": None,
    "detection_threshold": RELEASE_THRESHOLD,
    "nms_radius": 4,
    "border": 4,
    "descriptor_weighting": "attention",
    "subpixel": False,
    "precision": "float32",
    "official": True,
}


class Network(Protocol):
    """What extraction asks of a network; see :class:`samfeat_hloc.network.SAMFeat`."""

    describe: Any

    def __call__(self, image: Tensor) -> Any: ...

    def encode(self, image: Tensor) -> Any: ...

    def describe_at(self, features: Tensor, keypoints: Tensor) -> Tensor: ...

    def attention_map(self, features: Tensor) -> Tensor: ...

    def parameters(self) -> Any: ...


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
    limit = options.scales_up_to
    largest = np.inf if limit is None else limit / max(image.shape[-2:])
    scales = [scale for scale in options.scales if scale <= max(1.0, largest)] or [1.0]
    levels = [_detect(model, image, scale, options) for scale in scales]
    return [_describe(model, levels, b, options) for b in range(len(image))]


class _Level(NamedTuple):
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


def _detect(model: Network, image: Tensor, scale: float, options: ExtractOptions) -> _Level:
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
    bfloat16 = options.precision == "auto" and fast_bfloat16(x.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bfloat16):
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
    kept = detection.clear_border(kept, options.border, width, height)
    points = []
    for b in range(len(image)):
        xy, ranks = detection.best_points(ranked[b, 0], kept[b, 0], options.max_keypoints)
        keypoints = detection.refine(logits[b, 0], xy) if options.subpixel else xy.float()
        keypoints = (keypoints + 0.5) * ratio - 0.5 if scale != 1 else keypoints
        points.append((keypoints, ranks if options.official else torch.sigmoid(ranks + cost)))
    return _Level(points, logits, maps.features, scale, ratio, (x.shape[-1], x.shape[-2]))


def _describe(
    model: Network, levels: Sequence[_Level], b: int, options: ExtractOptions
) -> dict[str, Tensor]:
    """The best keypoints of all levels of image ``b``, and their descriptors.

    A descriptor is the mean of those at its place in all levels, with weights that fall with the
    distance of the level from its own; the logits that rank the keypoints of several levels are
    pooled likewise. What two photos show at different distances is then described over scales that
    they share, and points that are there at several scales come first.
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
        logits = [_near(level, level.logits[b : b + 1], keypoints) for level in levels]
        ranks = (torch.stack(logits, dim=1) * shares[own]).sum(1) / shares.sum(1)[own]
        ranks = ranks + COARSE_COSTS * octaves[own]
        scores = torch.sigmoid(ranks)
        order = ranks.sort(descending=True, stable=True).indices[: options.max_keypoints]
        order = order[scores[order] >= options.detection_threshold]
        keypoints, scores, own = keypoints[order], scores[order], own[order]

    pooled: Tensor | None = None
    attention = torch.ones_like(scores)
    for index, level in enumerate(levels):
        share = shares[own, index]
        near = share > 0
        places = _places(level, keypoints[near])
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
    return {
        "keypoints": keypoints,
        "keypoint_scores": scores,
        "descriptors": descriptors.t().contiguous(),
    }


def _places(level: _Level, keypoints: Tensor) -> Tensor:
    """Where keypoints (N, 2) of the batch are in a level, in its pixels."""
    return keypoints if level.scale == 1 else (keypoints + 0.5) / level.ratio - 0.5


def _near(level: _Level, values: Tensor, keypoints: Tensor) -> Tensor:
    """The largest of the values (1, 1, H, W) of a level within 3x3 pixels of keypoints (N, 2)."""
    values = detection.local_maximum(values, 1)[0, 0]
    x, y = _places(level, keypoints).round().long().unbind(1)
    return values[y.clamp(0, values.shape[0] - 1), x.clamp(0, values.shape[1] - 1)]


def _sampled(dense: Tensor, places: Tensor, level: _Level, options: ExtractOptions) -> Tensor:
    return detection.sample(dense, places[None], *level.size, release=options.official)[0]


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
                f"image: a tensor of shape {tuple(image.shape)} and type {image.dtype} was given;"
                " give (3, H, W) floats in [0, 1]"
            )
        image = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        image = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise SamfeatError(
            f"image: an array of shape {image.shape} and type {image.dtype} was given;"
            " give RGB uint8 (H, W, 3)"
        )
    return np.ascontiguousarray(image)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
