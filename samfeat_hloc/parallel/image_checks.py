"""Which images of a folder are broken: all told at once, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import SamfeatError, some_of
from ..files.images import check_whole, read_photo
from ..progress import tqdm
from .workers import Workers

_NAMED = 5  # in one line of an error


def broken_images(
    folder: Path, names: Sequence[str], *, decode: bool = False, workers: int | None = None
) -> dict[str, SamfeatError]:
    """The images that cannot be read, and why.

    Arguments:
        decode: read all pixels; else headers, and whether the files end as they should.
        workers: threads; None for as many as there are processors, at most 8.
    """
    check = read_photo if decode else check_whole

    def problem(name: str) -> SamfeatError | None:
        try:
            check(folder / name)
        except SamfeatError as error:
            return error
        return None

    with Workers(workers or min(8, os.cpu_count() or 1), "checking") as pool:
        found = pool.map(problem, names, name=str)
        told = tqdm(found, total=len(names), desc="check", unit="image", delay=2, leave=False)
        return {name: why for name, why in zip(names, told, strict=True) if why is not None}


def refuse_broken(
    folder: Path, names: Sequence[str], *, decode: bool = False, workers: int | None = None
) -> None:
    """Raise one SamfeatError with all images that cannot be read; see `broken_images`."""
    found = broken_images(folder, names, decode=decode, workers=workers)
    if not found:
        return
    if len(found) == 1:
        raise next(iter(found.values()))
    told = some_of([f"{name} ({why.problem})" for name, why in found.items()], _NAMED)
    raise SamfeatError(
        folder,
        f"{len(found)} of {len(names)} images cannot be read: {told}",
        f"fetch them again or remove them (`samfeat check {folder}` lists all)",
    )
