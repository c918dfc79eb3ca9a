"""The time that stages take, and a stage done beside others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from .summary import StageSummary


@dataclass
class Clock:
    """Times the stages; one whose output is as old as before was skipped."""

    stages: list[StageSummary] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str, output: Path) -> Iterator[dict[str, Any]]:
        """Yields a dict for the stage's figures, which may be filled later too."""
        before = _modified(output)
        start = time.perf_counter()
        figures: dict[str, Any] = {}
        yield figures
        seconds = time.perf_counter() - start
        skipped = before is not None and _modified(output) == before
        self.stages.append(StageSummary(name, seconds, skipped, figures))


@contextmanager
def beside(work: Callable[[], None], name: str, *, wait: bool) -> Iterator[None]:
    """Do ``work`` in a thread beside the block, at whose end it is waited for; its error is raised.

    Where the block fails, the thread is waited for too, but not where the user interrupts it.

    Args:
        wait: do it before the block.
    """
    if wait:
        work()
        yield
        return
    failed: list[BaseException] = []

    def go() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=go, name=name, daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        thread.join()
        raise
    thread.join()
    if failed:
        raise failed[0]


def _modified(output: Path) -> int | None:
    """When a file, or the record of a folder, was written."""
    path = output / "made_by.json" if output.is_dir() else output
    return path.stat().st_mtime_ns if path.is_file() else None
