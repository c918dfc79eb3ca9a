"""A photo as a camera makes it in little light: raw noise, demosaicing, denoising, JPEG.

Noise that is added to a finished picture is white. A camera's is not: it arises in the raw, one
colour a pixel, is amplified by the white balance, spread over neighbours by demosaicing, smoothed
where denoising sees no edge, and cut into blocks by JPEG. Batched, on the tensors' device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .homographies import uniform

# Luminance and chrominance of ITU-T T.81, tables K.1 and K.2: quantisation at quality 50.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
# ITU-R BT.601: Y, Cb and Cr of R, G and B.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def photograph(linear: Tensor, generator: torch.Generator) -> Tensor:
    """Photograph scenes with cameras of random gains, noise, denoising and compression.

    Arguments:
        linear: (B, 3, H, W), light that falls on the sensor, 1 where it saturates; H and W even.

    Returns:
        (B, 3, H, W) in [0, 1], gamma 2.2.
    """
    batch = len(linear)

    def factor(low: float, high: float) -> Tensor:
        return uniform((batch, 1, 1, 1), low, high, generator)

    gains = torch.cat([factor(1.5, 2.4), torch.ones_like(factor(0, 1)), factor(1.3, 2.2)], dim=1)
    raw = mosaic(linear / gains)
    shot, read = torch.exp(factor(math.log(2e-4), math.log(3e-3))), factor(0.0005, 0.006)
    variance = shot * raw.clamp(min=0) + read.square()
    noise = torch.randn(raw.shape, generator=generator, device=generator.device)
    raw = raw + noise * variance.sqrt()
    picture = (demosaic(raw) * gains).clamp(0, 1)
    picture = (picture + 1e-5) ** (1 / 2.2)
    luminance, chrominance = _convert(picture, _YCBCR).split([1, 2], dim=1)
    luminance = denoise(luminance, factor(0, 0.04))
    chrominance = denoise(chrominance, factor(0.02, 0.2))
    seen = torch.cat([luminance, chrominance], dim=1)
    return jpeg(seen, factor(35, 95)).clamp(0, 1)


def mosaic(picture: Tensor) -> Tensor:
    """One colour a pixel of (B, 3, H, W), red, green, green, blue in each 2x2: (B, 1, H, W)."""
    raw = picture[:, 1:2].clone()
    raw[..., ::2, ::2] = picture[:, 0:1, ::2, ::2]
    raw[..., 1::2, 1::2] = picture[:, 2:3, 1::2, 1::2]
    return raw


def demosaic(raw: Tensor) -> Tensor:
    """All colours by bilinear interpolation of a :func:`mosaic`: (B, 3, H, W)."""
    height, width = raw.shape[-2:]
    there = torch.ones(1, 3, height, width, dtype=raw.dtype, device=raw.device)
    there[:, 0] = there[:, 2] = 0
    there[:, 0, ::2, ::2] = 1
    there[:, 2, 1::2, 1::2] = 1
    there[:, 1] = 1 - there[:, 0] - there[:, 2]
    line = raw.new_tensor([0.5, 1.0, 0.5])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    known = F.conv2d(F.pad(there, (1,) * 4), kernel, groups=3)
    return F.conv2d(F.pad(raw * there, (1,) * 4), kernel, groups=3) / known


def denoise(picture: Tensor, sigma: Tensor) -> Tensor:
    """Wiener's filter of 5x5 pixels: where a plane varies by less than ``sigma`` (B, 1, 1, 1), it
    becomes its local mean."""
    padded = F.pad(picture, (2,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, 5, stride=1)
    variance = (F.avg_pool2d(padded.square(), 5, stride=1) - mean.square()).clamp(min=1e-8)
    signal = (variance - sigma.square()).clamp(min=0) / variance
    return mean + signal * (picture - mean)


def jpeg(planes: Tensor, quality: Tensor) -> Tensor:
    """What JPEG leaves of pictures, without subsampling.

    Arguments:
        planes: (B, 3, H, W), Y in [0, 1] and Cb, Cr in [-0.5, 0.5].
        quality: (B, 1, 1, 1), 1 to 100, as libjpeg counts it.

    Returns:
        RGB (B, 3, H, W).
    """
    height, width = planes.shape[-2:]
    middle = planes.new_tensor([128 / 255, 0, 0])[:, None, None]  # of Y; the others are around 0
    padded = F.pad(planes - middle, (0, -width % 8, 0, -height % 8), mode="replicate") * 255
    table = torch.tensor([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], device=planes.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    step = (table.view(1, 3, 1, 1, 8, 8) * scale[..., None, None]).round().clamp(1, 255)
    row = torch.arange(8, device=planes.device)
    cosine = torch.cos(math.pi / 8 * row[:, None] * (row[None] + 0.5)) / 2
    cosine[0] *= 0.5**0.5
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    kept = ((cosine @ blocks @ cosine.t()) / step).round() * step
    blocks = (cosine.t() @ kept @ cosine).permute(0, 1, 2, 4, 3, 5)
    found = blocks.reshape(padded.shape)[..., :height, :width] / 255 + middle
    back = torch.linalg.inv(torch.tensor(_YCBCR, dtype=torch.float64)).tolist()
    return _convert(found, back)


def _convert(picture: Tensor, matrix: object) -> Tensor:
    """Other colours (B, 3, H, W) by a 3x3 matrix."""
    return torch.einsum("ij,bjhw->bihw", torch.as_tensor(matrix).to(picture), picture)
