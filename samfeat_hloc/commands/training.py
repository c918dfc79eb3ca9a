"""``samfeat train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command()
    def train(
        config: Annotated[Path, typer.Option(help="A recipe, such as configs/homographies.yaml.")],
        overrides: Annotated[
            list[str] | None, typer.Argument(help="key=value, such as data.images=PHOTOS")
        ] = None,
    ) -> None:
        """Train SAMFeat, or go on with a run that was interrupted."""
        from ..training.recipe import read_recipe  # heavy: not for the other commands
        from ..training.trainer import train

        typer.echo(f"weights: {train(read_recipe(config, overrides or []))}")
