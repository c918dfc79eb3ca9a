"""k-means in torch: Lloyd's iterations, the same for a seed, nothing that waits for a GPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from fixed_operators import operators

from samfeat_hloc.localization import vocabulary
from samfeat_hloc.localization.vocabulary import kmeans, vlad


def blobs(seed: int, clusters: int = 6, each: int = 70) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, 1, 16, generator=generator)
    noise = torch.randn(clusters, each, 16, generator=generator)
    return (centres + 0.3 * noise).flatten(0, 1)


def plain(points: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        centres = np.stack([points[nearest == k].mean(0) for k in range(len(centres))])
    return centres


@pytest.mark.parametrize("at_once", [1 << 26, 6 * 100])
def test_it_is_lloyds(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_AT_ONCE", at_once)  # several parts
    points = blobs(0)
    drawn = torch.randperm(len(points), generator=torch.Generator().manual_seed(3))[:6]
    expected = plain(points.double().numpy(), points[drawn].double().numpy(), 10)
    np.testing.assert_allclose(kmeans(points, 6, seed=3, iterations=10), expected, atol=1e-5)


def test_the_same_for_a_seed_and_another_for_another() -> None:
    points = blobs(1)
    first = kmeans(points, 5, seed=0)
    assert torch.equal(first, kmeans(points, 5, seed=0))
    assert not torch.equal(first, kmeans(points, 5, seed=1))


def test_no_centre_is_left_without_points() -> None:
    """Half of all points are one and the same, so most first centres are too."""
    points = blobs(2)
    points = torch.cat([points[:1].expand(len(points), -1), points])
    centres = kmeans(points, 12, seed=0)
    nearest = torch.cdist(points, centres).argmin(1)
    assert torch.isfinite(centres).all() and len(nearest.unique()) == 12
    one = kmeans(points[:1], 1, seed=0)
    torch.testing.assert_close(one, points[:1])


def test_a_fixed_number_of_operators_and_none_waits() -> None:
    def used(count: int) -> Counter[str]:
        def work(points: torch.Tensor) -> None:
            words = kmeans(points, 64, seed=0)
            vlad(points, words)

        return operators(lambda: torch.empty(count, 128, device="cuda"), work)

    assert used(1000) == used(60_000)
