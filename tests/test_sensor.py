"""Photos as a camera makes them in little light."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from samfeat_hloc.geometry import photometric, sensor


def picture(height: int = 64, width: int = 96) -> torch.Tensor:
    """Smooth colours with an edge (1, 3, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = torch.stack([x / width, y / height, (x + y) / (width + height)])
    return (0.2 + 0.5 * planes + 0.25 * (x > 50))[None].float()


def test_demosaicing_brings_smooth_colours_back() -> None:
    smooth = picture()
    found = sensor.demosaic(sensor.mosaic(smooth))
    apart = (found - smooth).abs()[..., 2:-2, 2:-2]
    assert apart[..., :45].max() < 1e-5  # planes of colour are exact
    assert apart.max() > 0.05  # the edge is not
    assert torch.equal(sensor.mosaic(smooth)[0, 0, ::2, ::2], smooth[0, 0, ::2, ::2])


def test_jpeg_is_opencvs() -> None:
    random = np.random.default_rng(0)
    noisy = picture()[0].permute(1, 2, 0).numpy() + random.normal(0, 0.05, (64, 96, 3))
    rgb = (noisy.clip(0, 1) * 255).round().astype(np.uint8)
    y = torch.tensor(sensor._YCBCR)
    planes = torch.einsum("ij,hwj->ihw", y, torch.from_numpy(rgb).float() / 255)[None]
    for quality in (30, 60, 90):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1]
        theirs = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        found = sensor.jpeg(planes, torch.full((1, 1, 1, 1), float(quality)))
        ours = (found[0].permute(1, 2, 0).clamp(0, 1) * 255).numpy()
        lost = np.abs(theirs - rgb.astype(float)).mean()
        assert abs(np.abs(ours - rgb).mean() - lost) < 0.02 * lost
        if quality < 90:  # steps so small that libjpeg's whole numbers of Y, Cb, Cr change many
            assert np.abs(ours - theirs).mean() < 0.15 * lost


def test_denoising_flattens_what_varies_little() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = picture()[:, :1]
    noisy = plane + 0.02 * torch.randn(plane.shape, generator=generator)
    found = sensor.denoise(noisy, torch.full((1, 1, 1, 1), 0.03))
    flat = (..., slice(4, -4), slice(4, 40))
    assert (found - plane)[flat].std() < 0.4 * (noisy - plane)[flat].std()
    step = (found[..., 54] - found[..., 48]).mean() - (plane[..., 54] - plane[..., 48]).mean()
    assert step.abs() < 0.03  # the edge stays


def test_a_cameras_noise_is_not_white() -> None:
    light = torch.full((8, 3, 64, 64), 0.1)
    photo = sensor.photograph(light, torch.Generator().manual_seed(0))
    assert photo.shape == light.shape
    assert photo.min() >= 0 and photo.max() <= 1
    assert (photo.mean(dim=(2, 3)) - 0.1 ** (1 / 2.2)).abs().max() < 0.03
    noise = photo - photo.mean(dim=(2, 3), keepdim=True)

    def neighbours(x: torch.Tensor) -> float:
        return float((x[..., 1:] * x[..., :-1]).mean() / x.square().mean())

    assert neighbours(noise) > 0.3
    white = photometric._noise(light, torch.tensor(0.01), torch.Generator().manual_seed(0)) - light
    assert abs(neighbours(white)) < 0.02


def test_nights_without_a_sensor_are_what_they_were() -> None:
    day = picture(64, 64)
    plain, none, through = (
        photometric.relight_night(day, torch.Generator().manual_seed(3), **options)
        for options in ({}, {"through_sensor": 0.0}, {"through_sensor": 1.0})
    )
    assert torch.equal(plain, none)
    assert not torch.equal(plain, through)
    assert (plain.mean() - through.mean()).abs() < 0.05  # the same scene
