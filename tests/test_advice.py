"""What messages, help texts and documents tell people to run is there: commands and options."""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from samfeat_hloc.cli import app
from samfeat_hloc.commands.former_names import other_names

ROOT = Path(__file__).resolve().parents[1]
TREE: Any = typer.main.get_command(app)
PAGES = [ROOT / "README.md", ROOT / "MODEL_CARD.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "configs").glob("*.yaml"))

OPTION = r"(?<![\w/-])--[a-z][a-z0-9_-]*[a-z0-9]"

# Options of other programs that the texts name: pip's, hloc's, git's, the scripts of this clone.
OTHERS = {"--run-repeats", "--unplug", "--soak", "--soak-every", "--soak-images",
          "--upgrade", "--conf", "--help", "--always", "--dirty", "--abbrev", "--exclude",
          "--quiet", "--export_dir", "--image_dir", "--mapper_options",
          "--lightglue"}  # fmt: skip


def leaves(command: Any) -> Iterator[Any]:
    """The commands at and below one."""
    for below in getattr(command, "commands", {}).values():
        yield from leaves(below)
    if not hasattr(command, "commands"):
        yield command


def options_of(command: Any) -> set[str]:
    return {name for p in command.params if not p.hidden for name in (*p.opts, *p.secondary_opts)}


ALL_OPTIONS = {name for command in leaves(TREE) for name in options_of(command)} | {
    "--version",
    "--demo",
}


def wrong(line: str) -> str:
    """What is wrong with a command line that begins with samfeat; "" when nothing is."""
    words = shlex.split(line.replace("…", ""), comments=True)[1:]
    command, path = TREE, ()
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands or command.commands[words[0]].hidden:
            return f"no command {words[0]}"
        path, command = (*path, words[0]), command.commands[words[0]]
        words = words[1:]
    known = options_of(command) | {"--help"}
    if command is TREE:
        known |= {"--version"}
    else:
        known |= {name for name in other_names(path) if name in ("--dataset", "--config", "--out")}
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z0-9-]*", option) and option not in known:
            return f"no option {option}"
    return ""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a Python file, with the lines on which they begin."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def commands_in_page(text: str) -> Iterator[str]:
    """Command lines in a page: in backticks, on lines of their own, and in recipes' comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    yield from re.findall(r"`(samfeat [^`]+)`", joined.replace("\n", " "))
    yield from re.findall(r"^(?:#? *(?:Run: )?)(samfeat [a-z][^\n]*)$", joined, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("samfeat map add house.map --images new --camera x", "no option --camera"),
        ("samfeat match --distance-threshold 0.9", "no command match"),
        ("samfeat mapping", "no command mapping"),
        ("samfeat eval pairs list.txt --official", "no option --official"),
        ("samfeat run --dataset DIR --outputs DIR", ""),
        ("samfeat eval", ""),
        ("samfeat --version", ""),
    ],
)
def test_what_is_wrong_is_found(line: str, found: str) -> None:
    assert wrong(line) == found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_documents(page: Path) -> None:
    text = page.read_text()
    problems = {line: wrong(line) for line in commands_in_page(text)}
    assert not {line: what for line, what in problems.items() if what}
    alone = {name for code in re.findall(r"`(--[^`]+)`", text) for name in re.findall(OPTION, code)}
    if page.name != "vocabulary.md":  # which has former names too
        assert not alone - ALL_OPTIONS - OTHERS


def test_commands_and_options_in_messages_and_docstrings() -> None:
    problems = []
    modules = sorted((ROOT / "samfeat_hloc").rglob("*.py"))
    for path in [path for path in modules if path.name != "former_names.py"]:
        for number, text in texts(path):
            where = f"{path.relative_to(ROOT)}:{number}"
            flat = " ".join(text.split())
            for line in re.findall(r"`(samfeat [^`]+)`", flat):
                if what := wrong(line):
                    problems.append(f"{where}: {line}: {what}")
            for option in re.findall(OPTION, flat):
                names = re.sub(r"``?samfeat [^`]+`", "", flat)
                if option in names and option not in ALL_OPTIONS | OTHERS:
                    problems.append(f"{where}: no option {option}")
    assert not problems, "\n".join(problems)


def is_there(name: str) -> bool:
    """Whether a dotted name is a module of this package or something in one."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True  # it may need a package that is not installed
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def missing_imports(code: str) -> list[str]:
    """What code imports of this package that is not there."""
    imported = [
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("samfeat_hloc")
        for name in node.names
    ]
    return [name for name in imported if not is_there(name)]


def missing_places(text: str) -> list[str]:
    """Files and dotted names of this package in backticks that are not there."""
    files = re.findall(r"`(samfeat_hloc(?:/[a-z_0-9]+)+\.[a-z]+)`", text)
    names = re.findall(r"`(samfeat_hloc(?:\.[A-Za-z_0-9]+)+)`", text)
    missing = [name for name in files if not (ROOT / name).exists()]
    return missing + [name for name in names if not is_there(name)]


def test_missing_imports_and_places_are_found() -> None:
    assert missing_imports("from samfeat_hloc import match, mach") == ["samfeat_hloc.mach"]
    assert missing_imports("from samfeat_hloc.no import more") == ["samfeat_hloc.no.more"]
    text = "`samfeat_hloc/cli.py`, `samfeat_hloc/no.py`, `samfeat_hloc.match`, `samfeat_hloc.no`"
    assert missing_places(text) == ["samfeat_hloc/no.py", "samfeat_hloc.no"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.suffix == ".md"], ids=lambda path: path.name
)
def test_code_and_names_in_documents(page: Path) -> None:
    text = page.read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        assert not missing_imports(code)
    assert not missing_places(text)
