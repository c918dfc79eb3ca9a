"""``samfeat triangulate``, ``places`` and ``poses``: the stages that need a map or make it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .application import add_commands
from .options import (
    DEFAULT_MAX_ERROR,
    STAGES,
    Features,
    Images,
    LocalWorkers,
    Matches,
    MaxError,
    Overwrite,
    Pairs,
    PairsOutput,
    RayAddress,
    ReferenceModel,
    Workers,
)

if TYPE_CHECKING:
    from ..datasets.queries import Query

_Map = Annotated[
    Path, typer.Option("--map", help="COLMAP model that `samfeat triangulate` made of --features.")
]
_Queries = Annotated[
    list[Path],
    typer.Option(
        "--queries",
        help="List of queries with intrinsics, a line 'name MODEL width height params...' each; "
        "can be repeated.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add_commands(app, {"triangulate": _triangulate, "places": _places, "poses": _poses}, STAGES)


def _triangulate(
    reference_model: ReferenceModel,
    images: Images,
    pairs: Pairs,
    features: Features,
    matches: Matches,
    output: Annotated[Path, typer.Option(help="Folder of the COLMAP model to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Triangulate matched features at known poses into a COLMAP model, the map."""
    from ..localization import mapping as stage
    from ..localization.inputs import MappingInputs
    from ..pipelines.summary import map_figures

    inputs = MappingInputs(reference_model, images, pairs, features, matches)
    stage.main(inputs, output, overwrite=overwrite)
    found = map_figures(output)
    typer.echo(
        f"{output}: {found['images']} images, {found['points']} points, "
        f"track length {found['mean_track_length']:.2f}, "
        f"reprojection error {found['mean_reprojection_error']:.2f} px"
    )


def _places(
    map_dir: _Map,
    queries: _Queries,
    pairs: Pairs,
    features: Features,
    matches: Matches,
    output: PairsOutput,
    max_error: MaxError = DEFAULT_MAX_ERROR,
    workers: LocalWorkers = 2,
    overwrite: Overwrite = False,
) -> None:
    """Leave out retrieved images of places that only look like the query's."""
    from ..localization import places as stage
    from ..localization.inputs import LocalizationInputs

    inputs = LocalizationInputs(map_dir, _read(queries), pairs, features, matches)
    stage.main(inputs, output, max_error=max_error, overwrite=overwrite, workers=workers)


def _poses(
    map_dir: _Map,
    queries: _Queries,
    pairs: Pairs,
    features: Features,
    matches: Matches,
    output: Annotated[
        Path, typer.Option(help="Poses file to write, a line 'name qw qx qy qz tx ty tz' each.")
    ],
    rig: Annotated[
        str | None,
        typer.Option(
            help="Localize together what the cameras of a rig took at once: COLMAP's "
            "rig_config.json, or a COLMAP model or kapture folder with rigs.",
        ),
    ] = None,
    max_error: MaxError = DEFAULT_MAX_ERROR,
    workers: Workers = "2",
    ray_address: RayAddress = None,
    overwrite: Overwrite = False,
) -> None:
    """Estimate the poses of matched queries: PnP with LO-RANSAC, then refinement."""
    from ..datasets.rigs import frames_of_queries
    from ..localization import localize as stage
    from ..localization.inputs import LocalizationInputs
    from ..parallel.cluster import chosen

    listed = _read(queries)
    frames = [] if rig is None else frames_of_queries(rig, [query.name for query in listed])
    with chosen(workers, ray_address) as (threads, cluster):
        inputs = LocalizationInputs(map_dir, listed, pairs, features, matches, frames)
        result = stage.main(
            inputs, output, max_error=max_error, overwrite=overwrite, workers=threads or 1,
            cluster=cluster,
        )  # fmt: skip
    typer.echo(f"{output}: {result}")
    for name, query in result.queries.items():
        if not query.localized:
            typer.echo(f"  {name}: {query.status}, given the pose of {query.retrieved[0][0]}")
        elif query.weak:
            typer.echo(f"  {name}: weak, {query.num_inliers} inliers")


def _read(lists: list[Path]) -> list[Query]:
    from ..datasets.aachen import LIST_SUFFIX
    from ..datasets.queries import read_queries

    return [
        query for path in lists for query in read_queries(path, path.name.removesuffix(LIST_SUFFIX))
    ]
