"""``samfeat submission make``, ``samfeat submission check`` and ``samfeat eval localization``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from samfeat_hloc.evaluation.localization import by_base_name, evaluate
from samfeat_hloc.localization.dataset import AachenDataset
from samfeat_hloc.localization.poses import read_poses
from samfeat_hloc.localization.submission import check, make
from samfeat_hloc.localization.textlines import write_atomically

_Dataset = Annotated[Path, typer.Option("--dataset", help="Dataset folder in Aachen's layout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    submission = _group(app, "submission", "Write and check the benchmark's submission file.")
    submission.command("make")(_make)
    submission.command("check")(_check)
    _group(app, "eval", "Measure results against ground truth.").command("localization")(_evaluate)


def _group(app: typer.Typer, name: str, purpose: str) -> typer.Typer:
    """The sub-application of that name, shared with whoever has added it before."""
    for group in app.registered_groups:
        if group.name == name and group.typer_instance is not None:
            return group.typer_instance
    group_app = typer.Typer(help=purpose, no_args_is_help=True)
    app.add_typer(group_app, name=name)
    return group_app


def _make(
    poses: Annotated[Path, typer.Argument(help="Poses by full query names, as localization has.")],
    dataset: _Dataset,
    outputs: Annotated[Path, typer.Option("--outputs", help="Folder for the submission.")],
    method: Annotated[str, typer.Option("--method", help="Name in the file's name.")] = "samfeat",
) -> None:
    """Write the submission file of a poses file."""
    typer.echo(make(read_poses(poses), AachenDataset.open(dataset), outputs, method))


def _check(
    file: Annotated[Path, typer.Argument(help="The submission file.")],
    dataset: _Dataset,
) -> None:
    """Say all that is wrong with a submission file; exit code 1 when anything is."""
    opened = AachenDataset.open(dataset)
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
    results: Annotated[Path, typer.Argument(help="A submission or poses file.")],
    dataset: _Dataset,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Print the share of queries localized within the benchmark's thresholds."""
    poses = by_base_name(read_poses(results))
    evaluation = evaluate(poses, AachenDataset.open(dataset))
    typer.echo(evaluation.table())
    if json_file is not None:
        write_atomically(json_file, json.dumps(evaluation.as_json(), indent=2) + "\n")
