"""Measuring speed: repeats in turns, ratios, the machine's rate, and a network's operations."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ..feature import onednn
from ..feature.matching_tiles import similarities
from .tables import aligned


@dataclass(frozen=True)
class Times:
    """Of every repeat, by way: seconds by the clock, and of processors (children's too).

    The second are lengthened less by whatever else the machine does.
    """

    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    processor: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One thing done in several ways.

    Attributes:
        name: what is done.
        unit: what `items` counts.
        items: done in one repeat.
        times: the first way is ours; none where everything is skipped.
        skipped: by way, why it was not measured.
        note: what a reader has to know.
    """

    name: str
    unit: str
    items: int
    times: Times
    skipped: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def seconds(self) -> Mapping[str, Sequence[float]]:
        return self.times.seconds

    @property
    def ours(self) -> str:
        return next(iter(self.seconds))

    def ratios(self, way: str, *, processor: bool = False) -> list[float]:
        """How many times faster the first way was than this one, repeat by repeat."""
        taken = self.times.processor if processor else self.seconds
        return [b / a for a, b in zip(taken[self.ours], taken[way], strict=True)]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "items": self.items,
            "seconds": {way: list(values) for way, values in self.seconds.items()},
            "processor_seconds": {
                way: list(values) for way, values in self.times.processor.items()
            },
            "ratios": {w: spread(self.ratios(w)) for w in self.seconds if w != self.ours},
            "processor_ratios": {
                w: spread(self.ratios(w, processor=True))
                for w in self.times.processor
                if w != self.ours
            },
            "skipped": dict(self.skipped),
            "note": self.note,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    low, middle, high = np.percentile(values, [0, 50, 100]).tolist()
    return {"min": low, "median": middle, "max": high}


def in_turns(
    ways: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> Times:
    """Time every way, one after the other in each repeat: a busy machine is so to all."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(-1 if warm_up else 0, repeats):
        for way, work in ways.items():
            gc.collect()  # what others left is not this way's to clear away
            start, used = time.perf_counter(), sum(os.times()[:4])
            work()
            if repeat >= 0:
                seconds[way].append(time.perf_counter() - start)
                processor[way].append(sum(os.times()[:4]) - used)
    return Times(seconds, processor)


def table(rows: Sequence[Row]) -> str:
    """The rows as text: items a second by median, and ratios by minimum, median and maximum."""
    header = ("what", "way", "a second", "faster by the clock", "by processor time")
    lines = []
    for row in rows:
        for way, seconds in row.seconds.items():
            rate = row.items / float(np.median(seconds))
            ratios = ["", ""]
            if way != row.ours:
                ratios = [
                    " ".join(f"{value:.2f}" for value in spread(found).values())
                    for found in (row.ratios(way), row.ratios(way, processor=True))
                ]
            name = f"{row.name} ({row.unit})" if way == row.ours else ""
            lines.append((name, way, f"{rate:.2f}", *ratios))
    skipped = [
        f"{row.name}: {way} skipped: {why}" for row in rows for way, why in row.skipped.items()
    ]
    note = "faster: how many times ours is, as minimum, median and maximum"
    return "\n".join([aligned(header, lines, "llr"), note, *skipped])


def matrix_rates(size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """Operations a second (multiplications and additions) of square matrix products.

    The best of `repeats`, with all of torch's threads: by ``torch.mm`` in float32 and bfloat16,
    and by the product that matching uses.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    ways: dict[str, Callable[[], object]] = {
        "float32": lambda: torch.mm(a, b),
        "float32 onednn": lambda: similarities(a, b),
    }
    a16, b16 = a.bfloat16(), b.bfloat16()
    ways["bfloat16"] = lambda: torch.mm(a16, b16)
    with torch.inference_mode():
        seconds = in_turns(ways, repeats).seconds
    return {way: 2 * size**3 / min(values) for way, values in seconds.items()}


@dataclass(frozen=True)
class Cost:
    """Of one forward pass: operations (2 a multiply-add) of convolutions and matrix products, by
    layer and in all, and bytes that all layers read and write, were nothing kept in a cache."""

    operations: int
    bytes_moved: int
    by_module: dict[str, int]

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / self.bytes_moved


def operations_of(work: Callable[[], object]) -> int:
    """Operations of the convolutions and matrix products that ``work`` does, by doing it."""
    with _operations() as flops:
        work()
    return int(flops.get_total_flops())


def forward_cost(model: torch.nn.Module, image: torch.Tensor) -> Cost:
    """Count a forward pass of ``image`` (B, 3, H, W), by running it."""
    with torch.inference_mode(), _operations() as flops:
        model(image)
    # another pass: the counter of operations takes composite layers apart
    with torch.inference_mode(), _Traffic() as traffic:
        model(image)
    counts = flops.get_flop_counts()
    modules: dict[str, int] = {}
    for name, found in counts.items():
        root, _, rest = name.partition(".")
        child = rest.partition(".")[0]
        # a list of layers has no forward pass, and so no count, of its own
        if rest == child != "" or (rest and f"{root}.{child}" not in counts):
            modules[child] = modules.get(child, 0) + sum(found.values())
    total = flops.get_total_flops()
    modules["between layers"] = total - sum(modules.values())  # levels are shrunk
    return Cost(total, traffic.bytes, modules)


def _operations() -> FlopCounterMode:
    """A counter that knows the fused convolution of :mod:`samfeat_hloc.feature.operators` too."""

    def fused(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    operator = onednn.CONVOLUTION_RELU
    return FlopCounterMode(display=False, custom_mapping={operator: fused} if operator else None)


class _Traffic(TorchDispatchMode):
    """Adds up the sizes of what operators read and write; views move nothing."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if _tensor(x)]
        made = [x for x in torch.utils._pytree.tree_leaves(output) if _tensor(x)]
        sources = {x.untyped_storage().data_ptr() for x in tensors}
        in_place = func._schema.is_mutable
        if in_place or any(x.untyped_storage().data_ptr() not in sources for x in made):
            self.bytes += sum(x.numel() * x.element_size() for x in [*tensors, *made])
        return output


def _tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def load() -> list[float] | None:
    """Mean number of processes that ran or waited, over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
