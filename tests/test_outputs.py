"""One way for outputs: there already or not, locked, made beside their name, renamed, described."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from refusals import refused

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files import provenance
from samfeat_hloc.files.atomic import making_file, write_atomically
from samfeat_hloc.files.locks import lock_of, sole_run
from samfeat_hloc.files.outputs import Output, parts_of

MADE_BY = provenance.made_by("test", {"size": 1}, {"input": "a"})
OTHER = provenance.made_by("test", {"size": 2}, {"input": "a"})


def make_folder(output: Output, content: str = "x") -> None:
    with output.making() as work:
        (work / "new").mkdir()
        (work / "new" / "file").write_text(content)
        output.put(work / "new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    assert not Output(path, MADE_BY).is_there()
    Output(path, MADE_BY).write_text("a b\n")
    assert path.read_text() == "a b\n" and names(tmp_path) == [
        path.name,
        f"{path.name}.made_by.json",
    ]
    assert Output(path, MADE_BY).is_there()
    assert not Output(path, OTHER, overwrite=True).is_there()
    with refused(path, ("size", "1", "2")):
        Output(path, OTHER).is_there()
    provenance.sidecar(path).write_text("[1]")
    with refused(problem="JSON"):
        Output(path, MADE_BY).is_there()
    provenance.sidecar(path).unlink()
    with refused(path, "created"):
        Output(path, MADE_BY).is_there()


def test_a_folder_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.mkdir()  # an empty folder is none
    assert not Output(path, MADE_BY).is_there()
    make_folder(Output(path, MADE_BY))
    assert names(path) == ["file", "made_by.json"] and names(tmp_path) == ["map"]
    assert Output(path, MADE_BY).is_there()
    with refused(path, ("size", "1", "2")):
        Output(path, OTHER).is_there()
    again = Output(path, OTHER, overwrite=True)
    assert not again.is_there()
    make_folder(again, "y")
    assert (path / "file").read_text() == "y" and provenance.read_sidecar(path) == OTHER
    assert names(tmp_path) == ["map"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter1.txt").write_text("precious")
    with pytest.raises(SamfeatError) as caught:
        Output(path, MADE_BY, overwrite=overwrite).is_there()
    assert "holds something else" in caught.value.problem
    assert "overwrite" not in caught.value.mend  # which would not help


def test_a_file_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("precious")
    for overwrite in (False, True):
        with refused(path, "does not record", "move it away") as caught:
            Output(path, MADE_BY, overwrite=overwrite).is_there()
        assert "overwrite" not in caught.value.mend
    other = tmp_path / "pairs.txt"
    Output(other, MADE_BY).write_text("a b\n")
    with refused(other, MADE_BY["stage"]):  # an input, perhaps
        Output(other, {**MADE_BY, "stage": "places"}, overwrite=True).is_there()
    assert Output(other, MADE_BY, overwrite=True).is_there() is False


def test_a_folder_in_a_files_place_stays(tmp_path: Path) -> None:
    """It was once renamed to "replaced", beside the file."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    with refused(folder, "it is a folder", "choose another name"):
        write_atomically(folder, "new")
    assert (folder / "mine.txt").read_text() == "precious"
    assert not {path.name for path in tmp_path.iterdir()} & {"replaced", ".results.unfinished"}


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "map"
    make_folder(Output(path, MADE_BY))
    with pytest.raises(RuntimeError), Output(path, OTHER, overwrite=True).making() as work:
        (work / "half").write_text("half")
        raise RuntimeError
    assert Output(path, MADE_BY).is_there() and names(tmp_path) == ["map"]
    with pytest.raises(RuntimeError), making_file(tmp_path / "picture.png") as place:
        place.write_bytes(b"half")
        raise RuntimeError
    assert names(tmp_path) == ["map"]


def test_one_at_a_time_and_the_owner_is_named(tmp_path: Path) -> None:
    output = Output(tmp_path / "map", MADE_BY)
    with output.making():
        for other in (Output(output.path, MADE_BY).making(), sole_run(output.path)):
            with refused("map", f"process {os.getpid()}"), other:
                pass
        with refused("map", f"process {os.getpid()}"):
            write_atomically(output.path, "text")
        assert lock_of(output.path).read_text() == f"{os.getpid()}\n"
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
@pytest.mark.parametrize("made_before", [False, True])
def test_what_a_killed_run_left_goes(tmp_path: Path, made_before: bool) -> None:
    """Whatever it was writing: the folder, a file beside it, the record, the parts kept."""
    path, log, kept = tmp_path / "poses.txt", tmp_path / "log.json", tmp_path / "queries"
    if made_before:
        Output(path, MADE_BY).write_text("whole")
    script = f"""
        import os, signal
        from pathlib import Path
        from samfeat_hloc.files.outputs import Output, parts_of
        from samfeat_hloc.files.atomic import replacing
        from samfeat_hloc.files.locks import sole_run
        output = Output(Path({str(path)!r}), {MADE_BY!r}, overwrite=True)
        kept = Path({str(kept)!r})
        with output.making() as work, sole_run(kept), replacing(Path({str(log)!r})) as place:
            (work / "half").write_text("half")
            place.write_text("half")
            parts_of(kept).mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -signal.SIGKILL
    assert lock_of(path).exists() and parts_of(kept).is_dir()
    again = Output(path, MADE_BY, kept=kept)
    if not again.is_there():
        assert not made_before
        again.write_text("whole")
        with sole_run(kept):  # whose own run goes on with the parts
            parts_of(kept).rmdir()
    write_atomically(log, "{}")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["log.json", "poses.txt", "poses.txt.made_by.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (
        lambda path: write_atomically(path, "x"),
        lambda path: Output(path, MADE_BY).write_text("x"),
        lambda path: make_folder(Output(path, MADE_BY)),
    ):
        with refused("file/output"):
            write(tmp_path / "file" / "output")


def test_one_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert provenance.file_sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
    assert provenance.file_hash(path) == provenance.file_sha256(path)
    with refused("none", "cannot be read"):
        provenance.file_sha256(tmp_path / "none")
