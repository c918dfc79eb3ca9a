"""An old pycolmap is told by every command, in one line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from samfeat_hloc import errors
from samfeat_hloc.colmap import library_version
from samfeat_hloc.errors import SamfeatError

PACKAGE = Path(errors.__file__).parent
OLD = """
import importlib.metadata as metadata
known = metadata.version
metadata.version = lambda name: "3.12.6" if name == "pycolmap" else known(name)
from samfeat_hloc.cli import main
main({arguments!r})
"""
COMMANDS = [
    ["features", "--images", "{here}", "--output", "{here}/f"],
    ["reconstruct", "{here}", "--outputs", "{here}/out"],
    ["eval", "reconstruction", "{here}"],
    ["mapping", "--reference-model", "{here}", "--image-dir", "{here}", "--pairs", "{here}/p",
     "--features", "{here}/f", "--matches", "{here}/m", "--output", "{here}/o"],
    ["localization", "--map", "{here}", "--queries", "{here}/q", "--pairs", "{here}/p",
     "--features", "{here}/f", "--matches", "{here}/m", "--output", "{here}/o"],
]  # fmt: skip


@pytest.mark.parametrize("version", ["3.12.6", "3.11.1", "0.6.1"])
def test_an_old_version_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_version.metadata, "version", lambda _: version)
    with pytest.raises(SamfeatError) as caught:
        library_version.check_version()
    assert version in caught.value.subject and "pycolmap>=3.13" in caught.value.mend


@pytest.mark.parametrize("version", ["3.13.0", "4.2.1", "dev"])
def test_others_are_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_version.metadata, "version", lambda _: version)
    library_version.check_version()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:2])[:20])
def test_commands_say_it_in_one_line(command: list[str], tmp_path: Path) -> None:
    arguments = [word.format(here=tmp_path) for word in command]
    done = subprocess.run(
        [sys.executable, "-c", OLD.format(arguments=arguments)], capture_output=True, text=True
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.strip()]
    (line,) = (line for line in said if not line.startswith("note: "))
    assert line.startswith("error: pycolmap 3.12.6")


def test_pycolmap_is_imported_in_one_place() -> None:
    """So that no module can meet an old one unchecked."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "pycolmap" in names and path.name != "library.py":
                found.append(f"{path.name}:{node.lineno}")
    assert not found
