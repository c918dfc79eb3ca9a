"""The hidden folder in which a stage makes its output, and those of runs that were killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusals import refused

from samfeat_hloc.files.atomic import work_folder

_RUN = """
import sys, time
from pathlib import Path
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files.atomic import work_folder
with work_folder(Path(sys.argv[1])) as work:
    (work / "half.bin").write_bytes(bytes(1000))
    print(work, flush=True)
    time.sleep(600)
"""


@contextmanager
def run_at_work(output: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the middle of making `output`, and its work folder."""
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, str(output)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def hidden(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith("."))


def test_removed_at_the_end_whatever_happens(tmp_path: Path) -> None:
    with work_folder(tmp_path / "new" / "map") as work:
        assert work.parent == tmp_path / "new"
    with pytest.raises(RuntimeError), work_folder(tmp_path / "new" / "map") as work:
        (work / "half.bin").touch()
        raise RuntimeError
    assert not any((tmp_path / "new").iterdir())


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """SIGKILL leaves the folder; nothing else beside the output goes with it."""
    output = tmp_path / "map"
    mine = tmp_path / ".map.backup"  # looks like one, but nobody made it here
    mine.mkdir()
    with run_at_work(output) as (process, left):
        assert (left / "half.bin").is_file()
        process.kill()
        process.wait()
        assert left.is_dir()
        with work_folder(tmp_path / "maps"):  # another output's
            assert left.is_dir()
        with work_folder(output) as work:
            assert hidden(tmp_path) == sorted([mine, work])
    assert hidden(tmp_path) == [mine]


def test_a_second_run_is_refused_with_the_owner(tmp_path: Path) -> None:
    with run_at_work(tmp_path / "map") as (process, other):
        with (
            refused(problem=f"process {process.pid}"),
            work_folder(tmp_path / "map"),
        ):
            pass
        assert (other / "half.bin").is_file()
