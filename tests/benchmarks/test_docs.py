"""docs/benchmarks.md has every benchmark, and the file names of submissions that are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from samfeat_hloc.datasets import aachen, aachen_v1, cmu, inloc, robotcar
from samfeat_hloc.datasets.registry import BENCHMARKS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_row_and_a_section(name: str) -> None:
    assert f"| `{name}` | " in TEXT
    assert name == "aachen" or f"(`--benchmark {name}`)" in TEXT


@pytest.mark.parametrize("module", [aachen, aachen_v1, cmu, inloc, robotcar])
def test_submissions_are_called_so(module: object) -> None:
    assert f"`{module.FORM.file_name.format(method='METHOD')}`" in TEXT  # type: ignore[attr-defined]
