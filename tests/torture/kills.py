"""SIGKILL at random moments of every stage, then the same command again."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from pathlib import Path

from budget import left, short
from stages import City, Stage, differences, inspect, run_stage, start_stage, unreadable
from tally import Tally

LEAST = 3  # kills of a stage, whatever the time


def kill_stage(
    city: City, stage: Stage, kills: int, seed: int, tally: Tally, deadline: float
) -> None:
    """Kill a stage ``kills`` times, each on an empty output, and compare what the rerun leaves.

    Arguments:
        deadline: after which no more are tried, but for the first few.
    """
    chance = random.Random(f"{seed} {stage.name}")
    folder = city.folder / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    usual = run_stage(stage, folder).seconds
    landed, late, most, lost = 0, 0, 0, []
    while landed < kills and late < 5 * kills and (landed < LEAST or left(deadline)):
        shutil.rmtree(folder)
        folder.mkdir()
        done = city.folder / "done.txt"
        done.unlink(missing_ok=True)
        moment = chance.uniform(0.0, usual)
        child = start_stage(stage, folder, done=done)
        time.sleep(moment)
        ended = child.kill()
        if ended.code != -9:
            late += 1  # it was faster this time
            usual = min(usual, max(ended.seconds, usual / 2))
            continue
        landed += 1
        found = inspect(lambda: unreadable(folder))
        again = start_stage(stage, folder, done=done).wait(300)
        if again.code or again.timed_out:
            found.append(f"the same command again: {again.how()}")
        else:
            found += inspect(lambda: differences(folder, city.whole / stage.name))
        twice = done_twice(done)
        if twice > stage.batch:
            found.append(f"{twice} {stage.unit} were done twice")
        most = max(most, twice)
        if found:
            lost.append(f"killed after {moment:.2f} s: {'; '.join(found[:3])}")
    cost = f"at most {most} of the finished {stage.unit} done again"
    tally.add(
        "kill -9", stage.name,
        f"the same command finishes; equal outputs; at most {stage.batch} {stage.unit}"
        " done again",
        (lost or [f"{landed} kills: equal outputs, {cost}"]) + short(landed, kills, "kills"),
        tried=landed, lost=len(lost),
    )  # fmt: skip


def done_twice(done: Path) -> int:
    """How often an item was finished that had been finished before."""
    if not done.exists():
        return 0
    return sum(count - 1 for count in Counter(done.read_text().splitlines()).values())
