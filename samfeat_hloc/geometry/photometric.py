"""Relighting: the day's small changes, and the night. Batched, on the tensors' device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import blur
from .homographies import uniform
from .sensor import photograph


def relight_day(views: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, white balance, gamma, a soft shadow, blur and noise, all mild.

    Arguments:
        views: (B, 3, H, W) in [0, 1].

    Returns:
        The same, in [0, 1].
    """
    batch = len(views)

    def factor(low: float, high: float, channels: int = 1) -> Tensor:
        return uniform((batch, channels, 1, 1), low, high, generator)

    x = views ** torch.exp(factor(-0.4, 0.4))
    x = x * factor(0.9, 1.1, 3)
    x = (x - 0.5) * factor(0.6, 1.4) + 0.5 + factor(-0.2, 0.2)
    x = x * (1 - factor(0, 0.5) * _clouds(views, 4, generator))
    grey = x.mean(dim=1, keepdim=True)
    x = torch.lerp(grey.expand_as(x), x, factor(0, 1).pow(0.3))
    x = _blur_some(x, 0.3, generator)
    return _noise(x, factor(0, 0.03), generator).clamp(0, 1)


def relight_night(
    views: Tensor,
    generator: torch.Generator,
    *,
    through_sensor: float = 0.0,
    lamplight: Tensor | None = None,
) -> Tensor:
    """A dark scene under a few lamps, photographed with a noisy sensor.

    Arguments:
        views: (B, 3, H, W) in [0, 1].
        lamplight: (B, 3, H, W), linear, the light of the scene's own lamps; None: lamps anywhere in
            the picture.
        through_sensor: share of the pictures that :func:`.sensor.photograph` makes of it, with
            noise as a camera leaves it, in place of white noise.

    Returns:
        The same, in [0, 1].
    """
    batch, _, height, width = views.shape

    def factor(low: float, high: float, channels: int = 1) -> Tensor:
        return uniform((batch, channels, 1, 1), low, high, generator)

    linear = views**2.2
    light = factor(0.02, 0.15).expand(batch, 3, height, width) * factor(0.8, 1.2, 3)
    y = torch.arange(height, device=views.device)[:, None] / height
    x = torch.arange(width, device=views.device)[None] / width
    for _ in range(4):
        distance2 = (x - factor(-0.2, 1.2)) ** 2 + (y - factor(-0.2, 1.2)) ** 2
        lamp = factor(0, 1) / (1 + distance2 / factor(0.01, 0.12))
        warmth = torch.cat([factor(0.9, 1.1), factor(0.6, 1.0), factor(0.25, 0.9)], dim=1)
        light = light + lamp * warmth
    linear = linear * (light if lamplight is None else lamplight)
    linear = linear / linear.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-4) * factor(0.04, 0.16)
    linear = _blur_some(linear, 0.5, generator)
    light = linear
    shot = torch.randn(linear.shape, generator=generator, device=generator.device)
    linear = linear + shot * (linear.clamp(min=0) * factor(0.0003, 0.004)).sqrt()
    linear = _noise(linear, factor(0, 0.012), generator)
    picture = (linear.clamp(0, 1) + 1e-5) ** (1 / 2.2)
    if not through_sensor:
        return picture
    return torch.where(factor(0, 1) < through_sensor, photograph(light, generator), picture)


def _noise(x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=generator, device=generator.device)


def _blur_some(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blur a share of the batch with a Gaussian of up to 1.2 pixels."""
    batch = len(x)
    sigma = uniform((batch, 1), 0.3, 1.2, generator)
    chosen = uniform((batch, 1), 0, 1, generator) < share
    reach = torch.arange(-3, 4, device=x.device, dtype=x.dtype)
    line = torch.exp(-(reach**2) / (2 * sigma**2))
    line = torch.where(chosen, line, (reach == 0).to(x.dtype).expand_as(line))
    return blur(x, line / line.sum(dim=1, keepdim=True))


def _clouds(like: Tensor, cells: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields (B, 1, H, W) in [0, 1]: soft shadows."""
    coarse = uniform((len(like), 1, cells, cells), 0, 1, generator)
    return F.interpolate(coarse, like.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
