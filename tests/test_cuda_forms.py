"""Forms of the network's operators and of extraction that only CUDA takes: the same values and
gradients, shown on a processor with cuDNN's kernel and CUDA graphs stood in for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samfeat_hloc.feature import cudnn, recordings
from samfeat_hloc.feature.operators import conv_relu, middle_means, shrink, to_one


@pytest.fixture
def cudnn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(x: Tensor, weight: Tensor, bias: Tensor, *how: Any) -> Tensor:
        assert x.shape[1] % 8 == 0 and x.dtype == weight.dtype == torch.bfloat16
        return F.relu(F.conv2d(x, weight, bias, *how[:3]))

    monkeypatch.setattr(torch, "cudnn_convolution_relu", fused)
    monkeypatch.setattr(cudnn, "fuses", lambda x: True)


def passed(work: Callable[[Tensor], Tensor], conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Values, and the gradients of input, weight and bias."""
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = work(x)
    found.float().square().sum().backward()
    assert x.grad is not None and conv.weight.grad is not None and conv.bias is not None
    assert conv.bias.grad is not None
    return [found.detach().float(), x.grad, conv.weight.grad, conv.bias.grad]


@pytest.mark.parametrize("channels", [3, 16])
def test_bias_and_relu_go_with_the_convolution(cudnn_here: None, channels: int) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(channels, 8, 3, padding=1), torch.randn(2, channels, 12, 10)
    plain = passed(lambda x: F.relu(conv(x)), conv, x)
    for expected, found in zip(plain, passed(lambda x: conv_relu(conv, x), conv, x), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(
            found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())
        )


def test_one_channel_is_the_first_of_eight(cudnn_here: None) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(16, 1, 3, padding=1), torch.randn(2, 16, 12, 10)
    plain = passed(lambda x: conv(x).float(), conv, x)
    padded = passed(lambda x: to_one(conv, x), conv, x)
    assert padded[0].shape == (2, 1, 12, 10)
    for expected, found in zip(plain, padded, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())
        )


@pytest.mark.parametrize("factor", [2, 4])
def test_means_without_a_copy_of_the_features(factor: int) -> None:
    x = torch.randn(2, 8, 24, 16)
    torch.testing.assert_close(middle_means(x, factor), shrink(x, factor))
    half = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    found = middle_means(half, factor)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), middle_means(half.float(), factor).bfloat16().float())


class Graph:
    """What a CUDA graph does: the recorded work once more, into the same tensors."""

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.replays = 0
        self.work: Callable[[], None] = lambda: None
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        self.work()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    @contextmanager
    def capture(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # others may copy meanwhile
        yield

    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(recordings, "to_host", lambda found: lambda: [x.clone() for x in found])
    return Graph.made


def doubled(given: Tensor) -> Sequence[Tensor]:
    """Work whose graph, if one is being recorded, is that of these tensors."""
    found = given * 2
    if Graph.made:
        Graph.made[-1].work = lambda: found.copy_(given * 2)
    return [found]


def test_the_second_of_a_size_is_recorded_and_the_others_replayed(graphs: list[Graph]) -> None:
    kept, seen = recordings.Recordings(), []
    for value in range(5):
        given = torch.full((1, 8, 8, 3), float(value))
        arrived = kept.begin("options", given, doubled)
        seen.append(float(arrived()[0][0, 0, 0, 0]))
        assert len(graphs) == int(value > 0)
    assert seen == [0, 2, 4, 6, 8]
    assert graphs[0].replays == 4
    for other in (torch.zeros(1, 8, 16, 3), torch.zeros(1, 8, 8, 3, dtype=torch.uint8)):
        kept.begin("options", other, doubled)
    kept.begin("other options", torch.zeros(1, 8, 8, 3), doubled)
    assert len(graphs) == 1


def test_the_sizes_used_last_are_kept(graphs: list[Graph]) -> None:
    kept = recordings.Recordings()
    sizes = [torch.zeros(1, 8, 8 + n, 3) for n in range(6)]
    for given in sizes:
        kept.begin(0, given, doubled)
        kept.begin(0, given, doubled)
    assert len(graphs) == 6
    kept.begin(0, sizes[5], doubled)
    assert len(graphs) == 6 and graphs[5].replays == 2
    kept.begin(0, sizes[0], doubled)  # forgotten: it is as the first of its size
    assert len(graphs) == 6
    for n in range(200):
        kept.begin(0, torch.zeros(1, 8, 100 + n, 3), doubled)
    assert len(kept._kept) <= 64


def test_what_cannot_be_recorded_goes_without(
    graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(graph: Graph, capture_error_mode: str) -> None:
        raise torch.OutOfMemoryError("no memory")

    kept, given = recordings.Recordings(), torch.ones(1, 8, 8, 3)
    monkeypatch.setattr(torch.cuda, "graph", refuses)
    for _ in range(3):
        assert kept.begin(0, given, doubled)()[0].eq(2).all()
    assert len(graphs) == 1  # tried once
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 10, 1 << 30))
    other = torch.ones(1, 8, 9, 3)
    for _ in range(3):
        assert kept.begin(0, other, doubled)()[0].eq(2).all()
    assert len(graphs) == 1  # too little memory to try


def test_a_recording_is_of_weights_where_they_are() -> None:
    model = nn.Linear(4, 4)
    before = recordings.where_they_are(model.parameters())
    with torch.no_grad():
        model.weight.add_(1)  # read as they are
    assert recordings.where_they_are(model.parameters()) == before
    model.weight = nn.Parameter(model.weight.detach().clone())
    assert recordings.where_they_are(model.parameters()) != before
    assert recordings.recordings_of(model) is recordings.recordings_of(model)
    assert recordings.recordings_of(model) is not recordings.recordings_of(nn.Linear(4, 4))
