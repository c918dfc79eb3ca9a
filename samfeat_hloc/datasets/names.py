"""Lists of image names, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines, in_line


def named_lines(path: Path, what: str) -> Iterator[tuple[int, str, list[str]]]:
    """The lines of a list that begin with a name: their number, the name, and what follows it.

    Arguments:
        what: each line is of, for the message, such as "image".

    Raises:
        SamfeatError: with the line: a name that is not allowed, or listed twice.
    """
    first_line: dict[str, int] = {}
    for number, tokens in data_lines(path):
        with in_line(path, number):
            name = check_name(tokens[0])
        if name in first_line:
            raise SamfeatError(
                f"{path}:{number}",
                f"'{name}' is on line {first_line[name]} already",
                f"keep one line for each {what}",
            )
        first_line[name] = number
        yield number, name, tokens[1:]


def read_names(path: Path) -> list[str]:
    """The first word of each line.

    Raises:
        SamfeatError: with the line: a name that is not allowed, or listed twice; no names.
    """
    names = [name for _, name, _ in named_lines(path, "image")]
    if not names:
        raise SamfeatError(path, "the list has no images", "write one name a line")
    return names
