"""The command line: names that are shown, former names that are understood."""

from __future__ import annotations

import _thread
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from PIL import Image
from refusals import error_line
from typer.testing import CliRunner

from samfeat_hloc.cli import app, main, run_program
from samfeat_hloc.colmap.bounded import at_work, bounded
from samfeat_hloc.commands import former_names
from samfeat_hloc.commands.former_names import FIRST, present_options

ROOT = Path(__file__).resolve().parents[1]
TREE: Any = typer.main.get_command(app)
ENDINGS = ("ation", "ions", "ion", "ings", "ing", "es", "er", "e", "s")


def groups(group: Any = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All groups of commands, with their paths."""
    yield path, group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from groups(command, (*path, name))


COMMANDS: dict[tuple[str, ...], Any] = {
    (*path, name): command
    for path, group in groups()
    for name, command in group.commands.items()
    if not hasattr(command, "commands") and not command.hidden
}


def options(command: Any) -> dict[str, str]:
    """The kind of value of each option that a command shows: flag, number or text."""
    hints = get_type_hints(command.callback)
    found = {}
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            types = {hints[parameter.name]}
            while any(get_args(item) for item in types):
                types = {part for item in types for part in get_args(item) or [item]}
            types -= {type(None), Ellipsis}
            kind = "flag" if bool in types else "number" if types <= {int, float} else "text"
            found |= dict.fromkeys(parameter.opts, kind)
    return found


def vocabulary() -> dict[str, str]:
    """The options of docs/vocabulary.md and their kinds of values."""
    text = (ROOT / "docs" / "vocabulary.md").read_text()
    rows = re.findall(r"^\| (`--[^|]*) \| ([a-z ]+) \|", text, re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(--[a-z0-9-]+)`", names)}


def test_every_option_is_in_the_vocabulary_and_has_one_kind_of_value() -> None:
    known = vocabulary()
    used = set()
    for path, command in COMMANDS.items():
        for option, kind in options(command).items():
            where = f"samfeat {' '.join(path)} {option}"
            assert option in known, f"{where}: take a word of docs/vocabulary.md, or add it there"
            assert kind in known[option].split(" or "), f"{where} is a {kind}"
            used.add(option)
    assert known.keys() == used, "docs/vocabulary.md has options that no command has"


def test_every_command_is_in_the_vocabulary() -> None:
    text = (ROOT / "docs" / "vocabulary.md").read_text().split("## Files")[0]
    known = {tuple(name.split()) for name in re.findall(r"`([a-z0-9 -]+)`", text)}
    assert {name for name in known if not name[0].startswith("--")} == set(COMMANDS)


def differ_by_endings(one: str, other: str) -> bool:
    """Whether two names are hard to tell apart, as localize and localization."""
    stems = [
        next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), name)
        for name in (one, other)
    ]
    short, long = sorted(stems, key=len)
    return long.startswith(short)


def test_no_two_commands_differ_by_their_endings() -> None:
    for one, other in (("localize", "localization"), ("map", "mapping"), ("match", "matches")):
        assert differ_by_endings(one, other)
    for path, group in groups():
        for one, other in combinations(group.commands, 2):
            assert not differ_by_endings(one, other), (path, one, other)


def test_types_are_plain_and_commands_are_in_panels() -> None:
    for path, command in COMMANDS.items():
        result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        assert "bool" not in result.output.lower(), path
        types = set(re.findall(r"<([^<>]+)>", result.output))
        assert types <= {"path", "str", "int", "float", "int,int", "float,float"}, path
        for parameter in command.params:
            if getattr(parameter, "multiple", False):
                assert parameter.help.endswith("can be repeated."), (path, parameter.name)
        assert command.help and command.help[0].isupper(), path
    for name, command in TREE.commands.items():
        assert command.hidden or command.rich_help_panel, name
    result = CliRunner().invoke(app, ["features", "--help"], env={"COLUMNS": "200"})
    assert "samfeat_fast" in result.output
    result = CliRunner().invoke(app, ["pairs", "retrieval", "--help"], env={"COLUMNS": "200"})
    assert "(query/)" in result.output and "(db/)" in result.output


def test_an_empty_path_is_not_the_folder_where_one_is(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable that was never set."""
    for arguments, subject in (
        (["reconstruct", "", "--outputs", "out"], "PHOTOS"),
        (["reconstruct", "photos", "--outputs", ""], "--outputs"),
        (["reconstruct", "photos", "--outputs="], "--outputs"),
        (["localize", "--map", "house.map", "--turns", ""], "PHOTO"),
        (["localize", "a.jpg", "", "--map", "house.map"], "PHOTO"),
        (["map", "build", "model", "--images", "", "--output", "a.map"], "--images"),
        (["poses", "--queries", ""], "--queries"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1
        error_line(capsys.readouterr().err, subject, "an empty path", "write .")
    # what is no path may be empty
    result = CliRunner().invoke(app, ["pairs", "retrieval", "--db-prefix", "", "--help"])
    assert result.exit_code == 0


def test_former_names_lead_to_names_that_are_there() -> None:
    for path, name in former_names.COMMANDS.items():
        assert (*path[:-1], name) in COMMANDS and path not in COMMANDS
    for path in {*former_names._FORMER, *former_names._SECOND}:
        shown = options(COMMANDS[path])
        for other, name in former_names.other_names(path).items():
            assert other not in shown
            assert name == FIRST or name.partition("=")[0] in shown, (path, name)
            if name == FIRST:
                assert COMMANDS[path].params[0].param_type_name == "argument", path


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


def test_a_former_command() -> None:
    result = CliRunner().invoke(app, ["mapping", "--image-dir", "a"])
    assert result.exit_code == 2
    assert "mapping is called triangulate now" in result.output
    assert "--image-dir is called --images now" in result.output


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


def test_messages_are_the_packages_own_and_others_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    with pytest.raises(SystemExit):
        main(["version"])
    logging.getLogger("onnx_ir").info("of every node")
    logging.getLogger("onnx_ir").warning("what matters")
    logging.getLogger("samfeat_hloc.localization.features").info("features: done")
    assert capsys.readouterr().err.splitlines() == ["what matters", "features: done"]


def test_an_output_that_is_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    (tmp_path / "afile").touch()
    for output, subject, words in (
        ("afile", "afile", "a file of this name"),
        ("afile/below", "afile/below", "is a file, not a folder"),
        ("x" * 300, "x" * 300, "too long"),
    ):
        with pytest.raises(SystemExit):
            main(["reconstruct", str(tmp_path), "--outputs", str(tmp_path / output)])
        error_line(capsys.readouterr().err, subject, words)


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        run_program(work)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; give the same command again\n"


def test_colmap_at_work_does_not_abort_a_program_that_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its threads crash where its libraries are taken down under them."""
    done, left = threading.Event(), []

    def work() -> None:
        def call(alive: object) -> None:
            _thread.interrupt_main()
            done.wait(60)

        bounded("COLMAP's verification", call, images=1)

    def leave(code: int) -> None:
        left.append(code)
        raise SystemExit(code)

    monkeypatch.setattr("sys.argv", ["program"])
    monkeypatch.setattr("os._exit", leave)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it
    try:
        with pytest.raises(SystemExit):
            run_program(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert left == [130] and at_work()
    assert "stopped;" in capsys.readouterr().err
    done.set()
    while at_work():
        time.sleep(0.01)


@pytest.mark.parametrize("command", [["localize"], ["export", "onnx"], ["map", "build"]])
def test_help_is_wrapped_at_the_terminals_width_alone(command: list[str]) -> None:
    """Lines of a docstring, wrapped once more, ended after two words."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    lines = [line.strip() for line in result.output.split("\u256d")[0].split("\n")]
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("Usage")) + 1 :]
    for line, following in pairwise(lines):
        if line and following:  # of one paragraph
            assert len(line) + 1 + len(following.split()[0]) > 76, (line, following)
