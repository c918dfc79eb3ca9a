"""Faults around a stage: full disk, read-only folder, too few files, too little memory, company."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import children
from budget import left, short
from children import Ended
from stages import City, Stage, differences, inspect, run_stage, start_stage, unreadable
from tally import Tally

PROMISE = "one line that names the cause, exit code 1; finished work kept, the rerun completes it"


def try_stage(city: City, stage: Stage, tally: Tally, deadline: float) -> None:
    """All faults on one stage, as far as the time goes."""
    whole = city.whole / stage.name
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    causes = ("file size limit", "disk is full", "disk is not full")
    sizes = [int(largest * share) for share in (0.0, 0.1, 0.5, 0.9)]
    _limited(city, stage, tally, "full disk", causes, deadline,
             [children.file_size(s) for s in sizes])  # fmt: skip
    _limited(city, stage, tally, "few open files", ("open files",), deadline,
             [children.open_files(number) for number in (1, 2, 3, 5, 8)])  # fmt: skip
    _limited(city, stage, tally, "little memory", ("memory",), deadline,
             [children.memory(megabytes) for megabytes in (8, 32, 64, 128)])  # fmt: skip
    _read_only(city, stage, tally)
    _two_at_once(city, stage, tally)


def fresh(city: City) -> Path:
    """An empty folder for outputs."""
    folder = city.folder / "faulty"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def wrong(ended: Ended, causes: tuple[str, ...]) -> list[str]:
    """What is not as promised of a run that a fault has met."""
    if ended.code == 0 and not ended.timed_out:
        return []  # the fault was too weak to be met
    if not ended.refused:
        return [ended.how()]
    if not any(cause in ended.errors[0] for cause in causes):
        return [f"names no cause: {ended.errors[0]}"]
    return []


def after(city: City, stage: Stage, folder: Path, done: Path | None = None) -> list[str]:
    """What is wrong once the fault is gone and the same command is given again."""
    found = inspect(lambda: unreadable(folder))
    again = start_stage(stage, folder, done=done).wait(300)
    if again.code or again.timed_out:
        return [*found, f"the same command again: {again.how()}"]
    return found + inspect(lambda: differences(folder, city.whole / stage.name))


def _limited(
    city: City, stage: Stage, tally: Tally, fault: str, causes: tuple[str, ...],
    deadline: float, limits: list[children.Limit],
) -> None:  # fmt: skip
    lost, said, met, tried = [], "", 0, 0
    for limit in limits:
        if tried and not left(deadline):
            break
        tried += 1
        folder = fresh(city)
        ended = run_stage(stage, folder, limit, timeout=120)
        found = wrong(ended, causes)
        if ended.code:
            met += 1
            said = ended.how()
        if (found or ended.code) and (more := after(city, stage, folder)):
            found += more
        if found:
            lost.append("; ".join(found[:3]))
    weak = "" if met else "every limit was enough for it"
    tally.add("fault", f"{stage.name}: {fault}", PROMISE,
              (lost or [weak or plain(said, city)]) + short(tried, len(limits), "limits"),
              tried=tried, lost=len(lost))  # fmt: skip


def _read_only(city: City, stage: Stage, tally: Tally) -> None:
    folder = fresh(city)
    folder.chmod(0o555)
    ended = run_stage(stage, folder, children.as_nobody, timeout=120)
    folder.chmod(0o755)
    found = wrong(ended, ("permission", "read-only", "Permission denied"))
    if ended.code == 0:
        found.append("it finished")
    found += after(city, stage, folder)
    tally.add("fault", f"{stage.name}: read-only output", PROMISE,
              found or [plain(ended.how(), city)], lost=int(bool(found)))  # fmt: skip


def _two_at_once(city: City, stage: Stage, tally: Tally) -> None:
    """The second starts once the first has its lock; it has to name the first or to wait."""
    folder = fresh(city)
    first = start_stage(stage, folder)
    while first.running() and not list(folder.rglob("*.lock")) and not list(folder.rglob(".*")):
        time.sleep(0.002)
    met = first.running()
    second = run_stage(stage, folder)
    ended = first.wait(300)
    found, how = [], "refused, naming the owner's process id"
    if ended.code:
        found.append(f"the first: {ended.how()}")
    if second.code == 0:
        how = "the second waited or came after the first"
        if met and second.seconds < ended.seconds / 2:
            found.append("the second ended before the first had")
        if met and not _skipped(second):
            found.append("both wrote")
    elif not second.refused or f"process {first.pid}" not in second.errors[0]:
        found.append(f"the second: {second.how()}")
    found += inspect(lambda: differences(folder, city.whole / stage.name))
    tally.add("fault", f"{stage.name}: two runs at once",
              "the second refuses with the owner's process id, or waits; never both",
              found or [how], lost=int(bool(found)))  # fmt: skip


def _skipped(ended: Ended) -> bool:
    return "skipped" in ended.output or "exists already" in ended.output


def plain(text: str, city: City) -> str:
    """Without the folder in which it was tried."""
    return text.replace(str(city.folder), "...")
