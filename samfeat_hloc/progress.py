"""Progress on standard error: a bar on a terminal, now and then a plain line in a log."""

from __future__ import annotations

import io
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm as _tqdm

FIRST_SECONDS = 10.0
"""No line earlier than this, nor two closer together."""

SHARE = 0.05
"""The lines of hours are farther apart: by this share of the time that has passed."""


class Lines(io.TextIOBase):
    """What tqdm draws over and over on one line, as a few lines of their own.

    The last line is written when the bar ends, unless it is to vanish (``leave=False``).

    Arguments:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = self._told = time.monotonic()
        self._text = self._told_text = ""

    def write(self, text: str) -> int:
        """Keep tqdm's drawing, and write it where it is time to, or at the end ("\\n")."""
        drawn = text.strip("\r \n")
        self._text = drawn or self._text
        now = time.monotonic()
        due = now - self._told >= max(FIRST_SECONDS, SHARE * (now - self._began))
        if (due or text.endswith("\n")) and _counts(self._text) != _counts(self._told_text):
            self._stream.write(f"{self._text}\n")
            self._stream.flush()
            self._told, self._told_text = now, self._text
        return len(text)

    def flush(self) -> None:
        """Lines are flushed as they are written."""


def _counts(text: str) -> str:
    """A drawing without its times."""
    return text.rpartition(" [")[0]


class tqdm(_tqdm):
    """tqdm's progress bar, written as :class:`Lines` where standard error is no terminal.

    The package uses this one alone. Its arguments are tqdm's.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            # ncols=0: counts and times without a bar; position: no cursor is moved for it
            options |= {"file": Lines(sys.stderr), "ncols": 0, "position": 0}
        super().__init__(*arguments, **options)
