"""``samfeat train``, ``whiten``, ``project`` and ``ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option(help="A recipe, such as configs/homographies.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as data.images=PHOTOS")
]
_Images = Annotated[Path, typer.Option(help="Folder of photos, as for training.")]
_Out = Annotated[Path, typer.Option(help="The checkpoint to write.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""

    @app.command()
    def train(config: Config, overrides: Overrides = None) -> None:
        """Train SAMFeat, or go on with a run that was interrupted."""
        from ..training.recipe import read_recipe  # heavy: not for the other commands
        from ..training.trainer import train

        typer.echo(f"weights: {train(read_recipe(config, overrides or []))}")

    @app.command()
    def whiten(
        images: _Images,
        out: _Out,
        weights: Annotated[Path, typer.Option(help="A trained checkpoint.")],
        strength: Annotated[float, typer.Option(help="0.5 whitens in full.")] = 0.4,
        pairs: Annotated[int, typer.Option(min=8, help="Of views to look at.")] = 480,
        overwrite: _Overwrite = False,
    ) -> None:
        """Make a trained checkpoint's descriptors count less where a change of view moves them."""
        from ..training import whitening

        whitening.main(weights, images, out, strength=strength, pairs=pairs, overwrite=overwrite)
        typer.echo(f"weights: {out}")

    @app.command()
    def project(
        images: _Images,
        out: _Out,
        weights: Annotated[Path, typer.Option(help="A trained checkpoint, best whitened.")],
        steps: Annotated[int, typer.Option(min=1, help="Of three pairs of views each.")] = 270,
        seed: Annotated[int, typer.Option(min=0, help="Of the views.")] = 1,
        overwrite: _Overwrite = False,
    ) -> None:
        """Learn a linear map of a trained checkpoint's descriptors from what they match."""
        from ..training import projection

        projection.main(weights, images, out, steps=steps, seed=seed, overwrite=overwrite)
        typer.echo(f"weights: {out}")

    @app.command()
    def ablate(config: Config, overrides: Overrides = None) -> None:
        """Train without the teacher, with each of its losses, and with all; print what each is
        worth and costs."""
        from ..training import ablation
        from ..training.recipe import read_recipe

        recipe = read_recipe(config, overrides or [])
        typer.echo(ablation.table(ablation.ablate(recipe)))
        typer.echo(f"table: {recipe.output / 'ablation.md'}")
