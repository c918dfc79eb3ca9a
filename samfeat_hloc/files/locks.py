"""The lock of an output: of two runs that make it, one is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import SamfeatError, writing


class FileLock:
    """A lock file with the owner's process id; the system frees it when the owner dies."""

    def __init__(self, path: Path, subject: Path) -> None:
        self.path = path
        with writing(path):
            while True:
                stream = path.open("a+b")
                if not _try_lock(stream):
                    stream.seek(0)
                    owner = stream.read(32).decode(errors="replace").strip() or "unknown"
                    stream.close()
                    raise SamfeatError(
                        subject, f"process {owner} is writing it", "wait for it or end it"
                    )
                if path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                    break
                stream.close()  # its last owner has just removed it
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n".encode())
            stream.flush()
        self._stream = stream

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self._stream.close()


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
        output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(output), output):
        yield


def _try_lock(stream: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(1 << 20)  # a byte that is never read
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
