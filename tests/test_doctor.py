"""The doctor: its lines, and that it notices what is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samfeat_hloc import doctor
from samfeat_hloc.hloc_plugin import hloc_installed

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def findings() -> list[doctor.Finding]:
    return doctor.examine()


def texts(findings: list[doctor.Finding], subject: str) -> list[str]:
    return [finding.text for finding in findings if finding.subject == subject]


def test_nothing_is_wrong_here(findings: list[doctor.Finding]) -> None:
    assert [finding for finding in findings if finding.level == "wrong"] == []
    assert doctor.report(findings).splitlines()[-1].startswith("everything needed works")


def test_tells_versions(findings: list[doctor.Finding]) -> None:
    import cv2
    import h5py
    import pycolmap
    import torch

    for subject, version in (
        ("python", sys.version.split()[0]),
        ("torch", torch.__version__),
        ("pycolmap", pycolmap.__version__),
        ("opencv", cv2.__version__),
        ("h5py", h5py.__version__),
    ):
        assert texts(findings, subject)[0].startswith(version)
    assert "bfloat16" in texts(findings, "torch")[0]
    assert texts(findings, "native mapping") == ["60 of 60 points of a trial scene triangulated"]


def test_tells_of_hloc(findings: list[doctor.Finding]) -> None:
    hloc = texts(findings, "hloc")
    if not hloc_installed():
        assert "git+https://github.com/cvg/Hierarchical-Localization" in hloc[0]
        return
    import hloc as package
    import pycolmap

    assert hloc[0].startswith(package.__version__)
    assert "samfeat_aachen" in texts(findings, "hloc plugin")[0]
    if package.__version__ >= "1.5" and pycolmap.__version__ >= "4":
        mapping = texts(findings, "hloc mapping")
        assert mapping[0] == "60 of 60 points of a trial scene triangulated"
        assert "would build maps without points" in mapping[1]


def test_compression_after_pycolmap() -> None:
    """pycolmap 4.2.1 breaks zlib where it is imported first; with the package it is not."""
    code = "import samfeat_hloc, pycolmap, zlib; print(len(zlib.compress(bytes(1000000))) > 0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("sys.modules['pycolmap'] = None", ["pycolmap>=3.13"]),
        (
            "import pycolmap; pycolmap.__version__ = '3.9.1';"
            "from samfeat_hloc.feature import checkpoints; from pathlib import Path;"
            "checkpoints.SHIPPED = Path('gone.safetensors')",
            ["3.9.1 is too old", "gone.safetensors: cannot be read"],
        ),
    ],
)
def test_what_is_broken_makes_it_fail(broken: str, says: list[str]) -> None:
    code = f"""
import sys, samfeat_hloc
{broken}
import typer
from samfeat_hloc.commands import doctor
app = typer.Typer()
app.command()(lambda: None)
doctor.register(app)
app()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    for text in says:
        assert any(text in line for line in wrong), done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) > 8  # the other checks still run
