"""Extraction as a GPU does it: the processor's results, and a fixed number of operators a batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from fixed_operators import operators
from test_extract import photo  # noqa: F401  # a fixture
from torch import Tensor

from samfeat_hloc.feature import detection, levels, network
from samfeat_hloc.feature.extraction import extract_batch, extract_tensors
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions

OPTIONS = {
    "limited": ExtractOptions(max_keypoints=150, precision="float32"),
    "all": ExtractOptions(max_keypoints=None, precision="float32"),
    "several scales": ExtractOptions(
        scales=(0.5, 0.7, 1.0, 1.4), max_keypoints=300, precision="float32"
    ),
    "weighted": ExtractOptions(
        scales=(0.5, 1.0), max_keypoints=200, descriptor_weighting="attention", precision="float32"
    ),
    "sparse": ExtractOptions(
        scales=(0.5, 1.0), max_keypoints=900, detection_threshold=0.9, precision="float32"
    ),
    "official": ExtractOptions.from_keywords({"official": True}),
}


@pytest.fixture(scope="module")
def model() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


@pytest.fixture
def without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU on the processor."""
    for module in (detection, network):
        monkeypatch.setattr(module, "counts_first", lambda device: False)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_gives_what_the_processor_gives(
    model: SAMFeat,
    photo: np.ndarray,  # noqa: F811
    options: ExtractOptions,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    blank = np.full_like(photo, 80)
    images = [photo, blank, photo[::-1].copy(), photo[:160, :240].copy()]
    expected = [extract_batch(model, [image], options)[0] for image in images]
    request.getfixturevalue("without_looking")
    together = extract_batch(model, images, options)
    alone = [extract_batch(model, [image], options)[0] for image in images]
    counts = [len(found["keypoints"]) for found in expected]
    assert counts[0] > 50 and counts[1] < counts[0]
    for found, single, wanted in zip(together, alone, expected, strict=True):
        for name in ("keypoints", "keypoint_scores", "descriptors"):
            assert found[name].shape == wanted[name].shape
            np.testing.assert_array_equal(single[name].shape, wanted[name].shape)
            np.testing.assert_allclose(single[name], wanted[name], atol=2e-5)
            np.testing.assert_allclose(found[name], wanted[name], atol=2e-3)
        assert (np.diff(found["keypoint_scores"]) <= 0).all()


def test_of_equal_scores_the_first_points_come_first(without_looking: None) -> None:
    scores = torch.zeros(2, 6, 5)
    scores[:, 2, 1] = scores[0, 4, 4] = 1.0
    kept = scores >= torch.tensor([[[0.0]], [[0.5]]])
    xy, values = detection.best_points(scores, kept, 30)
    rest = [[x, y] for y in range(6) for x in range(5) if [x, y] not in ([1, 2], [4, 4])]
    assert xy[0].tolist() == [[1, 2], [4, 4], *rest]
    assert values[0].tolist() == [1, 1, *[0] * 28]
    assert xy[1, 0].tolist() == [1, 2]
    assert values[1].tolist() == [1, *[-torch.inf] * 29]


@pytest.mark.parametrize("name", ["limited", "several scales", "weighted"])
@pytest.mark.parametrize("edge_attention", [False, True])
def test_a_batch_is_a_fixed_number_of_operators_and_none_waits(
    name: str, edge_attention: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "fast_bfloat16", lambda device: False)

    def used(batch: int) -> Counter[str]:
        def prepared() -> tuple[SAMFeat, Tensor]:
            with torch.device("cuda"):
                model = SAMFeat(edge_attention=edge_attention).eval()
                return model, torch.empty(batch, 3, 120, 160)

        def extract(given: tuple[SAMFeat, Tensor]) -> None:
            found = extract_tensors(*given, OPTIONS[name])
            assert found.keypoints.device.type == "cuda"
            assert found.descriptors.shape[:2] == (batch, 128)

        return operators(prepared, extract)

    assert used(2) == used(9)
