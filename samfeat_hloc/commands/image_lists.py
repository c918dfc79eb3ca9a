"""Which images a stage takes: those of lists, or those whose names start with a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SamfeatError

DEFAULT_PREFIXES = {"db": "db/", "query": "query/"}


def _lists_option(images: str, of_images: str) -> Any:
    return typer.Option(f"--{images}-list", help=f"List of the {of_images} names; can be repeated.")


def _prefix_option(images: str, help: str) -> Any:
    return typer.Option(f"--{images}-prefix", help=help, show_default=DEFAULT_PREFIXES[images])


Lists = Annotated[
    list[Path] | None,
    typer.Option(
        "--list",
        help="Text file of the images' names, the first word of each line; can be repeated.",
        show_default="all images of the folder",
    ),
]
QueryLists = Annotated[list[Path] | None, _lists_option("query", "queries'")]
QueryPrefix = Annotated[
    str | None, _prefix_option("query", "The queries are the images whose names start with this.")
]
DbLists = Annotated[list[Path] | None, _lists_option("db", "database images'")]
DbPrefix = Annotated[
    str | None, _prefix_option("db", "The database images are those whose names start with this.")
]


def chosen_names(
    what: str, file: Path, dataset: str, lists: list[Path] | None, prefix: str | None
) -> list[str]:
    """Names from lists, or those in an HDF5 file that start with a prefix ("db/", "query/")."""
    from ..files.h5arrays import group_names, open_hdf5

    if lists is not None:
        if prefix is not None:
            raise SamfeatError(f"--{what}-prefix", f"give it or --{what}-list, not both")
        return names_in(lists)
    prefix = DEFAULT_PREFIXES[what] if prefix is None else prefix
    with open_hdf5(file) as opened:
        names = [name for name in group_names(opened, dataset) if name.startswith(prefix)]
    if not names:
        raise SamfeatError(
            file,
            f"no image whose name starts with '{prefix}'",
            f"give --{what}-list or --{what}-prefix",
        )
    return names


def names_in(lists: list[Path]) -> list[str]:
    """The first words of the lines of lists; lists of queries with intrinsics are such lists."""
    from ..files.images import check_name
    from ..files.textlines import data_lines, in_line

    names = []
    for path in lists:
        for number, tokens in data_lines(path):
            with in_line(path, number):
                names.append(check_name(tokens[0]))
    if not names:
        raise SamfeatError(lists[0], "it has no image name", "check the list")
    return names
