"""Workers that hang, fail or crash: threads of a stage, and processes of a command on devices."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
from faults import after, fresh, plain, wrong
from kills import done_twice
from stages import City, Stage, start_stage
from tally import Tally

PROMISE = (
    "names the cause, exit code not 0, ends by itself; finished work kept, the rerun completes it"
)
PATIENCE = 3  # seconds, instead of 10 minutes
THREADS = {  # what a stage's threads do, one item after the other
    "extract": ("decoded_photos", "StoredPhotos.read"), "match": ("matches", "_match_named"),
    "localize": ("query_poses", "QueryPoses.solve"),
}  # fmt: skip
GOOD = 6  # items, before one goes wrong


def try_threads(city: City, stage: Stage, tally: Tally) -> None:
    """A thread of the stage hangs, raises what nobody foresaw, or crashes the process."""

    def hang() -> None:
        threading.Event().wait()

    def fail() -> None:
        raise LookupError("nobody foresaw this")

    def crash() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)

    for fault, act, said, code in (
        ("hangs", hang, "a worker hangs", 1),
        ("fails", fail, "LookupError: nobody foresaw this", 1),
        ("crashes", crash, "Fatal Python error: Segmentation fault", -signal.SIGSEGV),
    ):
        folder, done = fresh(city), city.folder / "done.txt"
        done.unlink(missing_ok=True)
        with _sabotaged(stage.name, act):
            ended = start_stage(stage, folder, done=done).wait(60)
        found = wrong(ended, (said,)) if code == 1 else []
        if ended.code != code or said not in ended.output:
            found = [f"{ended.how()} (exit code {ended.code})"]
        found += after(city, stage, folder, done)
        twice = done_twice(done)
        if twice > stage.batch:
            found.append(f"{twice} {stage.unit} were done twice")
        how = plain(ended.how(), city) if code == 1 else f"{said}, and where; {ended.how()}"
        tally.add("fault", f"{stage.name}: a worker {fault}", PROMISE, found or [how],
                  lost=int(bool(found)))  # fmt: skip


class _sabotaged:
    """Something happens to the work of a stage's threads, in children started in this block."""

    def __init__(self, stage: str, act: Callable[[], None]) -> None:
        from importlib import import_module

        module, name = THREADS[stage]
        *within, self.name = name.split(".")
        self.holder: Any = import_module(f"samfeat_hloc.localization.{module}")
        for part in within:
            self.holder = getattr(self.holder, part)
        self.act = act

    def __enter__(self) -> None:
        work, act, begun = getattr(self.holder, self.name), self.act, []
        self.work = work

        def sabotaged(*arguments: Any, **options: Any) -> Any:
            begun.append(1)
            if len(begun) == GOOD:
                time.sleep(0.3)  # until the others are kept
                act()
            return work(*arguments, **options)

        setattr(self.holder, self.name, sabotaged)
        os.environ["SAMFEAT_PATIENCE"] = str(PATIENCE)

    def __exit__(self, *_: object) -> None:
        setattr(self.holder, self.name, self.work)
        del os.environ["SAMFEAT_PATIENCE"]


def try_processes(city: City, tally: Tally) -> None:
    """One of two processes that teach is killed, or stops."""
    stage = city.stage("teach")
    for fault, number, said in (
        ("is killed", signal.SIGKILL, "killed"), ("hangs", signal.SIGSTOP, "hangs"),
    ):  # fmt: skip
        folder = fresh(city)
        arguments = [a for a in stage.arguments(folder) if a not in ("--device", "cpu")]

        def work(arguments: list[str | Path] = arguments) -> None:
            from samfeat_hloc.teachers import teach

            teach.all_devices = lambda: ["cpu", "cpu"]
            os.environ["SAMFEAT_PATIENCE"] = "10"
            children.command(arguments)()

        child = children.Child(work)
        met: list[int] = []
        while child.running() and len(met) < 2:
            time.sleep(0.05)
            met = _workers(child.pid)
        time.sleep(1)
        for pid in met if fault == "hangs" else met[:1]:  # the other would do the rest
            os.kill(pid, number)
        ended = child.wait(120)
        found = wrong(ended, (said,))
        if ended.code == 0:
            found.append("it finished without its worker" if met else "there was no worker")
        found += after(city, stage, folder)
        tally.add("fault", f"teach: a process {fault}", PROMISE,
                  found or [plain(ended.how(), city)], lost=int(bool(found)))  # fmt: skip


def _workers(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            line = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == parent and "spawn_main" in line:
            found.append(int(status.parent.name))
    return found
