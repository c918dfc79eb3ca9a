"""``samfeat report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command()
    def report(
        outputs: Annotated[Path, typer.Argument(help="The outputs folder of a run.")],
        dataset: Annotated[
            Path | None, typer.Option(help="Its dataset; else the one that the run names.")
        ] = None,
        output: Annotated[
            Path | None, typer.Option(help="File to write; OUTPUTS/report.html unless given.")
        ] = None,
        points: Annotated[
            int, typer.Option(min=1, help="Points of the map in the 3-D view, at most.")
        ] = 100_000,
        pictures: Annotated[
            int, typer.Option(min=0, help="Queries with a picture of their matches, at most.")
        ] = 60,
        workers: Annotated[int, typer.Option(min=1, help="Photos decoded at a time.")] = 2,
    ) -> None:
        """Write one HTML file with tables, curves, matches and a 3-D view; it opens offline."""
        from ..report.gather import gather
        from ..report.page import write_report

        data = gather(outputs, dataset, max_points=points, max_pictures=pictures, workers=workers)
        path = write_report(data, output or outputs / "report.html")
        typer.echo(f"{path}: {len(data.queries)} queries, {path.stat().st_size / 1e6:.1f} MB")
