"""Detectors whose keypoints `samfeat label` adapts: each takes views and gives points.

Corners and DoG need nothing. SuperPoint's, ALIKED's and DISK's checkpoints are their authors'; give
the file (ALIKED's and DISK's may also lie where torch.hub keeps its downloads).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SamfeatError
from ..feature.detection import clear_border, local_maximum, refine
from ..feature.extraction import detect_and_describe
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..feature.torch_files import read_torch
from ..teachers.registry import need
from .corners import corner_response

DETECTORS = ("corners", "dog", "superpoint", "aliked", "disk", "samfeat")
STRIDE = 16  # the views' side has to be a multiple of it

Detect = Callable[[Tensor], list[Tensor]]
"""Takes views (B, 3, S, S) in [0, 1]; gives for each its points (N, 2) float32 xy in pixels."""

_RADIUS = 3  # of non-maximum suppression, pixels
_DOWNLOADS = {"aliked": "aliked-n16.pth", "disk": "depth-save.pth"}


def load_detector(name: str, weights: Path | None, device: str, limit: int) -> Detect:
    """A detector that gives at most ``limit`` points a view, its best.

    Raises:
        SamfeatError: no such detector; a checkpoint that is missing or does not fit.
    """
    if name not in DETECTORS:
        raise SamfeatError(
            f"--detector {name}", "no such detector", f"choose from {', '.join(DETECTORS)}"
        )
    if name == "corners":
        return lambda views: [_peaks(r, limit, 0.012) for r in corner_response(views)[:, 0]]
    if name == "dog":
        return lambda views: [_dog(view, limit) for view in views]
    if name == "samfeat":
        model = SAMFeat.from_pretrained(weights, device=device)
        options = ExtractOptions(max_keypoints=limit, nms_radius=_RADIUS)
        return lambda views: [
            found["keypoints"].float() for found in detect_and_describe(model, views, options)
        ]
    path = _checkpoint(name, weights)
    if name == "superpoint":
        network = _load(SuperPointScores(), path, lambda state: state)
        network.to(device).eval()
        return lambda views: [_peaks(scores, limit, 0.005) for scores in network(views)]
    features = need("kornia.feature", f"detector {name}")
    if name == "disk":
        disk = _load(features.DISK(), path, lambda state: state.get("extractor", state))
        disk.to(device).eval()
        return lambda views: [f.keypoints.float() for f in disk(views, n=limit)]
    aliked = _load(features.ALIKED("aliked-n16", limit), path, lambda state: state)
    aliked.to(device).eval()
    return lambda views: [f.keypoints.float() for f in aliked(views)]


class SuperPointScores(nn.Module):
    """SuperPoint's keypoint scores; the parameters' names are those of its release."""

    def __init__(self) -> None:
        super().__init__()
        widths = {"1a": 1, "1b": 64, "2a": 64, "2b": 64, "3a": 64, "3b": 128, "4a": 128, "4b": 128}
        for name, inputs in widths.items():
            outputs = 64 if name[0] in "12" else 128
            setattr(self, f"conv{name}", nn.Conv2d(inputs, outputs, 3, padding=1))
        self.convPa = nn.Conv2d(128, 256, 3, padding=1)
        self.convPb = nn.Conv2d(256, 65, 1)

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, H, W) probabilities."""
        x = (views * views.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        for level in "1234":
            x = F.max_pool2d(x, 2) if level != "1" else x
            x = F.relu(getattr(self, f"conv{level}a")(x))
            x = F.relu(getattr(self, f"conv{level}b")(x))
        logits = self.convPb(F.relu(self.convPa(x)))  # 64 pixels of a cell, and "none"
        return F.pixel_shuffle(logits.softmax(dim=1)[:, :64], 8)[:, 0]


def _peaks(scores: Tensor, limit: int, least: float) -> Tensor:
    """Sub-pixel local maxima (N, 2) of a map (H, W), the best ``limit``."""
    height, width = scores.shape
    kept = (scores >= local_maximum(scores[None, None], _RADIUS)[0, 0]) & (scores > least)
    kept = clear_border(kept[None, None], 4, width=width, height=height)[0, 0]
    values, order = scores.masked_fill(~kept, -1).flatten().topk(min(limit, scores.numel()))
    order = order[values > 0]
    return refine(scores, torch.stack([order % width, order // width], dim=-1))


def _dog(view: Tensor, limit: int) -> Tensor:
    pixels = (view.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    sift = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=limit, contrastThreshold=0.02, enable_precise_upscale=True
    )
    found = sift.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
    points = np.array([keypoint.pt for keypoint in found], np.float32).reshape(-1, 2)
    return torch.from_numpy(np.unique(points, axis=0)).to(view.device)


def _checkpoint(name: str, weights: Path | None) -> Path:
    if weights is None and name in _DOWNLOADS:
        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / _DOWNLOADS[name]
        weights = downloaded if downloaded.is_file() else None
    if weights is None:
        raise SamfeatError(f"--detector {name}", "give its checkpoint with --weights")
    if not weights.is_file():
        raise SamfeatError(weights, "no such checkpoint", "check the path")
    return weights


def _load(network: Any, path: Path, choose: Callable[[Any], Any]) -> Any:
    read = read_torch(path, "give its authors' file")
    try:
        state = choose(read)
        wanted = network.state_dict()
        # Buffers that are no statistics (grids) are made by the network itself.
        missing = [key for key, _ in network.named_parameters() if key not in state]
        if missing:
            raise KeyError(f"lacks {missing[0]}")
        network.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise SamfeatError(
            path, f"is not a checkpoint of this detector ({why})", "give its authors' file"
        ) from None
    return network
