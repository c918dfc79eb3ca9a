"""``samfeat submission make``, ``samfeat submission check`` and ``samfeat eval localization``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..colmap.poses import read_poses
from ..datasets.queries import by_full_name
from ..datasets.registry import open_dataset
from ..evaluation.localization import evaluate, within
from ..files.textlines import write_atomically
from ..localization.submission import check, make
from .application import group
from .options import DEFAULT_BENCHMARK, Benchmark, Scene

_Dataset = Annotated[Path, typer.Option("--dataset", help="Dataset folder of the benchmark.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    submission = group(app, "submission", "Write and check the benchmark's submission file.")
    submission.command("make")(_make)
    submission.command("check")(_check)
    group(app, "eval", "Measure results against ground truth.").command("localization")(_evaluate)


def _make(
    poses: Annotated[Path, typer.Argument(help="Poses by full query names, as localization has.")],
    dataset: _Dataset,
    outputs: Annotated[Path, typer.Option("--outputs", help="Folder for the submission.")],
    method: Annotated[str, typer.Option("--method", help="Name in the file's name.")] = "samfeat",
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
) -> None:
    """Write the submission file of a poses file."""
    opened = open_dataset(dataset, benchmark, scene)
    found = by_full_name(read_poses(poses), opened.queries, poses)
    typer.echo(make(found, opened, outputs, method))


def _check(
    file: Annotated[Path, typer.Argument(help="The submission file.")],
    dataset: _Dataset,
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
) -> None:
    """Say all that is wrong with a submission file; exit code 1 when anything is."""
    opened = open_dataset(dataset, benchmark, scene)
    problems = check(file, opened)
    for problem in problems:
        typer.echo(f"{file}: {problem}")
    if problems:
        raise typer.Exit(1)
    counts = ", ".join(
        f"{sum(query.condition == name for query in opened.queries)} {name}"
        for name in opened.conditions
    )
    typer.echo(f"{file}: all {len(opened.queries)} queries ({counts}), ready to upload")


def _evaluate(
    results: Annotated[
        Path, typer.Argument(help="A submission or poses file, or the outputs folder of a run.")
    ],
    dataset: _Dataset,
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Cumulative error curves, .png, .pdf or .svg.")
    ] = None,
) -> None:
    """Print the share of queries localized within the benchmark's thresholds, and what failed.

    The reasons of failures are read off localization.json and map/ beside a run's poses.txt.
    """
    from ..evaluation import failures

    poses_file = results / "poses.txt" if results.is_dir() else results
    opened = open_dataset(dataset, benchmark, scene)
    evaluation = evaluate(by_full_name(read_poses(poses_file), opened.queries, poses_file), opened)
    typer.echo(evaluation.table())
    if without := [name for name, error in evaluation.errors.items() if math.isinf(error[0])]:
        typer.echo(
            f"warning: {poses_file} has no pose for {len(without)} of {len(evaluation.errors)} "
            f"queries, e.g. {without[0]}; they count as failed"
        )
    run = failures.read_run(poses_file)
    diagnoses = [] if run is None else failures.diagnose_all(*run, opened)
    if run is not None:
        typer.echo(failures.failures_table(diagnoses))
    elif lost := sum(not within(error) for error in evaluation.errors.values()):
        typer.echo(
            f"{lost} queries failed; for the reasons, name the poses.txt of a run, with its "
            "localization.json and map/ beside it"
        )
    if plot is not None:
        from ..evaluation.curves import save
        from ..evaluation.localization_curves import error_figure

        save(error_figure(evaluation.errors_by_condition(opened)), plot)
    if json_file is not None:
        from ..evaluation.record import measurement

        content = {
            **evaluation.as_json(),
            "failures": [found.as_json() for found in diagnoses if found.failed],
            **measurement({"results": results, "dataset": dataset}),
        }
        write_atomically(json_file, json.dumps(content, indent=2) + "\n")
