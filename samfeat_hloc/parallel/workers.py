"""Threads that work side by side, and what is said of one that hangs or fails.

The threads of :mod:`concurrent.futures` are waited for when the process ends, so one that hangs (a
dead network drive, a library in an endless loop) would keep it for ever. These are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ..errors import SamfeatError, cause_of

PATIENCE = "SAMFEAT_PATIENCE"  # environment: seconds without a result after which a worker hangs
_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A few threads; a context manager that waits for what they have begun, unless one hangs."""

    def __init__(self, count: int, what: str, *, start: Callable[[], object] | None = None) -> None:
        """
        Arguments:
            count: of threads.
            what: they do, for messages, as ``"decoding"``.
            start: called once in each thread.
        """
        self.what = what
        self._start = start
        self._hung = False
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[Any], Any], Any] | None] = (
            SimpleQueue()
        )
        self._threads: list[Thread] = []
        try:
            for number in range(max(count, 1)):
                thread = Thread(target=self._work, name=f"{what} {number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what they have not begun is left undone."""
        with suppress(Empty):
            while (task := self._tasks.get_nowait()) is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if not self._hung:
                thread.join()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        name: Callable[[Item], str] = lambda item: "",
        ordered: bool = True,
        ahead: int | None = None,
    ) -> Iterator[Result]:
        """The function's results; only a few items are taken before their results are.

        Arguments:
            name: of an item, for messages.
            ordered: whether results come in the order of the items, or as they are finished.
            ahead: items taken before the result of the first is; None for two a thread.

        An error of ``items`` itself is raised after the results of what came before it.

        Raises:
            SamfeatError: nothing is finished for too long, or the function fails with something
                that is neither a SamfeatError nor the machine's fault; names the item.
        """
        waiting: dict[Future[Result], str] = {}
        most = ahead or 2 * len(self._threads)
        failed: Exception | None = None
        source = iter(items)
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:  # what is begun is worth having first
                    failed = error
                    break
                future: Future[Result] = Future()
                waiting[future] = name(item)
                self._tasks.put((future, function, item))
                if len(waiting) > most:
                    yield self._next(waiting, ordered)
            while waiting:
                yield self._next(waiting, ordered)
            if failed is not None:
                raise failed
        finally:
            for future in waiting:
                future.cancel()

    def _next(self, waiting: dict[Future[Result], str], ordered: bool) -> Result:
        try:
            return next_result(waiting, self.what, ordered=ordered)
        except Hung:
            self._hung = True
            raise

    def _work(self) -> None:
        if self._start is not None:
            self._start()
        while (task := self._tasks.get()) is not None:
            future, function, item = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(item))
                except BaseException as error:
                    future.set_exception(error)
            del task, future, function, item  # else kept until there is another


@contextmanager
def sharing_torch(count: int | None, what: str) -> Iterator[Workers]:
    """Workers among which torch's threads are shared out, for work on tensors of a CPU.

    Threads within one tensor operation wait for each other after each; side by side, with a
    tensor each, they share no step. Meanwhile the calling thread has a worker's share too: its
    operations would wait for threads that find every processor taken.

    Arguments:
        count: of workers; None for as many as torch has threads.
        what: they do, for messages.
    """
    import torch

    threads = torch.get_num_threads()
    count = count or threads
    share = max(threads // count, 1)
    try:
        torch.set_num_threads(share)
        with Workers(count, what, start=lambda: torch.set_num_threads(share)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


class Hung(SamfeatError):
    """No worker has finished anything for too long."""


def next_result(
    waiting: dict[Future[Result], str], what: str, *, ordered: bool = False
) -> Result:  # fmt: skip
    """Take the first, or the first finished, of these futures out of them; its result.

    Arguments:
        waiting: futures and the names of what they work on.
        what: they do, for messages.

    Raises:
        Hung: none is finished for ``SAMFEAT_PATIENCE`` seconds.
        SamfeatError: it failed with something that is neither one nor the machine's fault.
    """
    seconds = patience()
    first = next(iter(waiting))
    done, _ = wait([first] if ordered else waiting, seconds, FIRST_COMPLETED)
    if not done:
        names = [name for future, name in waiting.items() if future.running() and name]
        at = f" at {', '.join(names[:4])}" if names else ""
        raise Hung(
            what,
            f"a worker hangs{at}: nothing finished for {seconds:g} s",
            (
                "what is finished is kept, run the same command again (with a larger "
                f"{PATIENCE}, in seconds, where it is only slow)"
            ),
        )
    future = next(future for future in waiting if future in done)  # no failure before a result
    with named_failures(waiting.pop(future), what):
        return future.result()


@contextmanager
def named_failures(name: str, what: str) -> Iterator[None]:
    """Raise what :func:`failure` makes of an error of the block; arguments as there."""
    try:
        yield
    except Exception as error:
        failed = failure(error, name, what)
        if failed is error:
            raise
        raise failed from error


def failure(error: Exception, name: str, what: str) -> Exception:
    """What to raise where work failed: an error that names what it failed on.

    The error itself where it is a SamfeatError, a worker's death or the machine's fault.

    Arguments:
        name: of what was worked on; may be empty.
        what: was being done.
    """
    if isinstance(error, SamfeatError | BrokenExecutor) or cause_of(error) is not None:
        return error
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return SamfeatError(
        name or what,
        f"{what} failed on it ({why})",
        "leave it out, or report this; what is finished is kept",
    )


def patience() -> float:
    """Seconds without any result after which a worker is said to hang."""
    text = os.environ.get(PATIENCE, str(_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise SamfeatError(f"{PATIENCE}={text}", "give a number of seconds above 0")
    return seconds
