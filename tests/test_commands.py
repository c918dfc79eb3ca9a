"""The command line: names that are shown, former names that are understood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.commands.former_names import present_options

ROOT = Path(__file__).resolve().parents[1]


def test_version() -> None:
    from samfeat_hloc.version import __version__

    for arguments in (["--version"], ["version"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        assert result.output.strip() == __version__


@pytest.mark.parametrize(
    ("given", "present", "notes"),
    [
        (["DIR", "--preset", "a"], ["DIR", "--preset", "a"], []),
        (["--conf", "a", "DIR"], ["--preset", "a", "DIR"], ["--conf is called --preset now"]),
        (["--outputs", "O", "--dataset", "DIR"], ["DIR", "--outputs", "O"], []),
        (["--dataset=DIR", "--conf=a"], ["DIR", "--preset=a"], ["--conf is called --preset now"]),
        (["--", "--conf"], ["--", "--conf"], []),
        (["--dataset"], ["--dataset"], []),
    ],
)
def test_former_options(given: list[str], present: list[str], notes: list[str]) -> None:
    assert present_options(("run",), given) == (present, notes)


def test_the_script_of_the_clone_is_the_command(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "aachen" / "run.py"
    wrong = ["--dataset", str(tmp_path / "none"), "--outputs", str(tmp_path / "out"), "--conf=x"]
    for command in ([str(script)], ["-m", "samfeat_hloc", "run"]):
        done = subprocess.run(
            [sys.executable, *command, *wrong],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("note: --conf is called --preset now\nerror: --preset x: ")


def test_a_demo(tmp_path: Path) -> None:
    outputs = tmp_path / "demo"
    command = ["demo", "--outputs", str(outputs), "--num-db", "8", "--num-queries", "1",
               "--size", "320", "240", "--preset", "samfeat_fast"]  # fmt: skip
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "all 2 queries, checked" in result.output
    assert (outputs / "pictures" / "overview.png").is_file()
    before = (outputs / "features.h5").stat().st_mtime_ns
    result = CliRunner().invoke(app, ["run", str(outputs / "demo-dataset"), *command[1:3],
                                      "--preset", "samfeat_fast"])  # fmt: skip
    assert result.exit_code == 0
    assert (outputs / "features.h5").stat().st_mtime_ns == before


def test_a_run_of_the_local_feature_track_takes_its_own_options() -> None:
    for more in (["--db-pairs", "p.txt"], ["--engine", "hloc"], ["--retrieval", "netvlad"],
                 ["--storage", "full"]):  # fmt: skip
        command = ["run", "DIR", "--outputs", "O", "--protocol", "local-features", *more]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert more[0] in str(result.exception)
