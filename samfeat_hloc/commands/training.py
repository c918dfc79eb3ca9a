"""``samfeat train``, ``whiten``, ``project`` and ``ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..training.recipe_files import recipes
from .options import TRAINING, Device, Images

Recipe = Annotated[
    Path,
    typer.Option("--recipe", help=f"A recipe: {', '.join(recipes())}, or your own YAML file."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as data.images=PHOTOS."),
]
_Output = Annotated[Path, typer.Option("--output", help="The checkpoint to write.")]
_Trained = Annotated[Path, typer.Option("--weights", help="A trained checkpoint.")]
_Replace = Annotated[bool, typer.Option("--overwrite", help="Replace --output.")]


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
            float, typer.Option("--strength", help="How far to whiten, from 0.1 to 0.5 (fully).")
        ] = 0.4,
        num_pairs: Annotated[
            int, typer.Option("--num-pairs", min=8, help="Pairs of warped views to measure on.")
        ] = 480,
        device: Device = None,
        overwrite: _Replace = False,
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
            int,
            typer.Option("--steps", min=1, help="Optimizer steps, each of three pairs of views."),
        ] = 270,
        seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random views.")] = 1,
        device: Device = None,
        overwrite: _Replace = False,
    ) -> None:
        """Learn a linear map of a trained checkpoint's descriptors; whiten them first."""
        from ..training import projection

        projection.main(
            weights, images, output, steps=steps, seed=seed, device=device, overwrite=overwrite
        )
        typer.echo(f"weights: {output}")

    @app.command("ablate", rich_help_panel=TRAINING)
    def ablate(recipe: Recipe, overrides: Overrides = None, device: Device = None) -> None:
        """Train without the teacher, with each of its losses, and with all; compare the results."""
        from ..training import ablation
        from ..training.recipe import read_recipe

        read = read_recipe(recipe, overrides or [])
        typer.echo(ablation.table(ablation.ablate(read, device=device)))
        typer.echo(f"table: {read.output / 'ablation.md'}")
