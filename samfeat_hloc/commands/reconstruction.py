"""``samfeat reconstruct`` and ``samfeat eval reconstruction``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .application import group
from .options import (
    DEFAULT_PRESET,
    EVAL,
    LOOK,
    OWN_PHOTOS,
    Device,
    FeatureType,
    JsonOutput,
    KnownCamera,
    KnownCameras,
    LocalWorkers,
    MaskFolder,
    Motion,
    OfficialWeights,
    Outputs,
    Overlap,
    OverwriteStages,
    Preset,
    Weights,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("reconstruct", rich_help_panel=OWN_PHOTOS)(_reconstruct)
    group(app, "eval", EVAL, LOOK).command("reconstruction")(_evaluate)


def _reconstruct(
    images: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photos, or a video.")],
    outputs: Outputs,
    feature_type: FeatureType = "samfeat",
    compare_rootsift: Annotated[
        bool,
        typer.Option(
            "--compare-rootsift", help="Reconstruct with RootSIFT too, into OUTPUTS/rootsift."
        ),
    ] = False,
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    align: Annotated[
        str | None,
        typer.Option(
            help="Bring the map to metres: gps for the photos' EXIF (x east, y north, z up), or a "
            "list of known positions, 'name x y z' a line."
        ),
    ] = None,
    places: Annotated[
        bool,
        typer.Option(
            "--places/--no-places",
            help="Leave out pairs that would join places that look alike into one model.",
        ),
    ] = True,
    turns: Annotated[
        bool,
        typer.Option(
            "--turns",
            help="Find photos that stand turned by 90, 180 or 270 degrees, which EXIF does not "
            "say.",
        ),
    ] = False,
    masks: MaskFolder = None,
    pairing: Annotated[
        str,
        typer.Option(
            help="Which photos to match: exhaustive (all pairs), retrieval (those that look "
            "alike), sequence (those that follow each other by their names, and those that look "
            "alike), or auto (all pairs of up to 100 photos; of more, retrieval, and sequence for "
            "a video)."
        ),
    ] = "auto",
    pairs: Annotated[
        Path | None, typer.Option(help="List of the pairs to match, in place of --pairing.")
    ] = None,
    num_retrieved: Annotated[int, typer.Option(help="Photos retrieved for each photo.")] = 20,
    overlap: Overlap = 10,
    motion: Motion = 0.1,
    camera_model: Annotated[
        str, typer.Option(help="COLMAP's camera model of the photos.")
    ] = "SIMPLE_RADIAL",
    camera_mode: Annotated[
        str,
        typer.Option(
            help="Which photos share a camera with one focal length: all (single), those of a "
            "folder (folder), none (image), or neighbours of equal size and EXIF (auto)."
        ),
    ] = "auto",
    camera: KnownCamera = None,
    cameras: KnownCameras = None,
    refine_focal: Annotated[
        bool | None,
        typer.Option(
            "--refine-focal/--no-refine-focal",
            help="Refine focal lengths and distortion; by default of all cameras that are not "
            "given.",
        ),
    ] = None,
    global_mapper: Annotated[
        bool,
        typer.Option(
            "--global", help="Solve for all cameras at once (GLOMAP; pycolmap 4 or newer)."
        ),
    ] = False,
    mapper_threads: Annotated[
        int,
        typer.Option(
            help="Threads of COLMAP's mapper; with more than 1 the model differs from run to run."
        ),
    ] = 1,
    workers: LocalWorkers = 2,
    device: Device = None,
    overwrite: OverwriteStages = False,
) -> None:
    """Find where photos, or a video's frames, were taken, and what points they show.

    This is structure from motion, into one COLMAP model for each place.
    An interrupted run goes on when the same command is given again.
    """
    from ..colmap.intrinsics import camera_from_text
    from ..colmap.structure_from_motion import SfmConfig
    from ..evaluation.reconstruction import evaluate, table
    from ..pipelines.align_models import in_words
    from ..pipelines.reconstruct import ReconstructOptions, run, with_method

    options = ReconstructOptions(
        method=feature_type,
        preset=preset,
        weights=weights,
        official_weights=official_weights,
        pairing=pairing,
        pairs=pairs,
        num_retrieved=num_retrieved,
        overlap=overlap,
        motion=motion,
        sfm=SfmConfig(
            camera_model, camera_mode, refine_focal, global_mapper, threads=mapper_threads
        ),
        camera=None if camera is None else camera_from_text(camera),
        cameras=cameras,
        align=align,
        places=places,
        turns=turns,
        masks=masks,
        workers=workers,
        device=device,
        overwrite=overwrite,
    )
    done = [run(images, outputs, options)]
    if compare_rootsift and feature_type != "rootsift":
        done.append(run(images, outputs / "rootsift", with_method(options, "rootsift")))
    typer.echo(f"\n{table([one.figures for one in done])}\n")
    first = done[0]
    typer.echo(f"{first.models[0]}: {first.figures.registered_images} of {first.num_images} images")
    typer.echo(f"  {in_words(first.alignments[0])}")
    for model, alignment in zip(first.models[1:], first.alignments[1:], strict=True):
        count = evaluate(model).registered_images
        typer.echo(f"{model}: {count} of {first.num_images} images, which do not connect to it")
        typer.echo(f"  {in_words(alignment)}")
    for model, contradicted in first.suspicious:
        typer.echo(
            f"{model}: may be wrong, it contradicts {len(contradicted)} pairs of photos that share "
            "much; look at it before you use it"
        )
    if first.lookalike_pairs:
        typer.echo(
            f"lookalikes: {first.lookalike_pairs} verified pairs left out, which would join places "
            "that look alike (--no-places keeps them)"
        )
    if turns:
        named = [f"{name} by {degrees} degrees" for name, degrees in first.turns.items()]
        told = f", {', '.join(named)}, clockwise" if named else ""
        typer.echo(f"turned: {len(named)} of {first.num_images} images{told}")
    if first.left_out:
        typer.echo(
            f"in no model: {len(first.left_out)} of {first.num_images} images,"
            f" {', '.join(first.left_out)}"
        )


def _evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="COLMAP models, or outputs folders of `samfeat reconstruct`."
        ),
    ],
    output: JsonOutput = None,
) -> None:
    """Compare reconstructions by the figures of the ETH local-feature benchmark."""
    from ..evaluation.reconstruction import evaluate, table
    from ..evaluation.record import measurement
    from ..files.atomic import write_atomically

    rows = [evaluate(path) for path in models]
    typer.echo(table(rows))
    if output is not None:
        figures = [
            {"path": str(path), **row.as_json()} for path, row in zip(models, rows, strict=True)
        ]
        content = {"reconstructions": figures, **measurement({"models": list(map(str, models))})}
        write_atomically(output, json.dumps(content, indent=2) + "\n")
