"""Queries with intrinsics, and their lists: ``name MODEL width height params...`` a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samfeat_hloc.colmap.cameras import Camera, parse_camera

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines


@dataclass(frozen=True)
class Query:
    """A photo to localize: name relative to the image folder, condition, intrinsics."""

    name: str
    condition: str
    camera: Camera

    @property
    def base_name(self) -> str:
        """The name without folders, as submissions and the ground truth have it."""
        return base_name(self.name)


def base_name(name: str) -> str:
    """The part of an image name after its last ``/``."""
    return PurePosixPath(name).name


def read_queries(path: Path, condition: str) -> list[Query]:
    """Read one list of queries with intrinsics, ``name MODEL width height params...`` a line.

    Raises:
        SamfeatError: with file and line: malformed line, unknown camera model, wrong number of
            parameters, sizes or focal lengths that are not positive, values that are not finite,
            a name that is not allowed or listed twice; without a line: no file, an empty list.
    """
    queries: dict[str, Query] = {}
    first_line: dict[str, int] = {}
    for number, tokens in data_lines(path):
        try:
            name = check_name(tokens[0])
            if name in queries:
                raise ValueError(
                    f"'{name}' is on line {first_line[name]} already; keep one line for each query"
                )
            queries[name] = Query(name, condition, parse_camera(tokens[1:]))
        except (SamfeatError, ValueError) as error:
            raise SamfeatError(f"{path}:{number}", error) from None
        first_line[name] = number
    if not queries:
        raise SamfeatError(
            path, "the list has no queries", "write 'name MODEL width height params...' lines"
        )
    return list(queries.values())
