"""Steps of the optimizer that do not wait for a GPU, and the time that they take.

A look at a number on the device waits until all that was given to it is done, and the device then
waits for the next step to be prepared. So whether a loss is a number is decided there, where a step
without one changes nothing, and looked at a step later.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..parallel.devices import to_host
from .pairs import PairBatch


def adam(parameters: Iterable[nn.Parameter], rate: float, decay: float) -> torch.optim.Adam:
    """The optimizer; on CUDA all parameters are one kernel."""
    trained = list(parameters)
    fused = trained[0].device.type == "cuda"
    return torch.optim.Adam(trained, lr=rate, weight_decay=decay, fused=fused or None)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> Tensor:
    """A step down the gradient of a loss, which is clipped at the norm ``clip``.

    Returns:
        The norm of the gradient before clipping, (); not finite, and the step not taken, where loss
        or gradient is not.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, clip)
    norm = torch.where(torch.isfinite(loss.detach()), norm, math.nan)
    if optimizer.defaults.get("fused"):
        # What torch's gradient scaler sets: the kernel itself leaves everything as it was.
        optimizer.grad_scale, optimizer.found_inf = None, (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(torch.isfinite(norm)):
        optimizer.step()
    return norm


@dataclass(frozen=True)
class _Taken:
    step: int
    batch: PairBatch
    norm: Callable[[], list[Tensor]]


class Norms:
    """The norms of steps, each read when the next step is under way (on a CPU, at once)."""

    def __init__(self, device: torch.device, stop: Callable[[int, PairBatch], None]) -> None:
        """
        Arguments:
            stop: called with the first step whose norm is not finite, and its batch.
        """
        self._late = 1 if device.type == "cuda" else 0
        self._stop = stop
        self._taken: deque[_Taken] = deque()
        self._last = math.nan

    def add(self, step: int, batch: PairBatch, norm: Tensor) -> None:
        """A step that was begun."""
        self._taken.append(_Taken(step, batch, to_host([norm])))
        self._read(self._late)

    def last(self) -> float:
        """The norm of the last step, all of them read."""
        self._read(0)
        return self._last

    def _read(self, leave: int) -> None:
        while len(self._taken) > leave:
            taken = self._taken.popleft()
            self._last = float(taken.norm()[0])
            if not math.isfinite(self._last):
                self._stop(taken.step, taken.batch)


class Clock:
    """Where the time of steps goes: seconds of ``data``, ``forward`` and ``backward``."""

    def __init__(self, device: torch.device) -> None:
        self._seconds = {"data": 0.0, "forward": 0.0, "backward": 0.0}
        self._device = device
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the block to ``part``; on a GPU, that of the device."""
        if self._device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((part, begin, end))
            return
        began = time.monotonic()
        yield
        self._seconds[part] += time.monotonic() - began

    @property
    def seconds(self) -> dict[str, float]:
        """So far; waits for a GPU."""
        if self._events:
            torch.cuda.synchronize(self._device)
        for part, begin, end in self._events:
            self._seconds[part] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds
