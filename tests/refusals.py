"""What a user is told when something is refused: looked at part by part, not by its sentences.

Wording may be improved freely; what a test holds to is the file or option that is named, and the
few words without which the message would not help: numbers, names, options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from samfeat_hloc.errors import SamfeatError

Words = str | re.Pattern[str]


@contextmanager
def refused(
    subject: object = None, problem: object = None, mend: object = None
) -> Iterator[pytest.ExceptionInfo[SamfeatError]]:
    """The block raises a SamfeatError with such parts.

    Arguments:
        subject: what its subject ends with: a file's name or path, or an option.
        problem, mend: words that the part contains, whatever their case: a text, a compiled
            pattern, or several of them in a tuple.
    """
    with pytest.raises(SamfeatError) as caught:
        yield caught
    error = caught.value
    assert "\n" not in str(error), f"more than one line: {str(error)!r}"
    if subject is not None:
        ends = str(subject)
        assert error.subject.endswith(ends), f"subject {error.subject!r} does not end with {ends!r}"
    for name, words in (("problem", problem), ("mend", mend)):
        _check(name, getattr(error, name), words)


def error_line(stderr: str, subject: object = None, *words: Words) -> str:
    """The one line ``error: SUBJECT: ...`` of a command's stderr, with those words after it.

    ``subject`` is the end of a file's path, or an option.
    """
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, f"not one line of an error: {stderr!r}"
    assert "Traceback" not in stderr, stderr
    said = lines[0]
    if subject is not None:
        ends = f"{subject}: "
        assert ends in said, f"{said!r} does not name {subject!r}"
        said = said.partition(ends)[2]
    _check("error", said, words)
    return lines[0]


def _check(name: str, part: str, words: object) -> None:
    if words is None:
        return
    for word in words if isinstance(words, tuple) else (words,):
        pattern = word if isinstance(word, re.Pattern) else _whole(str(word))
        assert pattern.search(part), f"{name} {part!r} has no {pattern.pattern!r}"


def _whole(word: str) -> re.Pattern[str]:
    """It as it stands, but not as a part of a longer word or number."""
    before = r"(?<!\w)" if word[:1].isalnum() else ""
    after = r"(?!\w)" if word[-1:].isalnum() else ""
    return re.compile(f"{before}{re.escape(word)}{after}", re.IGNORECASE)
