"""Queries with intrinsics, and their lists: ``name MODEL width height params...`` a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..colmap.cameras import Camera, parse_camera
from ..errors import SamfeatError
from ..files.textlines import in_line
from .names import named_lines

V = TypeVar("V")


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
    for number, name, values in named_lines(path, "query"):
        with in_line(path, number):
            queries[name] = Query(name, condition, parse_camera(values))
    if not queries:
        raise SamfeatError(
            path, "the list has no queries", "write 'name MODEL width height params...' lines"
        )
    return list(queries.values())


def by_full_name(poses: Mapping[str, V], queries: Iterable[Query], where: object) -> dict[str, V]:
    """What is given by full names, base names, or base names with some of their folders, by
    full query name.

    ``a.jpg`` and ``day/a.jpg`` stand for the query ``query/day/a.jpg``, where no other ends so.
    Names of no query are kept as they are.

    Args:
        where: the file, for the message.

    Raises:
        SamfeatError: a name that several queries end in, or two names of one query.
    """
    full: dict[str, list[str]] = {}
    names = [query.name for query in queries]
    for name in names:
        parts = name.split("/")
        for start in range(len(parts)):
            full.setdefault("/".join(parts[start:]), []).append(name)
    exact = set(names)
    found: dict[str, V] = {}
    for name, value in poses.items():
        meant = [name] if name in exact else full.get(name, [name])
        if len(meant) > 1:
            raise SamfeatError(
                where,
                f"'{name}' may be {meant[0]} or {meant[1]}",
                "name queries with their folders",
            )
        if meant[0] in found:
            raise SamfeatError(where, f"it names {meant[0]} twice", "keep one")
        found[meant[0]] = value
    return found
