"""Lists of image names, one a line."""

from __future__ import annotations

from pathlib import Path

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines, in_line


def read_names(path: Path) -> list[str]:
    """The first word of each line.

    Raises:
        SamfeatError: with the line: a name that is not allowed, or listed twice; no names.
    """
    first_line: dict[str, int] = {}
    for number, tokens in data_lines(path):
        with in_line(path, number):
            name = check_name(tokens[0])
        if name in first_line:
            raise SamfeatError(
                f"{path}:{number}",
                f"'{name}' is on line {first_line[name]} already",
                "keep one line for each image",
            )
        first_line[name] = number
    if not first_line:
        raise SamfeatError(path, "the list has no images", "write one name a line")
    return list(first_line)
