"""The same work on every GPU: a process each, or this one where there is a single device."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch

from ..errors import SamfeatError
from .workers import Hung, next_result

Result = TypeVar("Result")
Work = Callable[[Sequence[str]], Result]
"""Takes a batch of names."""


def all_devices() -> list[str]:
    """Every GPU, or the processor where there is none."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


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
