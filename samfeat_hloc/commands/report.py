"""``samfeat report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import LOOK, LocalWorkers


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("report", rich_help_panel=LOOK)
    def report(
        outputs: Annotated[
            Path, typer.Argument(metavar="OUTPUTS", help="The outputs folder of a run.")
        ],
        dataset: Annotated[
            Path | None,
            typer.Option(
                "--dataset", help="The run's dataset.", show_default="where the run found it"
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option("--output", help="File to write.", show_default="OUTPUTS/report.html"),
        ] = None,
        max_points: Annotated[
            int, typer.Option("--max-points", min=1, help="Points in the 3-D view at most.")
        ] = 100_000,
        max_pictures: Annotated[
            int,
            typer.Option("--max-pictures", min=0, help="Queries shown with their matches at most."),
        ] = 60,
        workers: LocalWorkers = 2,
    ) -> None:
        """Write one HTML file with tables, curves, matches and a 3-D view; it opens offline."""
        from ..report.gather import gather
        from ..report.page import write_report

        data = gather(
            outputs, dataset, max_points=max_points, max_pictures=max_pictures, workers=workers
        )
        path = write_report(data, output or outputs / "report.html")
        typer.echo(f"{path}: {len(data.queries)} queries, {path.stat().st_size / 1e6:.1f} MB")
