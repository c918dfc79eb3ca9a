"""How many pairs a second the trainer takes, and where the time goes.

    python benchmarks/training/run.py
    python benchmarks/training/run.py --images PHOTOS --crop 256 --batch 8 --steps 20

Every device at hand, bfloat16 where it is fast: the whole training step on homographies of photos
(generated textures where no folder is given), of the shipped weights' network and of the paper's. A
teacher's losses are on with ``--teacher CACHE``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from samfeat_hloc.cli import run_program
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.evaluation.tables import aligned
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.teachers.cache import TeacherCache
from samfeat_hloc.training.homography_pairs import HomographySource
from samfeat_hloc.training.photos import Photos, PhotoSet, pack
from samfeat_hloc.training.recipe import LossOptions, Recipe
from samfeat_hloc.training.sources import batches_ahead
from samfeat_hloc.training.stepping import Clock, adam
from samfeat_hloc.training.trainer import training_step


def main(
    images: Annotated[Path | None, typer.Option(help="A folder of photos.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A teacher's cache, of `samfeat teach`.")
    ] = None,
    crop: Annotated[int, typer.Option(min=32, help="Side of a view; 400 in the paper.")] = 400,
    batch: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 8,
    steps: Annotated[
        int, typer.Option(min=2, help="Timed steps, after three that are not timed.")
    ] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the timed steps.")] = 3,
    output: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Measure training throughput."""
    with tempfile.TemporaryDirectory() as folder:
        photos = pack(images, Path(folder) / "photos.pack") if images else textures()
        _measure_all(photos, images, teacher, crop, batch, steps, repeats, output)


def _measure_all(
    photos: Photos, images: Path | None, teacher: Path | None, crop: int, batch: int, steps: int,
    repeats: int, output: Path | None,
) -> None:  # fmt: skip
    recipe = Recipe(output=Path("unused"))
    recipe.pairs = replace(recipe.pairs, crop=crop)
    cache = TeacherCache(teacher) if teacher else None
    if cache:
        recipe.losses = LossOptions(asrd=1.0, wsc=1.0)
    source = HomographySource(photos, recipe.homographies, cache, None)
    devices = ["cpu", *(f"cuda:{i}" for i in range(min(torch.cuda.device_count(), 1)))]
    networks = {"shipped": SAMFeat.from_pretrained(device="cpu").config, "paper's": {}}
    rows = [
        {"network": name, **measure(torch.device(d), source, recipe, batch, steps, repeats, config)}
        for d in devices
        for name, config in networks.items()
    ]
    cells = []
    for row in rows:
        low, middle, high = row["pairs_per_second"]
        shares = [f"{row['share'][part]:.0%}" for part in ("data", "forward", "backward")]
        speed = f"{middle:.2f} ({low:.2f}, {high:.2f})"
        cells.append([str(row["network"]), str(row["device"]), speed, *shares])
    header = ("network", "device", "pairs/s (min, max)", "of a step: data", "forward", "backward")
    print(aligned(header, cells, "llr"))
    if output:
        setting = {
            "images": images, "teacher": teacher, "crop": crop, "batch": batch, "steps": steps,
            "repeats": repeats,
        }  # fmt: skip
        document = {"rows": rows, "made_by": measurement(setting)}
        write_atomically(output, json.dumps(document, indent=1) + "\n")


def measure(
    device: torch.device, source: HomographySource, recipe: Recipe, batch: int, steps: int,
    repeats: int, network: dict[str, bool],
) -> dict[str, Any]:  # fmt: skip
    """Throughput of one device: minimum, median and maximum over repeats, and shares of the time.

    ``data`` is what the step waits for; on a GPU batches are made while it computes.
    """
    model = SAMFeat(**network).train()
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adam(model.parameters(), 1e-4, 0.0)
    total = 3 + steps * repeats
    generators = (torch.Generator(device).manual_seed(i) for i in range(total))
    ahead = 2 if device.type == "cuda" else 0
    batches = batches_ahead(source, batch, recipe.pairs, generators, ahead=ahead)
    for _ in range(3):
        training_step(model, optimizer, next(batches), recipe, Clock(device))
    clock = Clock(device)
    rates = []
    for _ in range(repeats):
        began = time.monotonic()
        for _ in range(steps):
            with clock.measure("data"):
                pairs = next(batches)
            training_step(model, optimizer, pairs, recipe, clock)
        assert clock.seconds  # waits for a GPU
        rates.append(batch * steps / (time.monotonic() - began))
    whole = sum(clock.seconds.values())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": f"{name} x{torch.get_num_threads()}" if device.type == "cpu" else name,
        "pairs_per_second": [min(rates), statistics.median(rates), max(rates)],
        "share": {part: seconds / whole for part, seconds in clock.seconds.items()},
    }


def textures(count: int = 64, side: int = 480) -> PhotoSet:
    """Generated photos: smooth random fields; what is in them does not matter for the time."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((count, 3, side // 8, side // 8), dtype=np.float32))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    names = tuple(f"{i}.png" for i in range(count))
    sizes = torch.full((count, 2), side)
    return PhotoSet((fine.clamp(0, 1) * 255).byte(), sizes, names)


if __name__ == "__main__":
    run_program(main)
