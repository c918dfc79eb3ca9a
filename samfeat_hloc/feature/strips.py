"""A level of the network strip by strip, on processors.

A level at the size of the image is 35 MB for 640x480 pixels in bfloat16, 100 MB for 1024x768: more
than a cache holds, and more than malloc keeps between images, so that every page of it is fetched
from the operating system anew, which costs as much as the convolutions themselves. Only what is
made of a level is looked at later, so a strip of rows is computed with the few rows around it that
its convolutions see, and forgotten. All values are those of the whole level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .operators import conv_relu, halve, halve_and_shrink, only_inference, shrink, to_one

_BYTES = 1 << 23  # of a strip's features: within the cache; smaller ones repeat more rows
_ROWS = 4  # strips are multiples of it, as levels are shrunk by 4 at most


def level_in_strips(
    convs: Sequence[nn.Conv2d],
    head: nn.Conv2d,
    factor: int,
    x: Tensor,
    others: Sequence[nn.Conv2d] = (),
) -> tuple[Tensor, ...]:
    """What is made of a level: convolutions with ReLU of (B, C, H, W).

    Arguments:
        others: convolutions that see no more rows than their stride.

    Returns:
        Max-pooled by 2; shrunk by ``factor``; the logits of a detection head, float32; and what
        the others make of it.
    """
    if not only_inference(x):
        return _level(convs, head, factor, x, others)
    batch, _, height, width = x.shape
    channels = convs[-1].out_channels
    size = 2 if torch.is_autocast_enabled("cpu") else x.element_size()
    rows = max(_ROWS, _BYTES // (batch * width * channels * size) // _ROWS * _ROWS)
    if height <= rows:
        return _level(convs, head, factor, x, others)
    found = [
        _strip(convs, head, factor, x, others, first, min(first + rows, height))
        for first in range(0, height, rows)
    ]
    return tuple(torch.cat(part, dim=2) for part in zip(*found, strict=True))


def _level(
    convs: Sequence[nn.Conv2d], head: nn.Conv2d, factor: int, x: Tensor, others: Sequence[nn.Conv2d]
) -> tuple[Tensor, ...]:
    for conv in convs:
        x = conv_relu(conv, x)
    halved, shrunk = halve_and_shrink(x, factor)
    return halved, shrunk, to_one(head, x), *(other(x) for other in others)


def _strip(
    convs: Sequence[nn.Conv2d], head: nn.Conv2d, factor: int, x: Tensor,
    others: Sequence[nn.Conv2d], first: int, last: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """As :func:`_level`, of the rows from ``first`` up to ``last``."""
    height = x.shape[2]
    reach = len(convs) + 1  # rows beyond it that it sees, as each convolution and the head see one
    above, below = min(first, reach), min(height - last, reach)
    x = x[:, :, first - above : last + below]
    for conv in convs:
        x = conv_relu(conv, x)
        # The outermost row saw padding where there is more of the image.
        cut = int(above > 0), int(below > 0)
        above, below = above - cut[0], below - cut[1]
        x = x[:, :, cut[0] : x.shape[2] - cut[1]]
    logits = to_one(head, x)[:, :, above : above + last - first]
    x = x[:, :, above : above + last - first]
    return halve(x), shrink(x, factor), logits, *(other(x) for other in others)
