"""Lines of the small text files of hloc and the benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SamfeatError


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file with ``\\n`` line ends, a byte-order mark kept.

    Raises:
        SamfeatError: missing, a folder, not readable, or not text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SamfeatError(path, "no such file", "check the path") from None
    except IsADirectoryError:
        raise SamfeatError(path, "this is a folder, not a text file", "name a file") from None
    except UnicodeDecodeError:
        raise SamfeatError(path, "this is not UTF-8 text", "save it as plain UTF-8") from None
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error.strerror})", "check the file") from None
    if "\0" in text:
        raise SamfeatError(path, "this is a binary file, not text", "check the path")
    return text


def data_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that say something: ``(line number from 1, tokens)``.

    Blank lines, lines that start with ``#``, a byte-order mark and Windows line ends are passed
    over.

    Raises:
        SamfeatError: as ``read_text``.
    """
    lines = read_text(path).removeprefix("\ufeff").split("\n")
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line.split()) for number, line in numbered if line and line[0] != "#"]


@contextmanager
def in_line(path: Path, number: int, form: str | None = None) -> Iterator[None]:
    """Name the line of the file in the errors of the block.

    Arguments:
        form: how such a line is written, the mend of a ValueError; None where its text has one.

    Raises:
        SamfeatError: in place of a SamfeatError, whose mend it keeps, and of a ValueError.
    """
    try:
        yield
    except SamfeatError as error:
        raise SamfeatError(f"{path}:{number}", error) from None
    except ValueError as error:
        raise SamfeatError(f"{path}:{number}", error, form) from None


def parse_number(token: str) -> float:
    """A decimal number; ValueError for anything else, NaN and infinity included."""
    value = float(token) if token.isascii() and "_" not in token else math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{token}' is not a finite number")
    return value
