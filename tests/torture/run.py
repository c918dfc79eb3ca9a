"""Torture: kill every stage, break what is around it, feed every parser rubbish.

python tests/torture/run.py                     all of it, and docs/reliability.md
python tests/torture/run.py --only kills --stage train --kills 3
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import bad_files
import bad_workers
import children
import faults
import fuzz
import kills as kills_of
import report as report_of
import silent
import soak as soak_of
import typer
from budget import Budget
from stages import NAMES, City
from tally import Tally

DOCS = Path(__file__).resolve().parents[2] / "docs"
FULL_SOAK = 10_000
PARTS = ("kills", "silent", "faults", "inputs", "soak")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills of each stage.")] = 20,
    damages: Annotated[int, typer.Option(min=1, help="Damaged files for each parser.")] = 200,
    minutes: Annotated[
        float, typer.Option(min=1, help="Of all but the soak; less is tried where time is up.")
    ] = 12.0,
    seed: Annotated[int, typer.Option(help="Of the moments and the rubbish.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="kills, silent, faults, inputs, soak; repeat.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; repeat.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder to work in, kept.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Page to write; docs/reliability.md after a whole run.")
    ] = None,
    soak: Annotated[
        bool, typer.Option("--soak", help="The nightly soak (10000 and 60), and only that.")
    ] = False,
    soak_images: Annotated[int | None, typer.Option(help="Images of the soak: 80.")] = None,
    soak_every: Annotated[float | None, typer.Option(help="Seconds between its kills: 10.")] = None,
) -> None:
    """Try everything and print tried, survived, lost; exit code 1 when anything is lost."""
    began = time.monotonic()
    if soak:
        only, soak_images, soak_every = ["soak"], soak_images or FULL_SOAK, soak_every or 60.0
    parts, names = only or list(PARTS), stage or list(NAMES)
    for option, given, known in (("--only", parts, PARTS), ("--stage", names, NAMES)):
        if unknown := set(given) - set(known):
            raise typer.BadParameter(f"{option} {unknown.pop()}: choose from {', '.join(known)}")
    folder = work or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "beside.json").unlink(missing_ok=True)
    children.preload()
    city, tally = City(folder / "small"), Tally(file=folder / "kills.json")
    # Two lanes side by side: each has one child at a time, and a child one thread.
    beside = None
    if "kills" in parts and len(parts) > 1:
        beside = children.Child(lambda: _beside(folder, parts, names, damages, seed, minutes))
    if "kills" in parts:
        print(f"uninterrupted, seconds: {city.prepare()}", flush=True)
        budget = Budget(minutes, len(names))
        for name in names:
            kills_of.kill_stage(city, city.stage(name), kills, seed, tally, budget.next())
    else:
        _beside(folder, parts, names, damages, seed, minutes)
    if "soak" in parts:
        soak_of.soak(folder / "soak", soak_images or 80, soak_every or 10.0, tally)
    if beside is not None:
        ended = beside.wait(3600)
        print(ended.output, flush=True)
        if ended.code or ended.timed_out:
            raise SystemExit("faults and inputs could not be tried")
    if (folder / "beside.json").exists():
        tally.load(folder / "beside.json")
    took = (time.monotonic() - began) / 60
    if report is None and not only and not stage:
        report = DOCS / "reliability.md"
    if soak and soak_images == FULL_SOAK:
        report_of.keep_soak(DOCS / report_of.SOAK, tally)
    if report is not None:
        report_of.write(report, tally, took, children.processor_seconds() / 60, seed)
    print(f"\n{tally.table()}\n{took:.1f} minutes; work in {folder}")
    raise typer.Exit(int(tally.lost > 0))


def _beside(
    folder: Path, parts: list[str], names: list[str], damages: int, seed: int, minutes: float
) -> None:
    """All but the kills and the soak; the rows go to ``beside.json``."""
    if not {"silent", "faults", "inputs"} & set(parts):
        return
    city, tally = City(folder / "beside"), Tally(file=folder / "beside.json")
    city.prepare()
    shares = 2 * ("silent" in parts) + len(names) * ("faults" in parts) + 4 * ("inputs" in parts)
    budget = Budget(minutes, shares)
    if "silent" in parts:
        silent.try_all(city, tally, budget.next(2))
    if "faults" in parts:
        for name in names:
            faults.try_stage(city, city.stage(name), tally, budget.next())
            if name in bad_workers.THREADS:
                bad_workers.try_threads(city, city.stage(name), tally)
        if "teach" in names:
            bad_workers.try_processes(city, tally)
    if "inputs" in parts:
        bad_files.try_all(city, tally, budget.next(2))
        fuzz.try_all(city, damages, seed, tally, budget.next(2))


if __name__ == "__main__":
    app()
