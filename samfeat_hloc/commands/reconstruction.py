"""``samfeat reconstruct`` and ``samfeat eval reconstruction``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .application import group


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("reconstruct")(_reconstruct)
    group(app, "eval", "Measure results against ground truth.").command("reconstruction")(_evaluate)


def _reconstruct(
    images: Annotated[Path, typer.Argument(help="Folder of photos.")],
    outputs: Annotated[Path, typer.Option("--outputs", help="Folder of all results.")],
    method: Annotated[str, typer.Option(help="Features: samfeat, or rootsift.")] = "samfeat",
    compare_rootsift: Annotated[
        bool,
        typer.Option("--compare-rootsift", help="Reconstruct with RootSIFT too, into rootsift/."),
    ] = False,
    conf: Annotated[str, typer.Option(help="Preset of extraction.")] = "samfeat_aachen",
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; else the shipped one.")] = None,
    official_weights: Annotated[
        bool, typer.Option("--official-weights", help="--weights is a file of the public release.")
    ] = False,
    pairing: Annotated[
        str, typer.Option(help="exhaustive, retrieval, or auto: all pairs up to 100 photos.")
    ] = "auto",
    pairs: Annotated[Path | None, typer.Option(help="Pairs to match, in place of those.")] = None,
    num_retrieved: Annotated[int, typer.Option(help="Photos retrieved for each photo.")] = 20,
    camera_model: Annotated[str, typer.Option(help="COLMAP's camera model.")] = "SIMPLE_RADIAL",
    single_camera: Annotated[
        bool, typer.Option("--single-camera", help="One camera, one zoom took all photos.")
    ] = False,
    global_mapper: Annotated[
        bool, typer.Option("--global", help="Reconstruct globally (pycolmap 4 or newer).")
    ] = False,
    mapper_threads: Annotated[
        int, typer.Option(help="Threads of COLMAP's mapper; above 1 the model varies by run.")
    ] = 1,
    workers: Annotated[int, typer.Option(help="Threads that decode photos.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")] = False,
) -> None:
    """Structure from motion on photos without poses."""
    from ..colmap.structure_from_motion import SfmConfig
    from ..evaluation.reconstruction import evaluate, table
    from ..pipelines.reconstruct import ReconstructOptions, run, with_method

    options = ReconstructOptions(
        method=method,
        conf=conf,
        weights=weights,
        official_weights=official_weights,
        pairing=pairing,
        pairs=pairs,
        num_retrieved=num_retrieved,
        sfm=SfmConfig(camera_model, single_camera, global_mapper, threads=mapper_threads),
        workers=workers,
        overwrite=overwrite,
    )
    done = [run(images, outputs, options)]
    if compare_rootsift and method != "rootsift":
        done.append(run(images, outputs / "rootsift", with_method(options, "rootsift")))
    typer.echo(f"\n{table([one.figures for one in done])}\n")
    first = done[0]
    typer.echo(f"{first.models[0]}: {first.figures.registered_images} of {first.num_images} images")
    for model in first.models[1:]:
        count = evaluate(model).registered_images
        typer.echo(f"{model}: {count} of {first.num_images} images, which do not connect to it")
    if first.left_out:
        typer.echo(
            f"in no model: {len(first.left_out)} of {first.num_images} images,"
            f" {', '.join(first.left_out)}"
        )


def _evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="COLMAP models, or outputs of samfeat reconstruct.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Print the figures of the ETH local-feature benchmark, a row a model."""
    from ..evaluation.reconstruction import evaluate, table
    from ..evaluation.record import measurement
    from ..files.textlines import write_atomically

    rows = [evaluate(path) for path in models]
    typer.echo(table(rows))
    if json_file is not None:
        figures = [
            {"path": str(path), **row.as_json()} for path, row in zip(models, rows, strict=True)
        ]
        content = {"reconstructions": figures, **measurement({"models": list(map(str, models))})}
        write_atomically(json_file, json.dumps(content, indent=2) + "\n")
