"""The look at errors part by part sees what is not as it should be."""

from __future__ import annotations

import re

import pytest
from refusals import error_line, refused

from samfeat_hloc.errors import SamfeatError


def fail() -> None:
    raise SamfeatError("/data/f.h5", "clusters was 8 and is now 4", "give --overwrite")


def test_parts_that_are_there() -> None:
    with refused():
        fail()
    with refused("f.h5", ("Clusters", "8", re.compile(r"is now \d$")), "--overwrite") as caught:
        fail()
    assert caught.value.subject == "/data/f.h5"
    line = error_line(f"note\nerror: {caught.value}\n", "f.h5", "8", "--overwrite")
    assert line == "error: /data/f.h5: clusters was 8 and is now 4; give --overwrite"


@pytest.mark.parametrize(
    "parts",
    [
        {"subject": "g.h5"},
        {"problem": "cluster"},  # a part of a word
        {"problem": "--overwrite"},  # of the other part
        {"problem": ("8", "5")},
        {"mend": "8"},
    ],
)
def test_parts_that_are_not(parts: dict[str, object]) -> None:
    with pytest.raises(AssertionError), refused(**parts):
        fail()


@pytest.mark.parametrize(
    "stderr", ["", "f.h5: no", "error: f.h5: no\nerror: f.h5: no", "Traceback\nerror: f.h5: no"]
)
def test_not_one_line_of_an_error(stderr: str) -> None:
    with pytest.raises(AssertionError):
        error_line(stderr, "f.h5")


def test_no_error_at_all() -> None:
    with pytest.raises(pytest.fail.Exception), refused():
        pass
