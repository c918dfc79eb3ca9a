"""What `make torture` spoils is there: it runs for minutes, and not with every change."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_work_of_every_stage_that_is_spoiled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "torture"))
    from bad_workers import THREADS, _sabotaged

    for stage in THREADS:
        with _sabotaged(stage, lambda: None) as _:
            pass
