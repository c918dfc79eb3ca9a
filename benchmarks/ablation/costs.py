"""What each part costs: a training step of every arm, and the network without and with attention.

    python benchmarks/ablation/costs.py --photos PHOTOS --teacher CACHE

Arms take turns step by step on the same batches, so that whatever else the machine does meets all
of them; the figures are processor seconds (all threads together) on a processor and seconds on a
GPU, medians, and ratios to the baseline.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from samfeat_hloc.cli import run_program
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.feature.levels import half_precision
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.training import ablation
from samfeat_hloc.training.data import open_data
from samfeat_hloc.training.recipe import read_recipe
from samfeat_hloc.training.trainer import Clock, training_step

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "ablation.yaml"
SIZES = ((640, 480), (1024, 768))


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photos.")],
    teacher: Annotated[Path, typer.Option(help="A teacher's cache of them.")],
    crop: Annotated[int, typer.Option(min=32, help="Side of a view, pixels.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each arm that count.")] = 7,
    output: Annotated[Path | None, typer.Option(help="A JSON file for the result.")] = None,
) -> None:
    """Measure a training step of every arm, and the network with each kind of attention."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        recipe = read_recipe(RECIPE, [
            f"data.images={photos}", f"data.teacher={teacher}", f"output={folder}",
            f"pairs.crop={crop}", f"train.batch={batch}",
        ])  # fmt: skip
        steps = _steps(recipe, device, repeats)
    networks = {f"{w} x {h}": _networks(device, w, h, repeats) for w, h in SIZES}
    lines = [f"a training step, {batch} pairs of {crop} px", *_lines(steps)]
    for size, found in networks.items():
        lines += ["", f"the network, one image of {size}", *_lines(found)]
    typer.echo("\n".join(lines))
    if output is not None:
        record = measurement({"crop": crop, "batch": batch, "repeats": repeats})
        content = {"step": steps, "network": networks, "made_by": record}
        write_atomically(output, json.dumps(content, indent=1) + "\n")


def _steps(recipe: Any, device: torch.device, repeats: int) -> dict[str, float]:
    source = open_data(recipe, device).source
    arms = {}
    for arm in ablation.TEACHERS_ARMS:
        chosen = ablation.variant(recipe, arm, 1)
        torch.manual_seed(1)
        model = SAMFeat(edge_attention=chosen.network.edge_attention).train().to(device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        arms[arm] = (chosen, model, torch.optim.Adam(model.parameters()))
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for step in range(repeats + 1):
        generator = torch.Generator(device).manual_seed(step)
        pairs = source.batch(recipe.train.batch, recipe.pairs, generator)
        for arm, (chosen, model, optimizer) in arms.items():
            clock = Clock(device)
            taken = _seconds(
                device,
                lambda m=model, o=optimizer, r=chosen, c=clock: training_step(m, o, pairs, r, c),  # type: ignore[misc]  # noqa: B023
            )
            if step:  # the first warms up
                seconds[arm].append(taken)
    return {arm: statistics.median(values) for arm, values in seconds.items()}


@torch.inference_mode()
def _networks(device: torch.device, width: int, height: int, repeats: int) -> dict[str, float]:
    kinds = ("none", "rows", "pixels")
    models = {kind: SAMFeat(edge_attention=kind).eval().to(device) for kind in kinds}
    image = torch.rand(1, 3, height, width, device=device) * 2 - 1
    image = image.contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for step in range(repeats + 1):
        for kind, model in models.items():
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            with half_precision(device, wanted=True):
                taken = _seconds(device, lambda m=model: m.encode(image))  # type: ignore[misc]
            if step:
                seconds[kind].append(taken)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return time.process_time() - began


def _lines(seconds: dict[str, float]) -> list[str]:
    first = next(iter(seconds.values()))
    return [
        f"{name:14} {value:8.3f} s  {value / first - 1:+.0%}" for name, value in seconds.items()
    ]


if __name__ == "__main__":
    run_program(main)
