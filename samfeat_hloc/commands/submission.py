"""``samfeat submission make``, ``samfeat submission check`` and ``samfeat eval localization``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..colmap.poses import read_poses
from ..datasets.queries import by_full_name
from ..datasets.registry import open_all, open_dataset
from ..evaluation.localization import evaluate, within
from ..files.atomic import write_atomically
from ..localization.submission import check, make
from .application import group
from .options import (
    BENCHMARK_PANEL,
    DEFAULT_BENCHMARK,
    EVAL,
    LOOK,
    Benchmark,
    Dataset,
    JsonOutput,
    Method,
    Queries,
    Scene,
    Truth,
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    submission = group(
        app, "submission", "Write and check a benchmark's submission.", BENCHMARK_PANEL
    )
    submission.command("make")(_make)
    submission.command("check")(_check)
    group(app, "eval", EVAL, LOOK).command("localization")(_evaluate)


def _make(
    poses: Annotated[
        Path,
        typer.Argument(
            metavar="POSES",
            help="Poses file by the queries' full names, as `samfeat poses` writes it.",
        ),
    ],
    dataset: Dataset,
    outputs: Annotated[Path, typer.Option(help="Folder to write the file to.")],
    method: Method = "samfeat",
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
) -> None:
    """Write a submission file from a poses file."""
    opened = open_dataset(dataset, benchmark, scene)
    found = by_full_name(read_poses(poses), opened.queries, poses)
    typer.echo(make(found, opened, outputs, method))


def _check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The submission file.")],
    dataset: Dataset,
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
) -> None:
    """List everything that is wrong with a submission file; the exit code is 1 then."""
    opened = open_all(dataset, benchmark, scene)
    problems = check(file, opened)
    for problem in problems:
        typer.echo(f"{file}: {problem}")
    if problems:
        raise typer.Exit(1)
    counts = ", ".join(
        f"{sum(query.condition == name for query in opened.to_submit)} {name}"
        for name in dict.fromkeys(query.condition for query in opened.to_submit)
    )
    typer.echo(f"{file}: all {len(opened.to_submit)} queries ({counts}), ready to upload")


def _evaluate(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="A submission or poses file, or the outputs folder of a run."
        ),
    ],
    dataset: Dataset,
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
    queries: Queries = None,
    truth: Truth = None,
    output: JsonOutput = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cumulative error curves to this .png, .pdf or .svg.")
    ] = None,
) -> None:
    """Print the share of queries within the benchmark's thresholds, and why the others failed.

    The reasons are found in localization.json and map/ beside the poses.txt of a run.
    """
    from ..evaluation import failures

    poses_file = results / "poses.txt" if results.is_dir() else results
    opened = open_dataset(dataset, benchmark, scene, queries=queries, truth=truth)
    evaluation = evaluate(by_full_name(read_poses(poses_file), opened.queries, poses_file), opened)
    typer.echo(evaluation.table())
    if without := [name for name, error in evaluation.errors.items() if math.isinf(error[0])]:
        typer.echo(
            f"warning: {poses_file} has no pose for {len(without)} of {len(evaluation.errors)} "
            f"queries, e.g. {without[0]}; they count as failed"
        )
    run = failures.read_run(poses_file)
    diagnoses = [] if run is None else failures.diagnose_all(*run, opened)
    if run is not None:  # the others have been told already
        tried = {found.name for found in diagnoses}
        absent = [name for name in without if name not in tried]
        diagnoses += failures.without_pose(absent, opened)
    if run is not None:
        typer.echo(failures.failures_table(diagnoses))
    elif lost := sum(not within(error) for error in evaluation.errors.values()):
        typer.echo(
            f"{lost} queries failed; for the reasons, give the poses.txt of a run, with its "
            "localization.json and map/ beside it"
        )
    if plot is not None:
        from ..evaluation.curves import save
        from ..evaluation.localization_curves import error_figure

        save(error_figure(evaluation.errors_by_condition(opened)), plot)
    if output is not None:
        from ..evaluation.record import measurement

        content = {
            **evaluation.as_json(),
            "failures": [found.as_json() for found in diagnoses if found.failed],
            **measurement({"results": results, "dataset": dataset}),
        }
        write_atomically(output, json.dumps(content, indent=2) + "\n")
