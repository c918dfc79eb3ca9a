"""torchvision beside a torch that its compiled part was not built for.

segment-anything and timm import torchvision. Its wheels fit one build of torch; beside another
(torch's CPU build, say) the import fails for want of its compiled operators, of which the teachers
need none but non-maximum suppression. That one is written here in torch.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import Tensor

from ..errors import SamfeatError
from .registry import need

logger = logging.getLogger(__name__)

_defined: list[Any] = []  # the operators live as long as their library object


def need_torchvision(purpose: str) -> None:
    """Import torchvision, with a replacement for its compiled operators where they do not load.

    Raises:
        SamfeatError: it is not installed, or does not load all the same.
    """
    try:
        need("torchvision", purpose)
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _unfit(purpose, error) from None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, non_maximum_suppression, "CompositeExplicitAutograd")
    _defined.append(library)
    try:
        extension = need("torchvision.extension", purpose)
    except RuntimeError as error:
        raise _unfit(purpose, error) from None
    extension._has_ops = lambda: True
    logger.info("torchvision: its compiled operators do not fit this torch; going without them")


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes (N, 4) x0 y0 x1 y1 that no better one overlaps, best first.

    Arguments:
        scores: (N,). iou_threshold: two boxes overlap when intersection over union is above it.
    """
    order = scores.argsort(descending=True)
    boxes = boxes[order].double()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if kept[i]:
            low = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
            high = torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
            both = (high - low).clamp(min=0).prod(dim=1)
            kept[i + 1 :] &= both <= iou_threshold * (area[i] + area[i + 1 :] - both)
    return order[kept]


def _unfit(purpose: str, error: Exception) -> SamfeatError:
    why = str(error).splitlines()[0]
    return SamfeatError(
        purpose,
        f"torchvision does not load beside torch {torch.__version__} ({why})",
        "install the torchvision that was released with this torch",
    )
