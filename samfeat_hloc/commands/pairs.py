"""``samfeat pairs``: lists of pairs of images to match."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .application import add_commands, group
from .image_lists import (
    DbLists,
    DbPrefix,
    Lists,
    QueryLists,
    QueryPrefix,
    chosen_names,
    names_in,
)
from .options import STAGES, Overlap, Overwrite, PairsOutput, ReferenceModel


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    pairs = group(app, "pairs", "List pairs of images to match.", STAGES)
    add_commands(
        pairs,
        {
            "covisibility": _covisibility,
            "retrieval": _retrieval,
            "poses": _near,
            "exhaustive": _exhaustive,
            "sequence": _sequence,
        },
    )


def _covisibility(
    reference_model: ReferenceModel,
    output: PairsOutput,
    num_covisible: Annotated[
        int, typer.Option(help="Covisible images paired with each image.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Pair images that see the same points of a COLMAP model."""
    from ..localization import pairs

    pairs.from_covisibility(reference_model, output, num_matched=num_covisible, overwrite=overwrite)


def _retrieval(
    descriptors: Annotated[
        Path,
        typer.Option(
            "--global-descriptors",
            help="File of global descriptors (HDF5, as hloc's and `samfeat global-descriptors`').",
        ),
    ],
    output: PairsOutput,
    db_list: DbLists = None,
    db_prefix: DbPrefix = None,
    query_list: QueryLists = None,
    query_prefix: QueryPrefix = None,
    num_retrieved: Annotated[
        int, typer.Option(help="Database images paired with each query.")
    ] = 50,
    overwrite: Overwrite = False,
) -> None:
    """Pair queries with the database images that look most similar."""
    from ..localization import pairs

    database = chosen_names("db", descriptors, "global_descriptor", db_list, db_prefix)
    queries = chosen_names("query", descriptors, "global_descriptor", query_list, query_prefix)
    pairs.from_retrieval(
        descriptors, queries, database, output, num_matched=num_retrieved, overwrite=overwrite
    )


def _near(
    reference_model: ReferenceModel,
    output: PairsOutput,
    num_near: Annotated[int, typer.Option(help="Nearest images paired with each image.")] = 20,
    max_angle: Annotated[
        float, typer.Option(help="Largest angle between their viewing directions, in degrees.")
    ] = 30.0,
    overwrite: Overwrite = False,
) -> None:
    """Pair images whose cameras are near each other and look the same way; no points needed."""
    from ..localization import pairs_by_rule

    pairs_by_rule.from_poses(
        reference_model, output, num_matched=num_near, most_angle=max_angle, overwrite=overwrite
    )


def _exhaustive(
    lists: Annotated[
        list[Path],
        typer.Option(
            "--list", help="List of images, the first word of each line; can be repeated."
        ),
    ],
    output: PairsOutput,
    db_list: Annotated[
        list[Path] | None,
        typer.Option(help="Pair with these images, not with each other; can be repeated."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pair every image with every other, or every query with every database image."""
    from ..localization import pairs_by_rule

    others = None if db_list is None else names_in(db_list)
    pairs_by_rule.exhaustive(names_in(lists), output, others=others, overwrite=overwrite)


def _sequence(
    output: PairsOutput,
    lists: Lists = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, in place of lists.")
    ] = None,
    overlap: Overlap = 10,
    descriptors: Annotated[
        Path | None,
        typer.Option(
            "--global-descriptors",
            help="File of global descriptors: images that look alike and are far apart in the "
            "sequence are paired too (loop closure).",
        ),
    ] = None,
    num_retrieved: Annotated[
        int, typer.Option(help="Images that loop closure pairs with each image at most.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Pair images with those that follow them, in the order of their names (2 before 10).

    Each folder is a sequence of its own.
    """
    from ..files.image_folders import list_images
    from ..localization import sequences

    if (lists is None) == (images is None):
        raise SamfeatError("--images", "give it or --list", "one of them names the images")
    names = names_in(lists or []) if images is None else list_images(images)
    sequences.main(
        names, output, overlap=overlap, descriptors=descriptors, num_retrieved=num_retrieved,
        overwrite=overwrite,
    )  # fmt: skip
