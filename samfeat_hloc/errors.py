"""The one error that people see: a single line that names the file or option and the mend."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Container, Iterable, Iterator, Sequence
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
    errno.EEXIST: "a file of this name is there already; choose another output",
    errno.EISDIR: "it is a folder, and a file is needed; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOMEM: "not enough memory; close some programs or make the batches smaller",
    errno.EIO: "the disk fails (input/output error); check it and choose another output folder",
}
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "Insufficient memory",
    "out of memory",
    "failed to map segment from shared object",  # of a library that is loaded late
    "Cannot allocate memory",
    "can't start new thread",
    "Resource temporarily unavailable",  # of a thread of a C++ library
)


class SamfeatError(Exception):
    """Something a user can put right, in three parts.

    Its text is one line, ``"<subject>: <problem>; <mend>"``. The command line prints it as
    ``error: ...`` and exits with code 1, without a traceback.

    Attributes:
        subject: the file, with its line where there is one, or the option.
        problem: what is wrong with it.
        mend: what to do about it; "" where the problem says it.
    """

    subject: str
    problem: str
    mend: str

    def __init__(self, subject: object, problem: object, mend: str | None = None) -> None:
        """
        Arguments:
            subject: is made a string.
            problem: is made a string. Another SamfeatError lends its parts: something within the
                subject is wrong. Without a mend, the text after its last ``"; "`` is the mend.
            mend: see above.
        """
        if isinstance(problem, SamfeatError):
            within = f"{problem.subject}: " if problem.subject else ""
            mend = problem.mend if mend is None else mend
            problem = within + problem.problem
        elif mend is None:
            problem, _, mend = str(problem).rpartition("; ")
            problem, mend = (problem, mend) if problem else (mend, "")
        self.subject, self.problem, self.mend = str(subject), str(problem), mend
        super().__init__(self.subject, self.problem, self.mend)  # which pickles it whole

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}" if self.subject else self.problem
        return f"{text}; {self.mend}" if self.mend else text


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Names for a message: "a, b, c and 5 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_known(
    names: Iterable[str], known: Container[str], subject: object, problem: str, mend: str
) -> None:
    """Refuse names that are not known.

    Raises:
        SamfeatError: with these parts, and the first of the names after the problem.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        raise SamfeatError(subject, f"{problem} {some_of(unknown)}", mend)


def in_one_line(error: BaseException) -> str:
    """What another library says of an error; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def cause_of(error: BaseException) -> str | None:
    """Why the machine failed (disk, memory, open files) and the mend; None for other errors.

    What an error was raised from counts too, and memory that ran out just before: a library that
    tidies up after that complains of something else.
    """
    number = _number_of(error)
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while not number and behind is not None:
        found = _number_of(behind)
        if found == errno.ENOMEM or error.__cause__ is behind:
            number = found
        error, behind = behind, behind.__cause__ or behind.__context__
    return _CAUSES.get(number)


def _number_of(error: BaseException) -> int:
    """The cause's number in _CAUSES, 0 for none."""
    number = getattr(error, "errno", None)
    if number is not None:
        return number if number in _CAUSES else 0
    text = str(error)  # libraries in C tell it in their text only
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return errno.ENOMEM
    # So short of memory that not even the exception could be made, a decoder that calls its own
    # want of memory broken data, or oneDNN, which does not say why.
    unmade = isinstance(error, SystemError) and "exception set" in text
    vague = ("broken data stream", "could not create a primitive")
    if (unmade or any(words in text for words in vague)) and _memory_is_short():
        return errno.ENOMEM
    if "Failed to initialize cpuinfo" in text and _files_are_short():
        return errno.EMFILE  # torch reads /proc when it first needs it
    return next((n for n in _CAUSES if f"errno = {n}," in text or os.strerror(n) in text), 0)


def _memory_is_short() -> bool:
    """Whether 256 MB, which hold most photos decoded, cannot be had."""
    try:
        mmap.mmap(-1, 256 << 20).close()
    except (OSError, MemoryError):
        return True
    return False


def _files_are_short() -> bool:
    """Whether 16 files more cannot be opened."""
    opened: list[int] = []
    try:
        for _ in range(16):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    finally:
        for number in opened:
            os.close(number)
    return False


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
        raise SamfeatError(path, why) from error
