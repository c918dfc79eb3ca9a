"""Files and folders that are whole or as they were before, whatever happens.

What is made lies beside its place under a hidden name until it is renamed. That name is always the
same, so that whoever makes the output next, holding its lock, finds and removes what a killed run
has left.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SamfeatError, writing
from .locks import sole_run


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work is done, a file that could not be written at its end.

    Raises:
        SamfeatError: a folder is there, or a file that is not to be replaced, or the folder above
            cannot be written.
    """
    if path.is_dir():
        raise SamfeatError(path, "this is a folder", "name a file")
    if path.exists() and not overwrite:
        raise SamfeatError(path, "exists already", "replace it with --overwrite")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file, holding its lock; the folders above it are made.

    Arguments:
        content: text is stored as UTF-8, its line ends as they are.

    Raises:
        SamfeatError: another process writes it, or it cannot be written.
    """
    with making_file(Path(path)) as place:
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def making_file(path: Path) -> Iterator[Path]:
    """Where to write a file in the block; at its end it is renamed to ``path``, which is locked.

    Raises:
        SamfeatError: another process writes it, or it cannot be written.
    """
    with sole_run(path), replacing(path) as place:
        yield place


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whose lock, or that of its folder, the caller holds.

    Raises:
        SamfeatError: it cannot be written.
    """
    with replacing(path) as place:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `making_file`, for whoever holds the lock of the file or of its folder."""
    place = unfinished(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            yield place
            put_in_place(place, path)
        finally:
            place.unlink(missing_ok=True)


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A folder beside an output to make it in, removed at the end; the output is locked.

    Raises:
        SamfeatError: another process makes this output, or the folder cannot be written.
    """
    with sole_run(output):
        work = unfinished(output)
        with writing(output):
            remove_left_behind(output)
            work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def unfinished(output: Path) -> Path:
    """Where an output lies while it is made."""
    return output.with_name(f".{output.name}.unfinished")


def remove_left_behind(output: Path) -> None:
    """Remove what a killed run has left of an output; for whoever holds its lock."""
    left = unfinished(output)
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def put_in_place(new: Path, output: Path) -> None:
    """Rename a file or folder to the output, in place of what is there, and bring it to disk."""
    if new.is_file():
        with new.open("rb+") as stream:
            os.fsync(stream.fileno())
    if output.is_dir() or (new.is_dir() and output.exists()):
        output.replace(new.parent / "replaced")  # removed with the work folder
    new.replace(output)
    sync_folder(output.parent)


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system lets folders be opened."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
