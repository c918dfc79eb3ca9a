"""Devices: which there are, the way to them and back, and the same work on every GPU.

Nothing here or in what computes needs CUDA: pinned memory and copies that run beside the work are
used where torch has CUDA, plain copies elsewhere.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError
from .workers import Hung, next_result

Result = TypeVar("Result")
Work = Callable[[Sequence[str]], Result]
"""Takes a batch of names."""

logger = logging.getLogger(__name__)


def device_of(device: str | torch.device | None) -> torch.device:
    """The device of that name, such as cpu, cuda, cuda:1, mps or xpu.

    None chooses a CUDA GPU where there is one, else the processor, and says so, once.

    Raises:
        SamfeatError: no such device on this machine.
    """
    if device is None:
        return _automatic()
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    there = available()
    index = 0 if found is None or found.index is None else found.index
    if found is None or not {found.type, f"{found.type}:{index}"} & set(there):
        raise SamfeatError(
            f"device {device}", "there is none of that name here", f"choose from {', '.join(there)}"
        )
    return found


def available() -> list[str]:
    """The devices of this machine that torch can use, the processor first."""
    found = ["cpu"]
    found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [f"xpu:{i}" for i in range(torch.xpu.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


@cache
def _automatic() -> torch.device:
    if torch.cuda.is_available():
        logger.info("device: cuda, %s", torch.cuda.get_device_name())
        return torch.device("cuda")
    others = [name for name in available() if name != "cpu"]
    unused = f"; {', '.join(others)} when asked for" if others else ""
    logger.info("device: cpu, %d threads%s", torch.get_num_threads(), unused)
    return torch.device("cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; on CUDA without waiting for what runs there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def stack_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Arrays of one shape, stacked (B, ...) on the device; see :func:`to_device`."""
    cuda = device.type == "cuda"
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    stacked = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=cuda)
    np.stack(arrays, out=stacked.numpy())
    return stacked.to(device, non_blocking=cuda)


def to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begin to bring tensors of one device to the host; what is returned waits for them.

    On CUDA they are copied into pinned memory after all work so far, beside what is begun later.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: [tensor.cpu() for tensor in tensors]
    with torch.cuda.device(device):
        pinned = [
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors
        ]
        for there, tensor in zip(pinned, tensors, strict=True):
            there.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # waiting takes no processor from the decoders
        done.record()

    def wait() -> list[Tensor]:
        done.synchronize()
        return pinned

    return wait


def all_devices() -> list[str]:
    """Every CUDA GPU, or the processor where there is none; says which."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if len(found) > 1:
        logger.info("devices: %s", ", ".join(found))
    else:
        device_of(None)  # says it
    return found or ["cpu"]


@contextmanager
def on_devices(
    load: Callable[[str], Work[Result]], devices: Sequence[str], batches: Sequence[Sequence[str]],
    *, command: str, first: Work[Result] | None = None,
) -> Iterator[Iterator[Result]]:  # fmt: skip
    """What the work makes of all batches; as they come, where there are several devices.

    Arguments:
        load: makes the work ready on a device. With several devices it has to be picklable.
        command: whose work it is, for the message if a process of it dies.
        first: the work on the first device, where it is loaded already.

    Raises:
        SamfeatError: from the work, or because one of its processes hangs or was killed.
    """
    if len(devices) == 1 or len(batches) < 2:
        work = first or load(devices[0])
        yield (work(batch) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_start, initargs=(load, free)
    ) as pool:
        try:
            yield _finished({pool.submit(_do, batch): batch[0] for batch in batches}, command)
        except Hung:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # else this one would wait for it at its end
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(waiting: dict[Future[Result], str], command: str) -> Iterator[Result]:
    """Results as they come. A pool of multiprocessing would wait for ever for a killed process."""
    try:
        while waiting:
            yield next_result(waiting, command)
    except BrokenProcessPool:
        raise SamfeatError(
            command,
            "one of its processes was killed (out of memory?)",
            "run the same command again, with smaller batches if it is killed again",
        ) from None


_process: dict[str, Any] = {}  # of a process of the pool: its work


def _start(load: Callable[[str], Work[Any]], free: SimpleQueue[str]) -> None:
    _process["work"] = load(free.get())


def _do(batch: Sequence[str]) -> Any:
    return _process["work"](batch)
