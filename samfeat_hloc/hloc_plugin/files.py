"""How hloc's outputs come into place: written beside it, marked with how they were made, renamed.

hloc itself writes straight to the final name, says nothing of the configuration, and reuses
whatever it finds there.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from ..errors import SamfeatError
from ..files import provenance
from ..files.atomic import put_in_place
from ..files.h5arrays import InUse
from ..files.locks import sole_run
from ..files.outputs import Output, say_skipped, tidy

logger = logging.getLogger(__name__)


def hdf5_file(
    output: Path, made_by: dict[str, Any], overwrite: bool, write: Callable[[Path], None]
) -> Path:
    """Let hloc fill an HDF5 file beside ``output``, then rename it.

    hloc adds to a file image by image (pair by pair) and goes on with one that it finds, so an
    interrupted run is resumed; unless that file was created with other settings, or damaged by
    the stop.
    """
    if output.exists() and not overwrite:
        provenance.check(provenance.read_hdf5(output), made_by, output)
        tidy(output)
        say_skipped(made_by, output)
        return output
    if output.exists():
        provenance.check_replaceable_hdf5(made_by, output)
    temporary = output.with_name(f".{output.name}.hloc")
    with sole_run(output):
        if temporary.exists() and (overwrite or not _resumable(temporary, made_by)):
            temporary.unlink()
        if not temporary.exists():
            with h5py.File(temporary, "w", libver="latest") as file:
                file.attrs["made_by"] = json.dumps(made_by)
        with hloc_errors(made_by["stage"], output):
            write(temporary)
        put_in_place(temporary, output)
    return output


def _resumable(path: Path, made_by: dict[str, Any]) -> bool:
    try:
        provenance.check(provenance.read_hdf5(path), made_by, path)
    except InUse:  # by another run, whose work it is
        raise
    except SamfeatError:
        return False
    return True


def text_file(
    output: Path, made_by: dict[str, Any], overwrite: bool, write: Callable[[Path], None]
) -> Path:
    """Let hloc write a text file beside ``output``, then rename it."""
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    with result.making() as work:
        with hloc_errors(made_by["stage"], output):
            write(work / output.name)
        return result.put(work / output.name)


@contextlib.contextmanager
def hloc_errors(stage: str, subject: Path) -> Iterator[None]:
    """hloc asserts where it should explain: say at least which file, and what to do."""
    try:
        yield
    except SamfeatError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}{f': {lines[-1].strip()}' if lines else ''}"
        raise SamfeatError(
            subject,
            f"hloc failed in {stage} ({reason})",
            (
                "`samfeat doctor` tells whether this hloc works here, --engine native "
                "does without it"
            ),
        ) from error
