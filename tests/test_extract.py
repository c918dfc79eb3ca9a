"""Extraction: positions, batches, options, and the pieces that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from torch import Tensor

from samfeat_hloc.feature import detection
from samfeat_hloc.feature.extraction import extract_batch, resized_shape
from samfeat_hloc.feature.levels import COARSE_COSTS, POOLED_OCTAVES
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.feature.presets import PRESETS


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    return SAMFeat.from_pretrained()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Random shapes: corners everywhere, at many scales."""
    rng = np.random.default_rng(3)
    image = np.full((240, 324, 3), 90, np.uint8)
    for _ in range(150):
        x, y = rng.integers(0, [324, 240])
        w, h = rng.integers(4, 40, 2)
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    return image


class Blobs:
    """A network whose heatmap is known: a quadratic peak at each given place."""

    def __init__(self, places: list[tuple[float, float]], background: float = -50.0) -> None:
        self.places = places
        self.background = background

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1)

    def encode(self, image: Tensor) -> SimpleNamespace:
        height, width = image.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        logits = torch.full((height, width), self.background)
        for px, py in self.places:
            logits = torch.maximum(logits, 5 - (x - px) ** 2 - (y - py) ** 2)
        # Features hold their own true position: cell i covers pixels 4i to 4i + 3.
        quarter_y, quarter_x = torch.meshgrid(
            torch.arange(height // 4) * 4 + 1.5, torch.arange(width // 4) * 4 + 1.5, indexing="ij"
        )
        ones = torch.ones_like(quarter_x) * 100
        maps = torch.stack([quarter_x, quarter_y, ones]).expand(len(image), -1, -1, -1)
        return SimpleNamespace(
            keypoint_logits=logits.expand(len(image), 1, -1, -1),
            edges=torch.zeros(len(image), 1, height // 4, width // 4),
            features=maps,
        )

    def describe(self, features: Tensor) -> Tensor:
        return features

    def describe_at(
        self, features: Tensor, keypoints: Tensor, images: Tensor | None = None
    ) -> Tensor:
        height, width = features.shape[-2:]  # the same of all images
        return detection.sample(features[:1], keypoints[None], 4 * width, 4 * height)[0]

    def attention_map(self, features: Tensor) -> Tensor:
        return torch.full_like(features[:, :1], 2.0)


def test_keypoints_are_sub_pixel_and_descriptors_are_sampled_there() -> None:
    places = [(20.3, 30.6), (50.0, 41.25), (70.75, 10.1)]
    image = np.zeros((77, 101, 3), np.uint8)  # not a multiple of 16: padded
    found = extract_batch(Blobs(places), [image], ExtractOptions())[0]
    order = np.argsort(found["keypoints"][:, 0])
    np.testing.assert_allclose(found["keypoints"][order], places, atol=1e-3)
    x, y, scale = found["descriptors"]
    np.testing.assert_allclose(np.stack([x, y], 1) / scale[:, None] * 100, found["keypoints"],
                               atol=1e-2)  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(found["descriptors"], axis=0), 1, atol=1e-5)
    weighted = extract_batch(
        Blobs(places), [image], ExtractOptions(descriptor_weighting="attention")
    )
    np.testing.assert_allclose(np.linalg.norm(weighted[0]["descriptors"], axis=0), 2, atol=1e-5)


def test_keypoints_come_back_in_the_original_image() -> None:
    image = np.zeros((100, 160, 3), np.uint8)
    found = extract_batch(Blobs([(19.5, 24.5)]), [image], ExtractOptions(resize=80))[0]
    # The point between four pixels of the half-size image lies between four of the original.
    np.testing.assert_allclose(found["keypoints"], [[39.5, 49.5]], atol=1e-3)
    assert found["image_size"].tolist() == [160, 100]


def test_border_limit_and_threshold() -> None:
    places = [(2.0, 30.0), (98.0, 30.0), (40.0, 30.0), (60.0, 74.5)]
    image = np.zeros((77, 101, 3), np.uint8)
    network = Blobs(places)
    assert len(extract_batch(network, [image], ExtractOptions(border=0))[0]["keypoints"]) == 4
    inner = extract_batch(network, [image], ExtractOptions(border=4))[0]["keypoints"]
    np.testing.assert_allclose(inner, [[40, 30]], atol=1e-3)
    assert (
        len(
            extract_batch(network, [image], ExtractOptions(max_keypoints=2, border=0))[0][
                "keypoints"
            ]
        )
        == 2
    )
    none = extract_batch(network, [image], ExtractOptions(detection_threshold=0.999))[0]
    assert none["keypoints"].shape == (0, 2)
    assert none["descriptors"].shape == (3, 0)


def test_a_batch_equals_its_images_one_by_one(model: SAMFeat, photo: np.ndarray) -> None:
    images = [photo, photo[:, ::-1].copy(), photo[:200, :300].copy()]
    options = {"precision": "float32", "max_keypoints": 200}
    together = model.extract(images, **options)
    for image, found in zip(images, together, strict=True):
        alone = model.extract(image, **options)
        assert len(found["keypoints"]) == 200
        distance = torch.cdist(found["keypoints"], alone["keypoints"]).amin(1)
        assert (distance < 0.2).float().mean() > 0.95


def test_an_empty_wall_has_no_keypoints_and_is_no_error(model: SAMFeat) -> None:
    found = model.extract(np.zeros((64, 64, 3), np.uint8), detection_threshold=0.5)
    assert found["keypoints"].shape == (0, 2)
    assert found["descriptors"].shape == (128, 0)


def test_tiny_images(model: SAMFeat) -> None:
    for shape in ((1, 1, 3), (3, 500, 3), (17, 5, 3)):
        found = model.extract(np.full(shape, 100, np.uint8))
        assert found["keypoints"].shape[1] == 2


def test_options_are_checked(model: SAMFeat) -> None:
    bad = {"resize": 0, "max_keypoints": 0, "detection_threshold": 1.5, "nms_radius": -1,
           "border": -1, "descriptor_weighting": "none", "precision": "int8"}  # fmt: skip
    for name, value in bad.items():
        with refused(name, repr(value)):
            ExtractOptions.from_keywords({name: value})
    with refused("keypoints", "option", "max_keypoints"):
        model.extract(np.zeros((32, 32, 3), np.uint8), keypoints=3)
    with refused("resize_force", mend="resize"):
        ExtractOptions(resize_force=True)


def test_resizing_as_hloc_and_as_the_release() -> None:
    assert resized_shape(768, 1536, ExtractOptions(resize=1024)) == (512, 1024)
    assert resized_shape(300, 400, ExtractOptions(resize=1024)) == (300, 400)
    assert resized_shape(300, 400, PRESETS["samfeat_max"]) == (1200, 1600)
    assert resized_shape(233, 310, PRESETS["samfeat_official"]) == (240, 304)


def greedy(scores: np.ndarray, radius: int, threshold: float) -> set[tuple[int, int]]:
    """Best point first, each removing its square: the textbook loop."""
    left = np.where(scores >= threshold, scores, -np.inf)
    kept = set()
    while np.isfinite(left).any():
        y, x = np.unravel_index(np.argmax(left), left.shape)
        kept.add((int(x), int(y)))
        left[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = -np.inf
    return kept


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_exact_suppression_is_the_greedy_one(radius: int) -> None:
    scores = np.random.default_rng(radius).random((40, 53)).astype(np.float32)
    kept = detection.suppress(torch.from_numpy(scores)[None, None], radius, 0.3, exact=True)[0, 0]
    points = {(int(x), int(y)) for y, x in torch.nonzero(kept)}
    assert points == greedy(scores, radius, 0.3)
    peaks = detection.suppress(torch.from_numpy(scores)[None, None], radius, 0.3)[0, 0]
    assert bool((peaks <= kept).all())


@pytest.mark.parametrize("radius", [0, 1, 2, 4, 7, 64])
def test_local_maximum_is_max_pooling(radius: int) -> None:
    maps = torch.randn(2, 1, 40, 55)
    maps[maps < -1] = -torch.inf
    pooled = torch.nn.functional.max_pool2d(maps, 2 * radius + 1, stride=1, padding=radius)
    assert torch.equal(detection.local_maximum(maps, radius), pooled)


def test_scales_bring_points_back_to_their_place() -> None:
    network = Blobs([(40.25, 61.0), (100.5, 30.0)])  # at any size
    image = np.full((120, 160, 3), 90, np.uint8)
    options = ExtractOptions(scales=[1.0, 2.0], precision="float32")
    found = extract_batch(network, [image], options)[0]
    halved = [((x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5) for x, y in network.places]
    expected = sorted([*network.places, *halved])
    np.testing.assert_allclose(sorted(map(tuple, found["keypoints"])), expected, atol=0.02)


def test_scales_never_go_beyond_the_size_asked_for() -> None:
    seen: list[int] = []

    class Recorder(Blobs):
        def encode(self, image: Tensor) -> SimpleNamespace:
            seen.append(max(image.shape[-2:]))
            return super().encode(image)

    def sides(length: int, up_to: int | None, scales: tuple[float, ...]) -> list[int]:
        seen.clear()
        image = np.full((length // 2, length, 3), 90, np.uint8)
        options = ExtractOptions(resize=up_to, scales=scales, scales_up_to=up_to)
        extract_batch(Recorder([(20.0, 20.0)]), [image], options)
        return list(seen)

    assert sides(320, 320, (0.5, 1.0, 1.5)) == [160, 320]
    assert sides(640, 320, (0.5, 1.0, 1.5)) == [160, 320]
    assert sides(160, 320, (0.5, 1.0, 1.5)) == [80, 160, 240]
    assert sides(320, None, (1.0, 1.5)) == [320, 480]
    assert sides(320, 320, (1.5,)) == [320]


def test_scales_share_the_keypoints(model: SAMFeat, photo: np.ndarray) -> None:
    def extract(*scales: float) -> dict[str, np.ndarray]:
        return extract_batch(model, [photo], ExtractOptions(max_keypoints=300, scales=scales))[0]

    single, twice, both = extract(1.0), extract(2.0), extract(1.0, 2.0)
    assert both["keypoints"].shape == (300, 2)
    assert both["descriptors"].shape == (128, 300)
    assert (np.diff(both["keypoint_scores"]) <= 0).all()
    known = {tuple(place) for found in (single, twice) for place in found["keypoints"]}
    assert all(tuple(place) in known for place in both["keypoints"])


def test_points_that_are_there_at_several_scales_come_first() -> None:
    class Seen(Blobs):
        def encode(self, image: Tensor) -> SimpleNamespace:
            scale = image.shape[-1] / 320
            often = [(scale * (x + 0.5) - 0.5, scale * (y + 0.5) - 0.5) for x, y in self.places]
            once = [(100.0, 200.0)] if scale == 1 else []
            return Blobs([*often, *once], background=-4.0).encode(image)

    image = np.full((320, 320, 3), 90, np.uint8)
    options = ExtractOptions(scales=(0.5, 0.7, 1.0), precision="float32")
    found = extract_batch(Seen([(60.0, 61.0)]), [image], options)[0]
    first, last = found["keypoints"][0], found["keypoints"][-1]
    np.testing.assert_allclose([first, last], [(60, 61), (100, 200)], atol=0.02)
    assert (np.diff(found["keypoint_scores"]) <= 0).all()
    score = found["keypoint_scores"][0]
    options = ExtractOptions(
        scales=(0.5, 0.7, 1.0), precision="float32", detection_threshold=float(score) - 1e-4
    )
    kept = extract_batch(Seen([(60.0, 61.0)]), [image], options)[0]
    assert kept["keypoint_scores"].tolist() == [score]


def test_a_finer_scale_is_worth_its_octave(model: SAMFeat, photo: np.ndarray) -> None:
    def logits(scale: float) -> dict[tuple[float, ...], float]:
        options = ExtractOptions(scales=(scale,), precision="float32", max_keypoints=200)
        found = extract_batch(model, [image], options)[0]
        scores = found["keypoint_scores"].astype(np.float64)
        places = (found["keypoints"] + 0.5) * scale - 0.5
        values = np.log(scores / (1 - scores))
        return {tuple(p): v for p, v in zip(places.round(2), values, strict=True)}

    image = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    doubled = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    doubled = F.interpolate(doubled, scale_factor=2, mode="bicubic", antialias=True).clamp(0, 1)
    finer = logits(2.0)
    image = (doubled[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    plain = logits(1.0)
    both = finer.keys() & plain.keys()
    assert len(both) > 50
    gains = [finer[place] - plain[place] for place in both]
    assert np.median(gains) == pytest.approx(COARSE_COSTS, abs=0.1)


def test_a_point_is_described_by_the_scales_around_its_own(
    model: SAMFeat, photo: np.ndarray
) -> None:
    def extract(*scales: float, **more: Any) -> dict[str, np.ndarray]:
        options = ExtractOptions(scales=scales, precision="float32", **more)
        return extract_batch(model, [photo], options)[0]

    alone, several = extract(1.0), extract(0.5, 0.25, 1.0, max_keypoints=None)
    at = {tuple(place): n for n, place in enumerate(several["keypoints"])}
    both = [(n, at[p]) for n, p in enumerate(map(tuple, alone["keypoints"])) if p in at]
    assert len(both) > 100
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    half = F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
    places = torch.from_numpy(alone["keypoints"])
    with torch.inference_mode():
        # Both sides are multiples of 4, and what is missing to 16 is the border gone on.
        padded = F.pad(half * 2 - 1, (0, -162 % 16, 0, -120 % 16), mode="replicate")
        coarse = model.describe_at(model.encode(padded).features[0], (places + 0.5) / 2 - 0.5)
    share = np.exp(-1 / (2 * POOLED_OCTAVES**2))  # a quarter is two octaves away: nothing of it
    expected = torch.from_numpy(alone["descriptors"].T) + share * F.normalize(coarse, dim=1)
    expected = F.normalize(expected, dim=1).numpy()
    for n, m in both:
        np.testing.assert_allclose(several["descriptors"][:, m], expected[n], atol=1e-4)


def test_scales_are_checked() -> None:
    for wrong in ((), (0.0,), (9.0,)):
        with refused("scales", repr(wrong)):
            ExtractOptions(scales=wrong)
    with refused("scales", "(1.0, 2.0)"):
        ExtractOptions.from_keywords({"official": True, "scales": (1.0, 2.0)})
