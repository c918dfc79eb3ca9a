"""Matching whole batches of pairs: hloc's very matches, and a fixed number of operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixed_operators import operators
from hypothesis import given, settings
from hypothesis import strategies as st
from test_h5store import assert_equal
from test_matches import THRESHOLDS, descriptors, plain, write_features, write_pairs
from torch import Tensor

from samfeat_hloc.feature import matching, matching_batches
from samfeat_hloc.feature.matching_batches import batches, match_batch, stacked, takes_halves
from samfeat_hloc.localization import matches
from samfeat_hloc.localization.matches import MatchConfig, match_many

SIZES = [(300, 400), (64, 400), (300, 65), (1, 70), (90, 1), (120, 333)]


@pytest.fixture
def whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU on the processor."""
    for module in (matching, matches):
        monkeypatch.setattr(module, "in_tiles", lambda device: False)


def pairs_of(sizes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    return [
        (descriptors(2 * i, a).t().contiguous().t(), descriptors(2 * i + 1, b).t().contiguous().t())
        for i, (a, b) in enumerate(sizes)
    ]


@pytest.mark.parametrize("config", THRESHOLDS)
def test_a_padded_batch_follows_the_definition(config: dict[str, Any]) -> None:
    pairs = pairs_of(SIZES)
    found, scores = match_batch(stacked(pairs), **config)
    assert found.dtype == torch.int64 and scores.dtype == torch.float32
    for b, (first, second) in enumerate(pairs):
        expected, expected_scores = plain(first.double().numpy(), second.double().numpy(), config)
        count = first.shape[1]
        assert np.array_equal(found[b, :count], expected)
        assert np.allclose(scores[b, :count], expected_scores, atol=1e-6)


@pytest.mark.parametrize("config", THRESHOLDS)
def test_a_batch_equals_hloc(config: dict[str, Any]) -> None:
    hloc = pytest.importorskip("hloc.matchers.nearest_neighbor", reason="hloc is not installed")
    conf = {**config, "do_mutual_check": config.get("mutual", True)}
    conf.pop("mutual", None)
    pairs = pairs_of(SIZES)
    found, scores = match_batch(stacked(pairs), **config)
    for b, (first, second) in enumerate(pairs):
        data = {"descriptors0": first[None], "descriptors1": second[None]}
        reference = hloc.NearestNeighbor(conf)(data)
        count = first.shape[1]
        assert torch.equal(found[b, :count], reference["matches0"][0])
        torch.testing.assert_close(scores[b, :count], reference["matching_scores0"][0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(64, 90), st.integers(64, 90)), min_size=1, max_size=3),
    st.integers(1, 3), st.integers(2, 4), st.booleans(), st.integers(0, 10_000),
)  # fmt: skip
def test_of_equals_the_first_counts_as_in_hloc(
    sizes: list[tuple[int, int]], kinds: int, length: int, mutual: bool, seed: int
) -> None:
    """Whole numbers, few kinds: many similarities are equal, and products are exact."""
    hloc = pytest.importorskip("hloc.matchers.nearest_neighbor", reason="hloc is not installed")
    random = np.random.default_rng(seed)
    scene = random.integers(-3, 4, (kinds, length)).astype(np.float32)

    def looks(count: int) -> Tensor:
        return torch.from_numpy(scene[random.integers(0, kinds, count)]).t()

    pairs = [(looks(a), looks(b)) for a, b in sizes]
    found, _ = match_batch(stacked(pairs), mutual=mutual)
    model = hloc.NearestNeighbor({"do_mutual_check": mutual})
    for b, (first, second) in enumerate(pairs):
        data = {"descriptors0": first[None].contiguous(), "descriptors1": second[None].contiguous()}
        assert torch.equal(found[b, : first.shape[1]], model(data)["matches0"][0])


def test_where_max_promises_no_order_the_first_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 3, (2, 40, 50)).float()
    for dim in (1, 2):
        expected = matching_batches._largest(x, dim)
        assert torch.equal(x.argmax(dim), expected[1])
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(matching_batches, "_FIRST_OF_EQUALS", ())
            for value, other in zip(expected, matching_batches._largest(x, dim), strict=True):
                assert torch.equal(value, other)


@pytest.mark.usefixtures("whole_batches")
@pytest.mark.parametrize("config", THRESHOLDS)
def test_batches_in_memory_are_split_and_equal_single_pairs(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of([(200, 250)] * 5)
    both = [torch.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    monkeypatch.setitem(matching_batches._SIMILARITIES, "cpu", 2 * 200 * 250 + 1)
    found, scores = matching.nearest_neighbours(*both, **config)
    for b, pair in enumerate(pairs):
        single, single_scores = matching.nearest_neighbours(*pair, **config)
        assert torch.equal(found[b], single) and torch.allclose(scores[b], single_scores)
    monkeypatch.setitem(matching_batches._SIMILARITIES, "cpu", 100)  # too large for a batch of one
    large, _ = matching.nearest_neighbours(*pairs[0], **config)
    assert torch.equal(large, found[0])


def test_batches_keep_the_order_and_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matching_batches._SIMILARITIES, "cpu", 10_000)
    pairs = pairs_of([(50, 40), (60, 40), (10, 90), (100, 100), (300, 300), (0, 20), (30, 30)])
    found = list(batches(iter(pairs), torch.device("cpu")))
    assert [pair for batch in found for pair in batch] == pairs
    assert [len(batch) for batch in found] == [2, 1, 1, 1, 2]


@pytest.mark.usefixtures("whole_batches")
@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig(ratio_threshold=0.95)])
def test_pairs_come_in_their_order_whatever_their_size(
    config: MatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of([*SIZES, (0, 50), (50, 0), (500, 500), (70, 70)])
    monkeypatch.setitem(matching_batches._SIMILARITIES, "cpu", 400 * 400)  # one is too large
    found = list(match_many(iter(pairs), config))
    for (first, second), group in zip(pairs, found, strict=True):
        expected, scores = matching.nearest_neighbours(first, second, **config.asdict())
        assert np.array_equal(group.datasets["matches0"], expected)
        assert group.datasets["matches0"].dtype == np.int16
        assert np.array_equal(group.datasets["matching_scores0"], scores.half())


@pytest.mark.usefixtures("whole_batches")
def test_the_stage_writes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"a.jpg": 60, "b.jpg": 50, "c.jpg": 0, "d.jpg": 120, "e.jpg": 1}
    features = write_features(tmp_path / "f.h5", counts)
    names = list(counts)
    listed = [(a, b) for a in names for b in names if a < b]
    pairs = write_pairs(tmp_path / "p.txt", listed)
    monkeypatch.setattr(matches, "_READ_AT_ONCE", 3)
    batched = matches.main(pairs, features, tmp_path / "batched.h5", device="cpu")
    monkeypatch.undo()
    assert_equal(batched, matches.main(pairs, features, tmp_path / "tiles.h5", device="cpu"))


def test_what_waits_is_noticed() -> None:
    wait = {
        "item": lambda x: x.sum().item(),
        "bool": lambda x: bool((x > 0).any()),
        "nonzero": lambda x: torch.nonzero(x),
        "mask": lambda x: x[x > 0],
        "to the host": lambda x: x.cpu(),
        "from the host": lambda x: x.new_tensor([1.0, 2.0]),
        "from the host, too": lambda x: torch.arange(3.0).to(x.device),
    }
    for what, work in wait.items():
        for mode in (torch.no_grad(), torch.inference_mode()):

            def waits(x: Tensor, work: Any = work, mode: Any = mode) -> None:
                with mode:
                    work(x)

            with pytest.raises(AssertionError, match="waits"):
                operators(lambda: torch.empty(4, device="cuda"), waits)
                pytest.fail(what)


@pytest.mark.parametrize("config", THRESHOLDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_batch_is_a_fixed_number_of_operators_and_none_waits(
    config: dict[str, Any], dtype: torch.dtype
) -> None:
    def used(sizes: list[tuple[int, int]]) -> Counter[str]:
        def pairs() -> list[tuple[Tensor, ...]]:
            return [
                tuple(torch.empty(n, 128, device="cuda", dtype=dtype).t() for n in size)
                for size in sizes
            ]

        return operators(pairs, lambda pairs: match_batch(stacked(pairs), **config))

    assert takes_halves(torch.device("cuda"))
    few, many = used([(300, 200), (250, 280)]), used([(300 - i, 200 + i) for i in range(40)])
    assert sum(few.values()) < 100
    # A transposed view for each image is all there is more of, and no work for the device.
    assert few - Counter({"aten::t": few["aten::t"]}) == many - Counter(
        {"aten::t": many["aten::t"]}
    )


def test_products_of_halves_are_summed_in_float32() -> None:
    """What CUDA is asked for; elsewhere halves become float32 first, which gives the same."""
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(3, 40, 128), dim=2).half()
    columns = F.normalize(torch.randn(3, 128, 50), dim=1).half()
    found = matching_batches._products(rows, columns)
    assert found.dtype == torch.float32
    exact = rows.double() @ columns.double()
    assert (found - exact).abs().max() < 1e-6 < (rows @ columns - exact).abs().max()
    asked = operators(
        lambda: [x.to("cuda") for x in (torch.empty(3, 4, 8).half(), torch.empty(3, 8, 5).half())],
        lambda given: matching_batches._products(*given),
    )
    assert asked == Counter({"aten::bmm": 1})


def test_a_batch_of_the_stage_comes_to_the_host_in_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[Tensor] = []
    monkeypatch.setattr(matches, "to_host", lambda tensors: copied.extend(tensors))

    def pairs() -> list[tuple[Tensor, ...]]:
        return [
            tuple(torch.empty(n, 128, device="cuda").t() for n in (500, 400 + i)) for i in range(20)
        ]

    operators(pairs, lambda pairs: matches._begin(pairs, MatchConfig()))
    assert [(x.device.type, x.dtype, tuple(x.shape)) for x in copied] == [
        ("cuda", torch.int16, (20, 2, 500))
    ]
