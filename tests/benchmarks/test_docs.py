"""docs/benchmarks.md has every benchmark, and the file names of submissions that are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import CASES

from samfeat_hloc.datasets import aachen, aachen_v1, cmu, inloc, robotcar
from samfeat_hloc.datasets.registry import BENCHMARKS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_row_and_a_section(name: str) -> None:
    assert f"| `{name}` | " in TEXT
    assert name == "aachen" or f"(`--benchmark {name}`)" in TEXT


def test_the_matrix_is_what_is_tested() -> None:
    """Each row is a case of test_benchmarks.py (InLoc has a test of its own), and says of hloc's
    pipeline what that case does."""
    table = TEXT.split("| | `native` | `hloc` | hloc's pipeline |\n")[1].split("\n\n")[0]
    rows = {cells[1]: cells[2:5] for cells in map(_cells, table.splitlines()[1:])}
    tested = {case.row: case.no_pipeline or "same poses" for case in CASES}
    assert rows.keys() == {*tested, "InLoc"}
    for row, (native, hloc, pipeline) in rows.items():
        assert native == "yes" and hloc.startswith("yes")
        assert pipeline.startswith(tested.get(row, "same poses")), row


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


@pytest.mark.parametrize("module", [aachen, aachen_v1, cmu, inloc, robotcar])
def test_submissions_are_called_so(module: object) -> None:
    assert f"`{module.FORM.file_name.format(method='METHOD')}`" in TEXT  # type: ignore[attr-defined]
