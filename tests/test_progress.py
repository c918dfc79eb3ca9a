"""Progress in a log: a few whole lines."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

import pytest

from samfeat_hloc import progress


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def log_of(work: Callable[[io.StringIO], None], stream: io.StringIO | None = None) -> str:
    """What is written on standard error meanwhile (pytest exchanges it after a fixture)."""
    stream = stream or io.StringIO()
    with contextlib.redirect_stderr(stream):
        work(stream)
    return stream.getvalue()


def test_a_short_stage_is_one_line() -> None:
    text = log_of(lambda _: list(progress.tqdm(range(500), desc="match", unit="pair")))
    assert text.count("\n") == 1 and "\r" not in text
    assert text.startswith("match: 100% 500/500 [")


def test_a_stage_that_leaves_nothing() -> None:
    assert log_of(lambda _: list(progress.tqdm(range(500), leave=False))) == ""
    assert log_of(lambda _: list(progress.tqdm(range(500), delay=2))) == ""


def test_lines_come_every_ten_seconds_and_then_more_seldom(clock: Clock) -> None:
    def train(log: io.StringIO) -> None:
        with progress.tqdm(total=36_000, desc="train", unit="step", mininterval=0) as bar:
            for second in range(36_000):
                clock.now = float(second)
                bar.update()
                if second == 59:
                    assert log.getvalue().count("\n") == 5

    lines = log_of(train).splitlines()
    assert 60 < len(lines) < 150
    assert all(line.startswith("train: ") for line in lines)
    assert "36000/36000" in lines[-1]


def test_bars_within_bars_and_words_between(clock: Clock) -> None:
    def work(log: io.StringIO) -> None:
        with progress.tqdm(total=2, desc="outer", mininterval=0) as outer:
            for step in range(2):
                with progress.tqdm(total=3, desc="inner", mininterval=0) as inner:
                    inner.update(3)
                progress.tqdm.write(f"said {step}", file=sys.stderr)
                clock.now += 20
                outer.update()

    lines = log_of(work).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "inner", "said 0", "outer", "inner", "said 1", "outer",
    ]  # fmt: skip


def test_a_terminal_has_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = log_of(lambda _: list(progress.tqdm(range(3), desc="match")), Terminal())
    assert "\r" in text and "|" in text
