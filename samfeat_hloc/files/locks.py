"""The lock of an output: of two runs that make it, one is refused."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..errors import SamfeatError, writing


@contextmanager
def locked(path: Path, subject: Path) -> Iterator[None]:
    """Hold a lock file that names its owner; the system frees it when the owner dies.

    Raises:
        SamfeatError: another process, or this one elsewhere, holds it; ``subject`` is what it
            writes. Or the lock file cannot be written.
    """
    lock = filelock.FileLock(
        path, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=_sign
    )
    with writing(subject):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise SamfeatError(
                subject, f"process {_owner(path)} is writing it", "wait until it ends, or stop it"
            ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        lock.release()


def lock_of(output: Path) -> Path:
    """The lock file of an output; there while it is made, and after a kill."""
    return output.with_name(output.name + ".lock")


@contextmanager
def sole_run(output: Path) -> Iterator[None]:
    """Hold the lock of an output; the folders above it are made.

    Raises:
        SamfeatError: another run makes this output (its process id is named), or the folder
            cannot be written.
    """
    with writing(output):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "") from None
    with locked(lock_of(output), output):
        yield


def _sign(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())


def _owner(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:32] or "unknown"
    except OSError:
        return "unknown"
