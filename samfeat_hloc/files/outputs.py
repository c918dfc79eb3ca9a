"""The output of a stage, a file or a folder: is it there already, and how it comes to be there.

One that is there was made whole, by whoever its record names (see `provenance`). HDF5 files that
grow batch by batch are `h5store.SegmentWriter`'s; the rules are the same.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import SamfeatError, writing
from . import atomic, provenance
from .locks import lock_of, sole_run

logger = logging.getLogger(__name__)


class Output:
    """A file or folder that a stage makes.

    ::

        result = Output(path, made_by, overwrite=overwrite)
        if result.is_there():
            return path
        with result.making() as work:  # a folder beside it; the output is locked
            ...
            result.put(work / "model")

    Arguments:
        path: the file or folder.
        made_by: its record, see :func:`.provenance.made_by`.
        overwrite: make it anew where it is there. What was not made here, by the same stage, is
            never replaced.
        kept: the file of a `SegmentWriter` that keeps finished parts until the output is there.
    """

    def __init__(
        self,
        path: Path,
        made_by: Mapping[str, Any],
        *,
        overwrite: bool = False,
        kept: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.made_by = dict(made_by)
        self.overwrite = overwrite
        self.kept = kept
        self.held = False  # whether its lock is

    def is_there(self) -> bool:
        """Whether the output is there and made as wanted, which is logged.

        Raises:
            SamfeatError: it was created with other settings, or there is something else.
        """
        if not self.path.exists():
            return False
        if self.path.is_dir() and not any(self.path.iterdir()):
            return False
        record = provenance.read_sidecar(self.path)
        if self.path.is_dir() and record is None:
            raise SamfeatError(
                self.path,
                "the folder holds something else (it has no record of how it was created)",
                "choose another folder",
            )
        if self.overwrite:
            provenance.check_replaceable(record, self.made_by, self.path)
            return False
        provenance.check(record, self.made_by, self.path)
        tidy(self.path, self.kept)
        say_skipped(self.made_by, self.path)
        return True

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Hold the output's lock; yields a folder beside it to make it in, removed at the end.

        Raises:
            SamfeatError: another process makes this output, or the folder cannot be written.
        """
        with atomic.work_folder(self.path) as work:
            self.held = True
            try:
                yield work
            finally:
                self.held = False

    def put(self, new: Path) -> Path:
        """Write the record and rename what was made in the work folder to the output.

        A kill never leaves an output with the record of another one.
        """
        assert self.held, "made under the output's lock"
        with writing(self.path):
            if new.is_dir():
                provenance.write_sidecar(new, self.made_by)
            else:
                self.path.unlink(missing_ok=True)
                provenance.write_sidecar(self.path, self.made_by)
            atomic.put_in_place(new, self.path)
        return self.path

    def write_text(self, text: str) -> Path:
        """Make the output of a text, and write its record."""
        if not self.held:
            with self.making():
                return self.write_text(text)
        place = atomic.unfinished(self.path) / "text"
        with writing(self.path):
            place.write_bytes(text.encode())
        return self.put(place)


def tidy(path: Path, kept: Path | None = None) -> None:
    """Remove what a run that was killed, at its very end or while it replaced an output, has left.

    Arguments:
        kept: see `Output`.
    """
    if lock_of(path).exists():
        with sole_run(path), sole_run(kept) if kept is not None else nullcontext():
            atomic.remove_left_behind(path)
            if kept is not None:
                shutil.rmtree(parts_of(kept), ignore_errors=True)


def say_skipped(made_by: Mapping[str, Any], path: Path) -> None:
    """Log that a stage has nothing to do."""
    logger.info("%s: %s exists already, skipped", made_by["stage"].replace("_", " "), path)


def parts_of(final: Path) -> Path:
    """Where the segments of an HDF5 file lie until it is finished."""
    return final.with_name(final.name + ".parts")
