"""``samfeat train``, ``whiten``, ``project``, ``average`` and ``ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..training.recipe_files import recipes
from .options import TRAINING, Device, Images, OverwriteOutput

Recipe = Annotated[
    Path, typer.Option("--recipe", help=f"A recipe: {', '.join(recipes())}, or your own YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as data.images=PHOTOS."),
]
_Output = Annotated[Path, typer.Option("--output", help="The checkpoint to write.")]
_Trained = Annotated[Path, typer.Option("--weights", help="A trained checkpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""

    @app.command("train", rich_help_panel=TRAINING)
    def train(recipe: Recipe, overrides: Overrides = None, device: Device = None) -> None:
        """Train SAMFeat by a recipe.

        An interrupted run goes on when the same command is given again.
        """
        from ..training.recipe import read_recipe  # heavy: not for the other commands
        from ..training.trainer import train

        typer.echo(f"weights: {train(read_recipe(recipe, overrides or []), device=device)}")

    @app.command("whiten", rich_help_panel=TRAINING)
    def whiten(
        images: Images,
        output: _Output,
        weights: _Trained,
        strength: Annotated[
            float, typer.Option(help="How far to whiten, from 0.1 to 0.5 (fully).")
        ] = 0.4,
        num_pairs: Annotated[
            int, typer.Option(min=8, help="Pairs of warped views to measure on.")
        ] = 480,
        device: Device = None,
        overwrite: OverwriteOutput = False,
    ) -> None:
        """Whiten a trained checkpoint's descriptors by how they change from view to view."""
        from ..training import whitening

        whitening.main(
            weights,
            images,
            output,
            strength=strength,
            pairs=num_pairs,
            device=device,
            overwrite=overwrite,
        )
        typer.echo(f"weights: {output}")

    @app.command("project", rich_help_panel=TRAINING)
    def project(
        images: Images,
        output: _Output,
        weights: _Trained,
        steps: Annotated[
            int, typer.Option(min=1, help="Optimizer steps, each of three pairs of views.")
        ] = 270,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the random views.")] = 1,
        penalty: Annotated[
            float,
            typer.Option(
                min=0,
                help="What a wrong match costs, where a right one earns 1. More leaves fewer wrong "
                "matches, and fewer right ones.",
            ),
        ] = 1.0,
        device: Device = None,
        overwrite: OverwriteOutput = False,
    ) -> None:
        """Learn a linear map of a trained checkpoint's descriptors; whiten them first."""
        from ..training import projection

        projection.main(
            weights, images, output, steps=steps, seed=seed, penalty=penalty, device=device,
            overwrite=overwrite,
        )  # fmt: skip
        typer.echo(f"weights: {output}")

    @app.command("average", rich_help_panel=TRAINING)
    def average(
        output: _Output,
        weights: Annotated[
            list[Path], typer.Option(help="A checkpoint, the start first; can be repeated.")
        ],
        overwrite: OverwriteOutput = False,
    ) -> None:
        """Average the weights of runs that began with the same checkpoint."""
        from ..training import averaging

        typer.echo(f"weights: {averaging.main(weights, output, overwrite=overwrite)}")

    @app.command("ablate", rich_help_panel=TRAINING)
    def ablate(
        recipe: Recipe,
        overrides: Overrides = None,
        arm: Annotated[
            list[str] | None,
            typer.Option(
                help="An arm to train, such as baseline; can be repeated.",
                show_default="all of the teacher's",
            ),
        ] = None,
        seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 1,
        measure: Annotated[
            list[Path] | None,
            typer.Option(
                help="Folder in HPatches' layout to match after each run; can be repeated."
            ),
        ] = None,
        results: Annotated[
            Path | None,
            typer.Option(help="Folder of the runs' results; runs that are in it are not done."),
        ] = None,
        device: Device = None,
    ) -> None:
        """Train without the teacher, with each of its parts, and with all; compare the results."""
        from ..files.atomic import write_atomically
        from ..training import ablation, ablation_tables
        from ..training.recipe import read_recipe

        read = read_recipe(recipe, overrides or [])
        first = read.train.seed
        found = ablation.ablate(
            read, arms=arm or list(ablation.TEACHERS_ARMS), seeds=range(first, first + seeds),
            measured=measure or [], results=results, device=device,
        )  # fmt: skip
        table = ablation_tables.tables(found)
        typer.echo(table)
        write_atomically(read.output / "ablation.md", table + "\n")
        typer.echo(f"table: {read.output / 'ablation.md'}")
