"""The GPU benchmark runs on a processor; no figure of time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu" / "run.py"


def test_it_compares_and_measures_on_a_processor_too(tmp_path: Path) -> None:
    record = tmp_path / "gpu.json"
    command = [sys.executable, str(PROGRAM), "--quick", "--device", "cpu", "--json", str(record),
               "--rows", "matching,extraction,features,training"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(record.read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == [
        "matching in memory", "matching file to file", "extraction, batches of 8",
        "extraction, one at a time", "features stage, files to file",
        "training, 64 px, 2 pairs a step",
    ]  # fmt: skip
    assert all(values[0] > 0 for row in found["rows"] for values in row["seconds"].values())
    assert found["checks"] and all(
        agreed == of for agreed, _, of in (text.split() for text in found["checks"].values())
    )
    for name in names:
        assert name in done.stdout
    assert {"versions", "machine", "commit"} <= found.keys()


def test_a_row_that_is_not_there_is_named() -> None:
    command = [sys.executable, str(PROGRAM), "--quick", "--rows", "matching,cooking"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --rows cooking: choose from matching, extraction")
