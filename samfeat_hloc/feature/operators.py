"""The network's operators, each in the fastest form that the device and the purpose allow."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cudnn, onednn


def only_inference(x: Tensor) -> bool:
    """Whether a faster form without a good backward, without a GPU's kernel, or without a name in
    ONNX may be taken."""
    exporting = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not exporting


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def conv_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """ReLU of a convolution."""
    if cudnn.fuses(x):
        return cudnn.convolution_relu(conv, x)
    fused = onednn.CONVOLUTION_RELU
    if fused is None or not only_inference(x):
        return F.relu(conv(x), inplace=True)
    # One pass over the memory in place of two; autocast does not know it.
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    weight, bias = (None if p is None else p.to(dtype) for p in (conv.weight, conv.bias))
    return cast(Tensor, fused(x.to(dtype), weight, bias, conv.padding, conv.stride, conv.dilation,
                              conv.groups, "relu", [], ""))  # fmt: skip


def to_one(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 convolution to one channel, (B, 1, H, W) float32."""
    if cudnn.fuses(x):
        # Its fast kernels make eight channels or more; the one alone takes a slow one, around
        # which the features change their memory format.
        weight = F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, 7))
        bias = cast(Tensor, conv.bias)
        return F.conv2d(x, weight, padding=1)[:, :1].float() + bias[:, None, None]
    if not only_inference(x) or x.dtype == torch.float32:  # whose last digits decide of ties
        return F.conv2d(x, conv.weight, conv.bias, padding=1).float()
    # Convolutions make 16 channels or more at once, so one costs as much as 16. Nine products of
    # each pixel, then sums of neighbours, cost half of that.
    batch, channels, height, width = x.shape
    weight = conv.weight.flip(2, 3)[0].permute(1, 2, 0).reshape(9, channels)
    products = weight @ x.permute(0, 2, 3, 1).reshape(-1, channels).t()
    planes = products.float().view(9, batch, height * width).transpose(0, 1)
    bias = cast(Tensor, conv.bias)
    return F.fold(planes, (height, width), 3, padding=1) + bias[:, None, None]


def halve(x: Tensor) -> Tensor:
    """2x2 max-pooling."""
    if not only_inference(x):
        return F.max_pool2d(x, 2)
    # The same, without the index of the maximum: several times faster in bfloat16.
    x = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(x[..., ::2], x[..., 1::2])


def shrink(x: Tensor, factor: int) -> Tensor:
    """Bilinear shrinking by an even factor, pixel centres at half; height and width its multiples.

    The samples are means of the middle 2x2 pixels.
    """
    if x.device.type == "cpu":
        channels, middle = x.shape[1], factor // 2 - 1
        mean = F.pad(x.new_full((channels, 1, 2, 2), 0.25), (middle,) * 4)
        return F.conv2d(x, mean, stride=factor, groups=channels)
    return middle_means(x, factor)


def middle_means(x: Tensor, factor: int) -> Tensor:
    """The means of the middle 2x2 of each ``factor`` x ``factor`` pixels, summed in float32.

    A pooling of the shifted features would copy all of them first.
    """
    middle = factor // 2 - 1
    first, *others = (
        x[..., row::factor, column::factor]
        for row in (middle, middle + 1)
        for column in (middle, middle + 1)
    )
    total = first.float()
    for part in others:
        total = total + part
    return (total / 4).to(x.dtype)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation, pixel centres at half (``align_corners=False``)."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def halve_and_shrink(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """:func:`halve` and :func:`shrink` of the same features."""
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return cast(tuple[Tensor, Tensor], _HalveAndShrink.apply(x, factor))
    return halve(x), shrink(x, factor)


class _HalveAndShrink(torch.autograd.Function):
    """Both with one gradient: that of shrinking is added where it looked, a quarter of the places
    or all of them, in place of a gradient as large as the features and a sum of two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        halved, places = torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
        ctx.save_for_backward(x, places)
        ctx.factor = factor
        return halved, shrink(x, factor)

    @staticmethod
    def backward(ctx: Any, of_halved: Tensor, of_shrunk: Tensor) -> tuple[Tensor, None]:
        x, places = ctx.saved_tensors
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(
            of_halved, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places
        )
        factor, middle = ctx.factor, ctx.factor // 2 - 1
        for row in (middle, middle + 1):
            for column in (middle, middle + 1):
                gradient[..., row::factor, column::factor].add_(of_shrunk, alpha=0.25)
        return gradient, None
