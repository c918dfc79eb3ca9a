"""The soak: generated images through extract, match, map and localize, with a kill every so often.
10,000 and every minute by night, a city's in any run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import children
from stages import City, Stage, differences, inspect, start_stage, unreadable
from tally import Tally

STAGES = ("extract", "match", "map", "localize")


def soak(folder: Path, images: int, every: float, tally: Tally) -> None:
    """Cities of 80 images, one after the other, until so many images are through.

    Each stage is started again after each kill until it ends by itself; then its output has to
    equal that of a run that nobody killed.

    Arguments:
        every: seconds between two kills, whatever stage they meet; more once they have met one
            several times.
    """
    done = number = kills = 0
    began = last = time.monotonic()
    used = children.processor_seconds()
    lost: list[str] = []
    while done < images:
        city = City(folder / f"city-{number:04d}", images=40, size=(640, 480), seed=number)
        shutil.rmtree(city.folder, ignore_errors=True)
        city.prepare(STAGES)
        for name in STAGES:
            stage, output = city.stage(name), city.folder / "soaked" / name
            output.mkdir(parents=True)
            met = 0
            while True:
                # A step that is done again after a kill (a map's triangulation) may take longer
                # than that on a slow machine: each kill of a stage leaves it more time.
                if _ended(stage, output, last + every * (1 + met / 4)):
                    break
                last = time.monotonic()
                met += 1
                kills += 1
                lost += [f"{name} {number}: {f}" for f in inspect(lambda o=output: unreadable(o))]
            whole = city.whole / name
            found = inspect(lambda o=output, w=whole: differences(o, w))
            lost += [f"{name} {number}: {f}" for f in found]
        done += len(list(city.photos.rglob("*.jpg")))
        number += 1
        print(f"{done} images, {kills} kills, {len(lost)} lost", flush=True)
        shutil.rmtree(city.folder)
    seconds, used = time.monotonic() - began, children.processor_seconds() - used
    told = (
        f"{kills} kills, all outputs equal; {seconds:.0f} s, {used:.0f} s of processor time with"
        f" the run that nobody killed; 10,000 images would take {_hours(seconds / done)}, of"
        f" processor time {_hours(used / done)} (an estimate at this rate)"
    )
    tally.add("soak", f"{done} images, a kill every {every:.0f} s",
              "every output equals that of a run that nobody killed",
              lost or [told], tried=kills, lost=len(lost))  # fmt: skip


def _hours(seconds_each: float) -> str:
    return f"{10_000 * seconds_each / 3600:.1f} hours"


def _ended(stage: Stage, output: Path, moment: float) -> bool:
    """Whether a stage ended by itself; False when it was killed at this moment of the clock."""
    child = start_stage(stage, output)
    while child.running():
        if time.monotonic() > moment:
            child.kill()
            return False
        time.sleep(0.01)
    ended = child.wait(60)
    if ended.code:
        raise SystemExit(f"{stage.name} does not work: {ended.how()}\n{ended.output}")
    return True
