"""Convolution, bias and ReLU as one kernel of cuDNN's, with its gradient.

PyTorch adds the bias and takes the maximum in passes of their own, which cost as much as two thirds
of the convolution where the features are large. In bfloat16 alone: in float32 the last digits,
which decide of ties, should be those of every other device.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHANNELS = 8  # its fast kernels take multiples of them; of an image's three it has slow ones
_THERE = torch.version.cuda is not None and hasattr(torch, "cudnn_convolution_relu")


def fuses(x: Tensor) -> bool:
    """Whether :func:`convolution_relu` can take these features."""
    if not _THERE or x.device.type != "cuda" or not torch.cuda.is_available():
        return False
    half = torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype() == torch.bfloat16
    exporting = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return half and not exporting and torch.backends.cudnn.enabled


def convolution_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """ReLU of a convolution with a bias, in bfloat16; autocast does not know it."""
    bias = cast(Tensor, conv.bias)
    x, weight, bias = (part.to(torch.bfloat16) for part in (x, conv.weight, bias))
    if x.shape[1] % _CHANNELS:
        missing = -x.shape[1] % _CHANNELS
        x, weight = (F.pad(part, (0, 0, 0, 0, 0, missing)) for part in (x, weight))
        x = x.contiguous(memory_format=torch.channels_last)
    return cast(Tensor, _ConvolutionRelu.apply(x, weight, bias, conv.stride, conv.padding))


class _ConvolutionRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any
    ) -> Tensor:
        found = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1), 1)
        ctx.save_for_backward(x, weight, found)
        ctx.stride, ctx.padding = stride, padding
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, found = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, found, 0)
        found = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1,
            list(ctx.needs_input_grad[:3]),
        )  # fmt: skip
        return (*found, None, None)
