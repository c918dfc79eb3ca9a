"""What a GPU makes of every stage, beside hloc where it can be imported.

    python benchmarks/gpu/run.py [--device cuda:0] [--json FILE]
    python benchmarks/gpu/run.py --quick --device cpu

Needs no files: photos are generated, and so is the city of the demo. Results are compared before
anything is timed: our matches with hloc's, batches with single images and pairs. A row ends with
the figure that it is meant to reach on an H100. ``--quick`` takes small inputs, which say whether
everything runs and nothing about speed.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from bench import QUICK, Bench, Size, presets, table
from in_memory import extraction, matching
from whole_stages import city, stage, training

from samfeat_hloc.cli import run_program
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.parallel.devices import device_of
from samfeat_hloc.progress import tqdm

ROWS: dict[str, Callable[[Bench], None]] = {
    "matching": matching,
    "extraction": extraction,
    "features": stage,
    "city": city,
    "training": training,
}


def main(
    device: Annotated[
        str | None, typer.Option(help="Such as cuda:1, mps or cpu; a GPU where there is one.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small inputs, to see that it runs.")
    ] = False,
    rows: Annotated[str | None, typer.Option(help="Which rows, by commas; all by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
) -> None:
    """Compare, measure, print and record."""
    began = time.perf_counter()
    logging.getLogger().setLevel(logging.WARNING)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # type: ignore[method-assign,assignment]
    names = list(ROWS) if rows is None else rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise SamfeatError(f"--rows {unknown[0]}", f"choose from {', '.join(ROWS)}")
    if hloc_installed():
        import_module("hloc").logger.setLevel(logging.ERROR)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device_of(device), QUICK if quick else Size(), Path(folder), presets(quick))
        typer.echo(f"device: {bench.device}")
        for name in names:
            start = time.perf_counter()
            ROWS[name](bench)
            seconds[name] = round(time.perf_counter() - start, 1)
    typer.echo(f"\n{table(bench)}\n")
    typer.echo(f"done in {time.perf_counter() - began:.0f} s: {seconds}")
    if json_file is not None:
        record = measurement({"device": str(bench.device), "quick": quick, "rows": names})
        record |= {
            "rows": [row.as_json() | {"wanted": bench.wanted[row.name]} for row in bench.rows],
            "checks": bench.checks,
            "seconds": seconds,
        }
        write_atomically(json_file, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_program(main)
