"""The one error that people see: a single line that names the file or option and the mend."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file size limit is reached; raise it and run the same command again",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "no permission; change its mode or choose another output folder",
    errno.EPERM: "no permission; change its mode or choose another output folder",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine; close some programs",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another output",
    errno.ENOMEM: "not enough memory; close some programs or make the batches smaller",
    errno.EIO: "the disk fails (input/output error); check it and choose another output folder",
}
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "Insufficient memory",
    "can't start new thread",
    "Resource temporarily unavailable",  # of a thread of a C++ library
)


class SamfeatError(Exception):
    """Something a user can put right.

    The message is one line, ``"<file or option>: what is wrong; how to mend it"``. The command
    line prints it as ``error: ...`` and exits with code 1, without a traceback.
    """


def cause_of(error: BaseException) -> str | None:
    """Why the machine failed (disk, memory, open files) and the mend; None for other errors."""
    number = getattr(error, "errno", None)
    if number is None:  # libraries in C tell it in their text only
        text = str(error)
        number = next((n for n in _CAUSES if f"errno = {n}," in text or os.strerror(n) in text), 0)
        if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
            number = errno.ENOMEM
    return _CAUSES.get(number or 0)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a failed write in the block as a SamfeatError that names the file and the cause."""
    try:
        yield
    except SamfeatError:
        raise
    except Exception as error:
        why = cause_of(error)
        if why is None and isinstance(error, OSError):
            why = f"cannot be written or read ({error.strerror or error}); check the folder"
        if why is None:
            raise
        raise SamfeatError(f"{path}: {why}") from error
