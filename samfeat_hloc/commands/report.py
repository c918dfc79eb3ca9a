"""``samfeat report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SamfeatError
from .options import LOOK, LocalWorkers


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("report", rich_help_panel=LOOK)
    def report(
        outputs: Annotated[
            Path,
            typer.Argument(
                metavar="OUTPUTS",
                help="Outputs folder of `samfeat run` or `samfeat reconstruct`; a saved map; or "
                "hloc's poses file, with its log beside it, and --map.",
            ),
        ],
        dataset: Annotated[
            Path | None,
            typer.Option(help="The run's dataset.", show_default="where the run found it"),
        ] = None,
        images: Annotated[
            Path | None,
            typer.Option(
                help="Folder of the photos, of a reconstruction, a map or hloc's poses.",
                show_default="where the reconstruction found them",
            ),
        ] = None,
        map_dir: Annotated[
            Path | None, typer.Option("--map", help="COLMAP model that hloc's poses file is of.")
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(
                help="File to write.",
                show_default="report.html in OUTPUTS; beside a map or a poses file, "
                "OUTPUTS.report.html",
            ),
        ] = None,
        max_points: Annotated[
            int, typer.Option(min=1, help="Points in the 3-D view at most.")
        ] = 100_000,
        max_pictures: Annotated[
            int, typer.Option(min=0, help="Queries or photos shown with their matches at most.")
        ] = 60,
        workers: LocalWorkers = 2,
    ) -> None:
        """Write one HTML file with tables, curves, matches and a 3-D view; it opens offline."""
        from ..report.contents import ReportOptions
        from ..report.gather import gather
        from ..report.gather_photos import gather_photos, is_map, is_photos
        from ..report.page import check_output, write_report

        options = ReportOptions(max_points, max_pictures, workers)
        if map_dir is not None and not outputs.is_file():
            raise SamfeatError("--map", "given without hloc's poses file", "leave it out")
        if output is None:
            beside = outputs.is_file() or is_map(outputs)  # nothing else belongs into a saved map
            name = outputs.with_name(f"{outputs.name}.report.html")
            output = name if beside else outputs / "report.html"
        check_output(output)
        data: Any
        if is_photos(outputs):
            if dataset is not None:
                raise SamfeatError(
                    "--dataset", f"{outputs} has no queries", "give the photos with --images"
                )
            data = gather_photos(outputs, images, options)
            shown = f"{len(data.photos)} photos"
        else:
            data = gather(outputs, dataset, map_dir=map_dir, images=images, options=options)
            shown = f"{len(data.queries)} queries"
        path = write_report(data, output)
        typer.echo(f"{path}: {shown}, {path.stat().st_size / 1e6:.1f} MB")
        for note in data.notes:
            typer.echo(f"  {note}")
