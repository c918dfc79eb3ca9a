"""Threads side by side: in order, never too many at once, and what is said when one goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from refusals import refused

from samfeat_hloc.errors import SamfeatError, cause_of
from samfeat_hloc.parallel.workers import PATIENCE, Workers, patience, sharing_torch


def test_results_in_order_and_as_they_come() -> None:
    first = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            first.wait(10)
        return number

    with Workers(2, "counting") as pool:
        found = pool.map(work, range(20), ordered=False)
        assert next(found) != 0  # which still waits
        first.set()
        assert len(list(found)) == 19
        assert list(pool.map(work, range(20))) == list(range(20))
        assert list(pool.map(work, [])) == []


def test_only_a_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> list[int]:  # type: ignore[misc]
        for number in range(100):
            taken.append(number)
            yield number

    with Workers(2, "counting") as pool:
        found = pool.map(lambda number: number, items(), ahead=3)
        assert next(found) == 0
        assert len(taken) == 4
        found.close()  # type: ignore[attr-defined]
        assert len(taken) == 4


def test_a_hanging_worker_is_named_and_the_others_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0.5")
    released = threading.Event()

    def work(name: str) -> str:
        if name == "b.jpg":
            released.wait(30)
        return name

    came: list[str] = []
    began = time.monotonic()
    with (
        refused("decoding", ("b.jpg", "0.5 s")),
        Workers(2, "decoding") as pool,
    ):
        for name in pool.map(work, ["a.jpg", "b.jpg", *"cdefgh"], name=str, ordered=False):
            came.append(name)
    assert time.monotonic() - began < 10  # it was not waited for
    released.set()
    assert sorted(came) == ["a.jpg", *"cdefgh"]


def test_the_process_ends_although_a_worker_hangs() -> None:
    """Threads of concurrent.futures would keep it."""
    script = (
        "import sys, time\n"
        "from samfeat_hloc.parallel.workers import Workers\n"
        "from samfeat_hloc.errors import SamfeatError\n"
        "try:\n"
        "    with Workers(1, 'decoding') as pool:\n"
        "        list(pool.map(time.sleep, [600]))\n"
        "except SamfeatError as error:\n"
        "    sys.exit(f'error: {error}')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, PATIENCE: "0.3"}, timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and "a worker hangs" in ended.stderr


def test_a_failing_worker_names_its_item_and_the_machine_is_not_blamed_on_it() -> None:
    def work(name: str) -> str:
        if name == "b.jpg":
            raise LookupError("nobody\nforesaw this")
        if name == "c.jpg":
            raise OSError(errno.EMFILE, "Too many open files")
        if name == "d.jpg":
            raise SamfeatError("d.jpg", "not an image")
        return name

    with Workers(2, "decoding") as pool:
        with refused("b.jpg", "LookupError: nobody foresaw this"):
            list(pool.map(work, ["a.jpg", "b.jpg"], name=str))
        with pytest.raises(OSError):
            list(pool.map(work, ["a.jpg", "c.jpg"], name=str))
        with refused("d.jpg", "not an image"):
            list(pool.map(work, ["d.jpg"], name=str))


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_patience_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(PATIENCE, text)
    with refused(f"{PATIENCE}={text}"):
        patience()


def test_memory_that_ran_out_before_is_the_cause() -> None:
    def tidy_up() -> None:
        try:
            raise MemoryError
        finally:
            raise RuntimeError("unexpected pos 9362048 vs 9361940")

    with pytest.raises(RuntimeError) as caught:
        tidy_up()
    assert "memory" in str(cause_of(caught.value))
    caught.value.__suppress_context__ = True
    assert cause_of(caught.value) is None
    assert cause_of(ValueError("a bug")) is None
    late = ImportError("_lsprof.so: failed to map segment from shared object")
    assert "memory" in str(cause_of(late))


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory as Linux has them")
@pytest.mark.parametrize(
    "error",
    [
        SystemError("error return without exception set"),
        OSError("broken data stream when reading image file"),  # Pillow's word for it too
    ],
)
def test_some_errors_mean_memory_only_near_its_limit(error: Exception) -> None:
    assert cause_of(error) is None
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from samfeat_hloc.errors import cause_of\n"
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (int(sys.argv[1]) << 20),) * 2)\n"
        f"print(cause_of({error!r}))\n"
    )

    def said(megabytes: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(megabytes)], capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip

    assert "memory" in said(1)
    assert said(10_000) == "None\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_torch_without_files_to_open() -> None:
    script = (
        "import os, resource, torch\n"
        "from samfeat_hloc.errors import cause_of\n"
        "most = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most - 1, most - 1))\n"
        "try:\n"
        "    torch.zeros(64).half()\n"
        "except RuntimeError as error:\n"
        "    print(cause_of(error))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "" or "too many open files" in ended.stdout
    assert cause_of(RuntimeError("Failed to initialize cpuinfo!")) is None


def test_what_came_before_an_error_of_the_items_is_kept() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise SamfeatError("the sixth", "it is broken")

    kept = []
    with Workers(2, "counting") as pool, refused("the sixth"):
        for number in pool.map(lambda item: 2 * item, items(), ahead=4):
            kept.append(number)
    assert kept == [0, 2, 4, 6, 8]


def test_torch_is_shared_among_the_workers_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        with sharing_torch(3, "counting") as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(9))) == {2}
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)
