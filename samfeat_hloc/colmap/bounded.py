"""Calls into COLMAP that end: with their result, or with an error once nothing happens any more.

COLMAP reports little of what it does and cannot be stopped. Here it works in a thread that nobody
has to wait for, and is given up where it takes many times as long as so many images can take.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread, current_thread
from typing import TypeVar

from ..parallel.workers import PATIENCE, Hung, patience

_FOR_A_THREAD = 160 << 20  # bytes of address space: its stack, its heap, COLMAP's data of it
_IMAGES_A_PATIENCE = 100  # a call may stay silent that much longer for each so many images

Result = TypeVar("Result")
Alive = Callable[[], None]


_begun: set[Thread] = set()


def at_work() -> bool:
    """Whether COLMAP is still at work on a call that nobody waits for, after an interruption or
    because it hangs: it aborts a process that takes its libraries down then."""
    return any(thread.is_alive() for thread in _begun)


def bounded(what: str, call: Callable[[Alive], Result], *, images: int) -> Result:
    """The result of a call into COLMAP.

    Arguments:
        what: it does, for the message, as ``"COLMAP's mapper"``.
        call: is given a function to call whenever COLMAP shows that it is at work. It runs in
            another thread: a seed that COLMAP keeps for each thread is set in it.
        images: that it works on.

    Raises:
        OSError: there is too little memory for another thread.
        Hung: for ``SAMFEAT_PATIENCE`` seconds, and as many again for each hundred images, it
            neither ended nor showed that it is at work.
    """
    seconds = patience() * (1 + images // _IMAGES_A_PATIENCE)
    seen = time.monotonic()
    future: Future[Result] = Future()

    def alive() -> None:
        nonlocal seen
        seen = time.monotonic()

    def work() -> None:
        try:
            future.set_result(call(alive))
        except BaseException as error:
            future.set_exception(error)
        finally:
            _begun.discard(current_thread())

    # glibc aborts the process where a thread's own data does not fit into memory: ask before.
    mmap.mmap(-1, _FOR_A_THREAD).close()
    thread = Thread(target=work, name=what, daemon=True)
    _begun.add(thread)
    thread.start()
    while (left := seen + seconds - time.monotonic()) > 0:
        if wait([future], left).done:
            return future.result()
    raise Hung(
        what,
        f"it hangs: no sign of it for {seconds:g} s on {images} images",
        f"leave photos out that it may not be able to place, or set {PATIENCE} to more seconds",
    )
