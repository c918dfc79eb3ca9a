"""Mutual neighbours by maxima of tiles: the very matches of a search through the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from torch import Tensor

from samfeat_hloc.feature import matching, matching_tiles, onednn
from samfeat_hloc.feature.matching import nearest_neighbours
from samfeat_hloc.localization.matches import MatchConfig, match_many


def searched(rows0: Tensor, rows1: Tensor) -> Tensor:
    """Mutual neighbours from the whole matrix; of equals the first."""
    similarity = matching_tiles.similarities(rows0, rows1)
    there, back = similarity.argmax(1), similarity.argmax(0)
    index = torch.arange(len(rows0))
    return torch.where(back[there] == index, there, -1)


def looks(count: int, seed: int, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two sets of descriptors (count, 128), most of them noisy looks of the same."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(count + count // 4, 128, generator=generator)
    sets = [
        F.normalize(F.normalize(part, dim=1) + noise * torch.randn(count, 128, generator=generator))
        for part in (scene[:count], scene[-count:][torch.randperm(count, generator=generator)])
    ]
    return sets[0], sets[1]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (37, 5), (300, 64), (1500, 256)])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_matches_are_those_of_the_whole_matrix(
    count: int, rows: int, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_tiles, "_TILE", rows * count)  # many tiles, the last one cut
    rows0, rows1 = looks(count, seed=count, noise=noise)
    matches, scores = nearest_neighbours(rows0.t(), rows1.t())
    assert torch.equal(matches, searched(rows0, rows1))
    best = matching_tiles.similarities(rows0, rows1).amax(1)
    torch.testing.assert_close(scores, (best + 1) / 2)


def test_without_onednn_the_matches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows0, rows1 = looks(800, seed=1)
    before = nearest_neighbours(rows0.t(), rows1.t())[0]
    monkeypatch.setattr(onednn, "LINEAR", None)
    assert torch.equal(nearest_neighbours(rows0.t(), rows1.t())[0], before)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(2, 4),
    st.integers(0, 10_000),
)  # fmt: skip
def test_equal_descriptors_match_once(
    count0: int, count1: int, kinds: int, length: int, seed: int
) -> None:
    """Whole numbers, few kinds: many similarities are equal, and products are exact."""
    random = np.random.default_rng(seed)
    scene = random.integers(-3, 4, (kinds, length)).astype(np.float32)
    rows0 = torch.from_numpy(scene[random.integers(0, kinds, count0)])
    rows1 = torch.from_numpy(scene[random.integers(0, kinds, count1)])
    matches, _ = nearest_neighbours(rows0.t(), rows1.t())
    similarity = rows0 @ rows1.t()
    index = torch.nonzero(matches >= 0)[:, 0]
    other = matches[index]
    assert len(set(other.tolist())) == len(other)
    assert (similarity[index, other] == similarity.amax(1)[index]).all()
    assert (similarity[index, other] == similarity.amax(0)[other]).all()
    for i, j in zip(index.tolist(), other.tolist(), strict=True):
        # no earlier descriptor of either image is the same
        assert not (rows0[:i] == rows0[i]).all(1).any()
        assert not (rows1[:j] == rows1[j]).all(1).any()
    mutual = (similarity == similarity.amax(1, keepdim=True)) & (similarity == similarity.amax(0))
    assert bool(mutual.any()) == bool(len(index))


def test_thousands_of_equal_descriptors_take_the_other_way() -> None:
    rows = torch.ones(2000, 128) / 128**0.5
    assert matching_tiles.mutual_neighbours([(rows, rows)]) is None
    matches, _ = nearest_neighbours(rows.t(), rows.t())
    assert matches[0] == 0 and (matches[1:] == -1).all()


def test_lengths_other_than_one_are_compared_by_the_product() -> None:
    rows0, rows1 = looks(400, seed=3)
    rows0 = rows0 * torch.linspace(0.01, 30, 400)[:, None]
    assert torch.equal(nearest_neighbours(rows0.t(), rows1.t())[0], searched(rows0, rows1))


def test_thresholds_and_batches() -> None:
    pairs = [looks(200, seed=seed, noise=0.04) for seed in range(3)]
    both = [torch.stack([pair[side].t() for pair in pairs]) for side in (0, 1)]
    matches, scores = nearest_neighbours(*both, distance_threshold=0.7)
    for b, (rows0, rows1) in enumerate(pairs):
        best = matching_tiles.similarities(rows0, rows1).amax(1)
        near = 2 * (1 - best) <= 0.49
        assert 0 < near.sum() < 200
        assert torch.equal(matches[b], torch.where(near, searched(rows0, rows1), -1))
        assert ((scores[b] > 0) == near).all()


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_pairs_of_any_sizes_at_once_are_those_alone(threshold: float | None) -> None:
    """Sizes differ, two pairs share an image, one has many equal descriptors, one has one."""
    several = [looks(90 + 40 * i, seed=i, noise=0.04) for i in range(4)]
    ones = torch.ones(7, 128) / 128**0.5
    rows = [*several, (several[1][0], several[3][1]), (ones, ones), (ones[:1], several[0][1])]
    pairs = [(first.t(), second.t()) for first, second in rows]
    found = matching.mutual_in_tiles(pairs, threshold)
    assert found is not None
    for pair, matches, scores in zip(pairs, *found, strict=True):
        count = pair[0].shape[1]
        alone = nearest_neighbours(*pair, distance_threshold=threshold)
        assert torch.equal(matches[:count], alone[0]) and torch.equal(scores[:count], alone[1])
        assert (matches[count:] == -1).all()
    assert found[0][5].tolist()[:7] == [0, *[-1] * 6]


@pytest.mark.parametrize("odd", [torch.ones(2000, 128) / 128**0.5, torch.ones(0, 128)])
def test_a_pair_that_is_not_for_tiles_leaves_the_others_as_they_are(odd: Tensor) -> None:
    pairs = [tuple(rows.t() for rows in looks(60, seed=1)), (odd.t(), odd.t())]
    together = list(match_many(iter(pairs), MatchConfig(), workers=1))  # type: ignore[arg-type]
    assert len(together) == 2
    for pair, group in zip(pairs, together, strict=True):
        expected = nearest_neighbours(*pair)[0].numpy()
        np.testing.assert_array_equal(group.datasets["matches0"], expected)
        assert group.datasets["matches0"].dtype == np.int16


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig(ratio_threshold=0.9)])
def test_pairs_side_by_side_come_in_their_order(config: MatchConfig) -> None:
    pairs = [tuple(rows.t() for rows in looks(50 + 40 * i, seed=i)) for i in range(7)]
    before = torch.get_num_threads()
    alone = list(match_many(iter(pairs), config, workers=1))  # type: ignore[arg-type]
    beside = list(match_many(iter(pairs), config, workers=3))  # type: ignore[arg-type]
    assert torch.get_num_threads() == before
    for a, b in zip(alone, beside, strict=True):
        for name in a.datasets:
            np.testing.assert_array_equal(a.datasets[name], b.datasets[name])


def test_an_error_in_a_pair_ends_the_others() -> None:
    good = (torch.eye(4), torch.eye(4))
    bad = (torch.eye(4), torch.eye(5))
    with refused("b", "RuntimeError"):
        list(match_many([good, bad, *[good] * 20], MatchConfig(), workers=2, names=["a", "b"]))
