"""A training step as a GPU sees it: a fixed number of operators, and nothing that waits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixed_operators import operators
from torch import Tensor, nn

from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.operators import halve_and_shrink, shrink
from samfeat_hloc.geometry import blur as blurs
from samfeat_hloc.geometry.homographies import inverse, transform
from samfeat_hloc.training.corners import common_corners
from samfeat_hloc.training.pairs import PairBatch
from samfeat_hloc.training.recipe import Recipe
from samfeat_hloc.training.stepping import Clock, Norms, adam, descend
from samfeat_hloc.training.trainer import batch_losses, total_loss, training_step

SIDE, POINTS = 64, 24


def pairs(count: int, device: str = "cpu") -> PairBatch:
    def some(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=device)

    image = (3, SIDE, SIDE)
    maps = some(SIDE, SIDE)
    points = some(POINTS, 2) * SIDE
    groups = torch.zeros(count, POINTS, dtype=torch.long, device=device)
    return PairBatch(
        some(*image), some(*image), maps, maps, maps, maps, maps, maps, points, points,
        some(POINTS), some(POINTS, POINTS), points, points, some(POINTS), groups, groups, some(),
    )  # fmt: skip


def test_a_step_runs_a_fixed_number_of_operators_and_waits_for_nothing(tmp_path: Path) -> None:
    recipe = Recipe(output=tmp_path)
    recipe.train.precision = "float32"

    class Sgd:
        """Stands for the fused optimizer, which a GPU alone has."""

        def __init__(self, model: nn.Module) -> None:
            self.param_groups = [{"params": list(model.parameters())}]
            self.defaults = {"fused": True}
            self.steps = 0

        def zero_grad(self, set_to_none: bool) -> None:
            pass

        def step(self) -> None:
            self.steps += 1

    def prepare(count: int, device: str) -> Any:
        with torch.device(device):
            model = SAMFeat(edge_attention=False).train()
        clock = Clock(torch.device("cpu"))  # there are no events without a GPU
        return model, Sgd(model), pairs(count, device), recipe, clock

    def step(prepared: Any) -> None:
        training_step(*prepared)

    def forward(prepared: Any) -> None:
        model, _, batch, *_ = prepared
        total_loss(batch_losses(model(batch.network_input), batch, recipe.losses), recipe.losses)

    # Without a GPU nothing goes backwards on one, and copies between devices are seen forwards.
    for device, work in (("cpu", step), ("cuda", forward)):
        few, many = (operators(partial(prepare, n, device), work) for n in (2, 6))
        assert few == many
        assert few["aten::convolution"] > 10
        assert (few["aten::convolution_backward"] > 10) == (work is step)


def test_the_labels_of_all_images_are_refined_at_once() -> None:
    def prepare(count: int) -> Any:
        views = torch.rand(count, 3, SIDE, SIDE, device="cuda")
        return views, torch.eye(3, device="cuda").expand(count, 3, 3), views[:, 0]

    def work(prepared: Any) -> None:
        views, matrix, seen = prepared
        common_corners(views, views, lambda x: transform(inverse(matrix), x), seen, limit=8)

    assert operators(lambda: prepare(2), work) == operators(lambda: prepare(7), work)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_halving_and_shrinking(factor: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.relu(torch.randn(2, 8, 24, 16)).to(dtype).requires_grad_()  # with equal zeros
    ways = (lambda: (F.max_pool2d(x, 2), shrink(x, factor)), lambda: halve_and_shrink(x, factor))
    found = []
    for way in ways:
        x.grad = None
        halved, shrunk = way()
        (halved.float().square().sum() + shrunk.float().exp().sum()).backward()
        assert x.grad is not None
        found.append((halved.detach(), shrunk.detach(), x.grad))
    for plain, together in zip(*found, strict=True):
        torch.testing.assert_close(plain, together)


def test_blurs_are_the_same_on_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    x, lines = torch.rand(3, 2, 20, 30), torch.rand(3, 5)
    lines = lines / lines.sum(1, keepdim=True)
    padded = F.pad(x, (2,) * 4, mode="replicate")
    along = blurs._along(blurs._along(padded, lines, -1, 30), lines, -2, 20)
    torch.testing.assert_close(blurs.blur(x, lines), along)
    plane = padded[1, 0].unfold(0, 5, 1).unfold(1, 5, 1)
    torch.testing.assert_close(torch.einsum("hwij,i,j", plane, lines[1], lines[1]), along[1, 0])


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_that_is_not_a_number_changes_nothing(fused: bool) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = adam([weight], 0.1, 0.0)
    if fused:
        optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    descend(optimizer, weight.sum(), 1.0)
    before = weight.detach().clone()
    assert not torch.equal(before, torch.ones(3))
    for factor in (torch.nan, torch.inf):
        assert not torch.isfinite(descend(optimizer, (weight * factor).sum(), 1.0))
        assert torch.equal(weight.detach(), before)
    norm = descend(optimizer, weight.sum(), 1.0)
    torch.testing.assert_close(norm, torch.tensor(3.0).sqrt())
    assert not torch.equal(weight.detach(), before)


@pytest.mark.parametrize(("device", "noticed"), [("cpu", 2), ("cuda", 3)])
def test_a_step_that_was_none_is_noticed_a_step_later_on_a_gpu(device: str, noticed: int) -> None:
    stopped: list[tuple[int, int]] = []
    now = 0
    norms = Norms(torch.device(device), lambda step, batch: stopped.append((step, now)))
    batch = pairs(1)
    for now, norm in enumerate((1.0, 2.0, torch.nan, 4.0)):
        norms.add(now, batch, torch.tensor(norm))
    assert stopped == [(2, noticed)]
    assert norms.last() == 4.0
