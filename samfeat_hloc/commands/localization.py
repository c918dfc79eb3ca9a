"""``samfeat mapping`` and ``samfeat localization``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .stages import RayAddress

if TYPE_CHECKING:
    from ..datasets.queries import Query

_Pairs = Annotated[Path, typer.Option(help="List of pairs, 'name0 name1' lines.")]
_Features = Annotated[Path, typer.Option(help="Feature file, HDF5 in hloc's format.")]
_Matches = Annotated[Path, typer.Option(help="Match file, HDF5 in hloc's format.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what was made differently.")]

_Map = Annotated[Path, typer.Option("--map", help="COLMAP model of the features.")]
_Queries = Annotated[
    list[Path],
    typer.Option(
        help="List of queries with intrinsics, 'name MODEL width height params...' lines; give the "
        "option again for more lists."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""

    @app.command()
    def mapping(
        reference_model: Annotated[
            Path, typer.Option(help="COLMAP model with the cameras and poses.")
        ],
        image_dir: Annotated[Path, typer.Option(help="Folder of the images.")],
        pairs: _Pairs,
        features: _Features,
        matches: _Matches,
        output: Annotated[Path, typer.Option(help="Folder of the new COLMAP model.")],
        overwrite: _Overwrite = False,
    ) -> None:
        """Triangulate features into a COLMAP model with known poses."""
        from ..localization import mapping as stage
        from ..localization.inputs import MappingInputs
        from ..pipelines.summary import map_figures

        inputs = MappingInputs(reference_model, image_dir, pairs, features, matches)
        stage.main(inputs, output, overwrite=overwrite)
        found = map_figures(output)
        typer.echo(
            f"{output}: {found['images']} images, {found['points']} points, "
            f"track length {found['mean_track_length']:.2f}, "
            f"reprojection error {found['mean_reprojection_error']:.2f} px"
        )

    @app.command()
    def places(
        map_dir: _Map,
        queries: _Queries,
        pairs: _Pairs,
        features: _Features,
        matches: _Matches,
        output: Annotated[Path, typer.Option(help="Pairs file to write.")],
        max_error: Annotated[float, typer.Option(help="Of a pose's inliers, in pixels.")] = 12.0,
        workers: Annotated[int, typer.Option(help="Queries solved at a time.")] = 2,
        overwrite: _Overwrite = False,
    ) -> None:
        """Leave out retrieved images of places that only look like the query's."""
        from ..localization import places as stage
        from ..localization.inputs import LocalizationInputs

        inputs = LocalizationInputs(map_dir, _read(queries), pairs, features, matches)
        stage.main(inputs, output, max_error=max_error, overwrite=overwrite, workers=workers)

    @app.command()
    def localization(
        map_dir: _Map,
        queries: _Queries,
        pairs: _Pairs,
        features: _Features,
        matches: _Matches,
        output: Annotated[Path, typer.Option(help="Poses file to write, as poses.txt.")],
        max_error: Annotated[float, typer.Option(help="Of a pose's inliers, in pixels.")] = 12.0,
        workers: Annotated[
            str, typer.Option(help="Queries solved at a time; ray for a cluster.")
        ] = "2",
        ray_address: RayAddress = None,
        overwrite: _Overwrite = False,
    ) -> None:
        """Localize queries in a map: PnP with LO-RANSAC and refinement."""
        from ..localization import localize as stage
        from ..localization.inputs import LocalizationInputs
        from ..parallel.cluster import chosen

        with chosen(workers, ray_address) as (threads, cluster):
            inputs = LocalizationInputs(map_dir, _read(queries), pairs, features, matches)
            result = stage.main(
                inputs, output, max_error=max_error, overwrite=overwrite, workers=threads or 1,
                cluster=cluster,
            )  # fmt: skip
        typer.echo(f"{output}: {result.num_localized} of {len(result.queries)} queries localized")
        for name, query in result.queries.items():
            if not query.localized:
                typer.echo(f"  {name}: {query.status}, pose of {query.retrieved[0][0]}")


def _read(lists: list[Path]) -> list[Query]:
    from ..datasets.aachen import LIST_SUFFIX
    from ..datasets.queries import read_queries

    return [
        query for path in lists for query in read_queries(path, path.name.removesuffix(LIST_SUFFIX))
    ]
