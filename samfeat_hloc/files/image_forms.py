"""An image in every form that the package takes: a file, an array, a Pillow image, a tensor.

Grey is repeated to three channels. Values are never guessed at: an array or tensor has 0 to 255 as
uint8 or 0 to 1 as floats, and anything else is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from ..errors import SamfeatError
from .images import decode_pillow, read_photo

if TYPE_CHECKING:
    from torch import Tensor

ImageLike: TypeAlias = "str | Path | np.ndarray | Image.Image | Tensor"
"""A path; a Pillow image; or, uint8 or floats in [0, 1], an array (H, W, 3) RGB or (H, W) grey or a
tensor (3, H, W) RGB or (1, H, W) grey."""

# How far floats may lie beyond [0, 1]: resizing with a bicubic kernel overshoots at edges.
_OVERSHOOT = 0.25


def as_rgb(image: ImageLike) -> np.ndarray:
    """An image in any form as RGB uint8 (H, W, 3), C-contiguous, as it is stored.

    Floats are rounded to the nearest of 256 values.

    Raises:
        SamfeatError: a file that :func:`.images.read_image` refuses, or an array or tensor of
            another shape, type or range.
    """
    return as_photo(image)[0]


def as_photo(image: ImageLike) -> tuple[np.ndarray, int]:
    """As :func:`as_rgb`, and the EXIF orientation of a file or Pillow image (else 1, upright).

    Raises:
        SamfeatError: as :func:`as_rgb`.
    """
    if isinstance(image, (str, Path)):
        return read_photo(Path(image))
    if isinstance(image, Image.Image):
        return decode_pillow(image)
    if isinstance(image, np.ndarray):
        return _from_array(image), 1
    return _from_tensor(image), 1


def _from_array(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    floats = np.issubdtype(image.dtype, np.floating)
    if (
        image.ndim != 3
        or image.shape[2] != 3
        or not (floats or image.dtype == np.uint8)
        or image.size == 0
    ):
        raise SamfeatError(
            "image",
            f"an array of shape {image.shape} and type {image.dtype} was given",
            "give (H, W, 3) in RGB, or (H, W), uint8 or floats in [0, 1]",
        )
    if floats:
        _check_range("an array", image.min(), image.max())
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def _check_range(form: str, low: float, high: float) -> None:
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # NaN is in no range
        raise SamfeatError(
            "image",
            f"{form} with values from {low:g} to {high:g} was given",
            "give floats in [0, 1], or uint8",
        )


def _from_tensor(image: Tensor) -> np.ndarray:
    import torch

    if not isinstance(image, torch.Tensor):
        raise SamfeatError(
            "image",
            f"a {type(image).__name__} was given",
            "give a path, a NumPy array, a Pillow image or a torch tensor",
        )
    if image.ndim != 3 or image.shape[0] not in (1, 3) or image.numel() == 0:
        raise SamfeatError(
            "image",
            f"a tensor of shape {tuple(image.shape)} was given",
            "give (3, H, W), or (1, H, W) for grey; several images as a list",
        )
    image = image.detach()
    if image.is_floating_point():
        _check_range("a tensor", image.min().item(), image.max().item())
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise SamfeatError(
            "image", f"a tensor of type {image.dtype} was given", "give floats in [0, 1], or uint8"
        )
    return np.ascontiguousarray(image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())
