"""Separable blurs of batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(x: Tensor, lines: Tensor) -> Tensor:
    """Images (B, C, H, W) filtered by lines (B, K) along both axes, K odd; their border goes on."""
    batch, channels, height, width = x.shape
    taps = lines.shape[1]
    x = F.pad(x, (taps // 2,) * 4, mode="replicate")
    if x.device.type == "cpu":
        flat = x.reshape(1, batch * channels, *x.shape[-2:])
        lines = lines.repeat_interleave(channels, dim=0)
        flat = F.conv2d(flat, lines[:, None, None, :], groups=batch * channels)
        flat = F.conv2d(flat, lines[:, None, :, None], groups=batch * channels)
        return flat.view(batch, channels, height, width)
    # GPUs have slow kernels for a convolution of each channel by itself, above all in float32.
    return _along(_along(x, lines, -1, width), lines, -2, height)


def _along(x: Tensor, lines: Tensor, axis: int, length: int) -> Tensor:
    """A weighted sum of neighbours along an axis."""
    weights = lines.t()[:, :, None, None, None]
    found = x.narrow(axis, 0, length) * weights[0]
    for shift in range(1, len(weights)):
        found = torch.addcmul(found, x.narrow(axis, shift, length), weights[shift])
    return found
