"""The paper's ablation: one run without the teacher's parts, one with each, one with all."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..errors import SamfeatError
from ..files.atomic import write_atomically
from .data import PACKED
from .recipe import Recipe
from .trainer import train

ROWS = ("baseline", "+ASRD", "+WSC", "+EAG", "all")


@dataclass(frozen=True)
class AblationRow:
    """One run. mma1, mma3: matching accuracy on the validation pairs that the recipe names, else
    on the held-back photos' pairs, in percent.
    seconds_per_step, and by part; memory: the process's peak, on a GPU the device's, megabytes."""

    name: str
    mma1: float
    mma3: float
    seconds_per_step: float
    data: float
    forward: float
    backward: float
    memory: float


def variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe with only the parts of ``name`` on; weights that are 0 in it count as 1.

    ASRD and WSC are losses; EAG is the edge attention together with the edge loss.
    """
    losses = recipe.losses
    asrd, wsc = losses.asrd or 1.0, losses.wsc or 1.0
    edge = losses.edge or 1.0
    on = ROWS[1:4] if name == "all" else (name,)
    return replace(
        recipe,
        output=recipe.output / name.lstrip("+").lower(),
        # The rows train on the same photos: one file holds their pixels.
        data=replace(recipe.data, packed=recipe.data.packed or recipe.output / PACKED),
        losses=replace(
            losses,
            asrd=asrd if "+ASRD" in on else 0.0,
            wsc=wsc if "+WSC" in on else 0.0,
            edge=edge if "+EAG" in on else 0.0,
            psrd=0.0,
            wsc_margin=0.0,
        ),
        network=replace(recipe.network, edge_attention="+EAG" in on),
    )


def ablate(recipe: Recipe, *, device: str | None = None) -> list[AblationRow]:
    """Train every variant with the same seed, data and steps, one after another.

    Each has its own folder in ``recipe.output`` and its own process, so that its memory is its own.
    What is done is not done again, and a run that was interrupted goes on.

    Raises:
        SamfeatError: a recipe without a teacher or without photos to validate on, or one that
            starts from a checkpoint (whose training would be part of every row).
    """
    data = recipe.data
    if not data.teacher and not data.synthetic and not data.mtldesc:
        raise SamfeatError(
            "data.teacher", "an ablation of its losses needs a teacher", "samfeat teach"
        )
    if not (data.images or data.validation or data.validation_pairs):
        raise SamfeatError(
            "data.validation",
            (
                "give photos to measure the matching accuracy on, or pairs in HPatches' "
                "layout (data.validation_pairs)"
            ),
        )
    if recipe.start_from:
        raise SamfeatError("start_from", "an ablation starts from random weights", "leave it out")
    rows = []
    context = multiprocessing.get_context("spawn")
    for name in ROWS:
        chosen = variant(recipe, name)
        memory = chosen.output / "memory.json"
        if not memory.exists():
            process = context.Process(target=_train_and_measure, args=(chosen, device, memory))
            process.start()
            process.join()
            if process.exitcode:
                raise SamfeatError(
                    chosen.output, f"training {name} failed", "the reason is printed above"
                )
        rows.append(_row(name, chosen.output, float(json.loads(memory.read_text()))))
    record = {"rows": [asdict(row) for row in rows], "recipe": asdict(recipe)}
    write_atomically(
        recipe.output / "ablation.json", json.dumps(record, indent=1, default=str) + "\n"
    )
    write_atomically(recipe.output / "ablation.md", table(rows) + "\n")
    return rows


def table(rows: list[AblationRow]) -> str:
    """The rows in Markdown, with what each part costs against the baseline."""
    lines = [
        "| | MMA@1 | MMA@3 | seconds a step | of it data / forward / backward | memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    first = rows[0]
    for row in rows:
        parts = f"{row.data:.3f} / {row.forward:.3f} / {row.backward:.3f}"
        more = f"{row.seconds_per_step / first.seconds_per_step - 1:+.0%}"
        lines.append(
            f"| {row.name} | {row.mma1:.1f} | {row.mma3:.1f} | {row.seconds_per_step:.3f} ({more})"
            f" | {parts} | {row.memory:.0f} ({row.memory - first.memory:+.0f}) |"
        )
    return "\n".join(lines)


def _train_and_measure(recipe: Recipe, device: str | None, memory: Path) -> None:
    try:
        train(recipe, device=device)
    except SamfeatError as error:
        sys.exit(f"error: {error}")
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peak = float(torch.cuda.max_memory_allocated())
    memory.write_text(json.dumps(peak / 1e6))


def _row(name: str, folder: Path, memory: float) -> AblationRow:
    records: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()
    ]
    last = records[-1]
    # The clock counts one process's steps: those of an interrupted run end where it was resumed.
    counted = _steps_of_last_process(records)
    split = {part: last[f"seconds/{part}"] / counted for part in ("data", "forward", "backward")}
    pairs = "planar/" if "planar/mma@3" in last else ""
    mma1, mma3 = (100 * float(last[f"{pairs}mma@{limit}"]) for limit in (1, 3))
    return AblationRow(name, mma1, mma3, sum(split.values()), **split, memory=memory)


def _steps_of_last_process(records: list[dict[str, Any]]) -> int:
    begun = 0
    for before, record in pairwise(records):
        if record["seconds/forward"] < before["seconds/forward"]:
            begun = int(before["step"])
    return int(records[-1]["step"]) - begun
