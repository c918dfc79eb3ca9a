"""Work on a GPU that is recorded once for images of a size and replayed for the next.

Extraction is a few hundred kernels: to give them to the GPU one by one takes several times as long
as the GPU needs for those of one image, and of a batch as long as Python's other threads like.
Recorded as a CUDA graph they are given at once. The first batch of a size goes through as it is,
the second is recorded (some 25 ms more), all others are replayed. What is found is the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..parallel.devices import to_host

_SIZES = 4  # of a network
_PIXEL_BYTES = 640  # of the feature maps that a recording keeps
_SHARE = 0.25  # of the memory that is free, at most
_KNOWN = 64  # sizes that are remembered, recorded or not

Work = Callable[[Tensor], Sequence[Tensor]]


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    given: Tensor
    found: Sequence[Tensor]


class Recordings:
    """What was recorded of one network; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # None: seen once, or it cannot be recorded.
        self._kept: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        self._cannot: set[Hashable] = set()

    def begin(self, key: Hashable, given: Tensor, work: Work) -> Callable[[], list[Tensor]]:
        """Begin ``work(given)`` and bring what it finds to the host; what is returned waits for it.

        Arguments:
            key: what the kernels depend on, beside the shape and type of ``given``.
            given: (B, H, W, 3), images on a CUDA device.
            work: waits for nothing on the device and looks at nothing but ``given`` that changes.
        """
        key = (key, tuple(given.shape), given.dtype)
        with self._lock, torch.inference_mode(), torch.cuda.device(given.device):
            recording = self._kept.get(key)
            seen = key in self._kept and key not in self._cannot
            if recording is None and seen and _fits(given):
                recording = self._record(key, given, work)
            self._kept[key] = recording
            self._kept.move_to_end(key)
            self._forget()
            if recording is None:
                return to_host(work(given))
            recording.given.copy_(given)
            recording.graph.replay()
            return to_host(recording.found)

    def _record(self, key: Hashable, given: Tensor, work: Work) -> _Recording | None:
        given = given.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                found = work(given)
        except RuntimeError:  # such as too little memory; it goes without
            self._cannot.add(key)
            return None
        return _Recording(graph, given, found)

    def _forget(self) -> None:
        recorded = [key for key, recording in self._kept.items() if recording is not None]
        for key in recorded[:-_SIZES]:
            del self._kept[key]
        while len(self._kept) > _KNOWN:
            self._kept.popitem(last=False)


def _fits(given: Tensor) -> bool:
    """Whether there is memory for a recording of these images (B, H, W, 3)."""
    free, _ = torch.cuda.mem_get_info(given.device)
    return given[..., 0].numel() * _PIXEL_BYTES < _SHARE * free


_of: WeakKeyDictionary[Any, Recordings] = WeakKeyDictionary()
_lock = threading.Lock()


def recordings_of(model: object) -> Recordings:
    """Those of this network."""
    with _lock:
        return _of.setdefault(model, Recordings())


def where_they_are(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """Changes when weights move: a recording reads them where they were (and as they are)."""
    return tuple(weight.data_ptr() for weight in weights)
