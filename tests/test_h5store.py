"""HDF5 outputs: whole or not there, resumed after a kill, one writer at a time."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from refusals import refused

from samfeat_hloc.files import h5store, provenance
from samfeat_hloc.files.h5arrays import group_names
from samfeat_hloc.files.h5store import Group, SegmentWriter

MADE_BY = provenance.made_by("test", {"size": 1}, {"input": "a"})
OTHER = provenance.made_by("test", {"size": 2}, {"input": "a"})


def group(seed: int, source: str = "") -> Group:
    values = np.random.default_rng(seed).random((8, 3)).astype(np.float32)
    return Group({"x": values, "n": np.array([seed])}, {"x": {"uncertainty": 1.5}}, source)


def contents(path: Path) -> dict[str, np.ndarray]:
    found = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def assert_equal(path0: Path, path1: Path) -> None:
    a, b = contents(path0), contents(path1)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]), name


def test_written_merged_and_read_back(tmp_path: Path) -> None:
    final = tmp_path / "new" / "f.h5"
    with SegmentWriter(final, MADE_BY) as writer:
        writer.add({"db/1.jpg": group(1), "db/2.jpg": group(2)})
        writer.flush()
        writer.add({"query/a/3.jpg": group(3, "9 bytes")})
        assert not final.exists()
        writer.finish(attributes={"table": np.zeros((300, 128), np.float32)})
    with h5py.File(final) as file:
        assert group_names(file, "x") == ["db/1.jpg", "db/2.jpg", "query/a/3.jpg"]
        assert file["db/1.jpg/x"].attrs["uncertainty"] == 1.5
        assert file.attrs["table"].shape == (300, 128)
        assert np.array_equal(file["db/2.jpg/x"], group(2).datasets["x"])
    assert provenance.read_hdf5(final) == MADE_BY
    assert sorted(path.name for path in final.parent.iterdir()) == ["f.h5"]


def test_resumes_and_drops_damaged_segments(tmp_path: Path) -> None:
    final, whole = tmp_path / "f.h5", tmp_path / "whole.h5"
    with pytest.raises(KeyboardInterrupt), SegmentWriter(final, MADE_BY) as writer:
        writer.add({"a": group(1)})
        writer.flush()
        writer.add({"b": group(2)})
        writer.flush()
        writer.add({"c": group(3)})
        raise KeyboardInterrupt  # what is in memory is kept
    parts = tmp_path / "f.h5.parts"
    assert len(list(parts.iterdir())) == 3
    (parts / "000001.h5").write_bytes((parts / "000001.h5").read_bytes()[:100])
    (parts / "000007.h5.tmp").write_bytes(b"half")
    with SegmentWriter(final, MADE_BY) as writer:
        assert set(writer.done) == {"a", "c"}
        writer.add({"b": group(2)})
        writer.finish()
    with SegmentWriter(whole, MADE_BY) as writer:
        writer.add({name: group(i) for i, name in enumerate("abc", 1)})
        writer.finish()
    assert_equal(final, whole)


def test_final_file_is_extended(tmp_path: Path) -> None:
    final = tmp_path / "f.h5"
    with SegmentWriter(final, MADE_BY) as writer:
        writer.add({"a": group(1, "old"), "b": group(2)})
        writer.finish()
    with SegmentWriter(final, MADE_BY) as writer:
        assert writer.is_finished({"a": "old"})
        assert not writer.is_finished({"a": "new"}) and not writer.is_finished({"c": ""})
        writer.add({"a": group(4, "new"), "c": group(3)})
        writer.finish()
    with h5py.File(final) as file:
        assert group_names(file, "x") == ["a", "b", "c"]
        assert file["a/n"][0] == 4 and file["a"].attrs["source"] == "new"


def test_refuses_what_was_made_differently(tmp_path: Path) -> None:
    final = tmp_path / "f.h5"
    with pytest.raises(RuntimeError), SegmentWriter(final, MADE_BY) as writer:
        writer.add({"a": group(1)})
        raise RuntimeError
    with refused("f.h5.parts", ("size", "1", "2")):
        SegmentWriter(final, OTHER).__enter__()
    with SegmentWriter(final, MADE_BY) as writer:
        writer.finish()
    with refused("f.h5", ("size", "1", "2"), "--overwrite"):
        SegmentWriter(final, OTHER).__enter__()
    moved = provenance.made_by("test", {"size": 1}, {"input": "b"})
    with refused("f.h5", "input input"):
        SegmentWriter(final, moved).__enter__()
    with SegmentWriter(final, moved, compare_inputs=False) as writer:
        assert set(writer.done) == {"a"}
    with SegmentWriter(final, OTHER, overwrite=True) as writer:
        assert not writer.done
        writer.add({"z": group(9)})
        writer.finish()
    assert set(contents(final)) == {"z/x", "z/n"}


def test_the_output_of_another_stage_is_never_replaced(tmp_path: Path) -> None:
    """As of `samfeat matches --features f.h5 --output f.h5`, whatever is overwritten."""
    final = tmp_path / "f.h5"
    with SegmentWriter(final, MADE_BY) as writer:
        writer.add({"a": group(1)})
        writer.finish()
    before = final.read_bytes()
    other = provenance.made_by("another", {"size": 1}, {"input": "a"})
    for overwrite in (False, True):
        with refused("f.h5", "test in it, not another", "choose another output") as caught:
            SegmentWriter(final, other, overwrite=overwrite).__enter__()
        assert "--overwrite" not in str(caught.value)
    assert final.read_bytes() == before
    for precious in (b"a list of queries", b"\x80\4 a pickle"):
        final.write_bytes(precious)
        with refused("f.h5", "is no HDF5 file", "move it away"):
            SegmentWriter(final, other, overwrite=True).__enter__()
        assert final.read_bytes() == precious
    with h5py.File(final, "w") as file:  # of another program
        file["a/n"] = 1
    with refused("f.h5", "does not record", "move it away"):
        SegmentWriter(final, other, overwrite=True).__enter__()
    final.write_bytes(before[:100])  # damaged
    with SegmentWriter(final, other, overwrite=True) as writer:
        writer.add({"a": group(2)})
        writer.finish()
    assert contents(final)["a/n"] == [2]


def test_refuses_foreign_and_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with refused("folder", "this is a folder"):
        SegmentWriter(tmp_path / "folder", MADE_BY).__enter__()
    with refused("folder", "this is a folder"):
        provenance.file_hash(tmp_path / "folder")
    final = tmp_path / "f.h5"
    with h5py.File(final, "w") as file:
        file["a/x"] = [1]
    with refused("f.h5", "created"):
        SegmentWriter(final, MADE_BY).__enter__()
    final.write_bytes(b"no HDF5")
    with refused("f.h5", "HDF5"):
        SegmentWriter(final, MADE_BY).__enter__()
    assert not (tmp_path / "f.h5.lock").exists()


def test_second_writer_is_refused_with_the_owner(tmp_path: Path) -> None:
    final = tmp_path / "f.h5"
    with (
        SegmentWriter(final, MADE_BY),
        refused("f.h5", f"process {os.getpid()}"),
    ):
        SegmentWriter(final, MADE_BY).__enter__()
    (tmp_path / "f.h5.lock").write_text("999999999\n")  # its owner is dead
    with SegmentWriter(final, MADE_BY) as writer:
        writer.add({"a": group(1)})
        writer.finish()
    assert not (tmp_path / "f.h5.lock").exists()


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused("file/f.h5"):
        SegmentWriter(tmp_path / "file" / "f.h5", MADE_BY).__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    """A limit on file sizes fails writes as a full disk does, without needing one."""
    script = f"""
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from samfeat_hloc.errors import SamfeatError
        from samfeat_hloc.files.h5store import Group, SegmentWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with SegmentWriter(Path({str(tmp_path / "f.h5")!r}), {MADE_BY!r}) as writer:
            writer.add({{"a": Group({{"x": np.zeros(1000)}})}})
            writer.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
            try:
                writer.add({{"b": Group({{"x": np.zeros(100000)}})}})
                writer.flush()
            except SamfeatError as error:
                print(error)
                writer._pending.clear()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert "file size limit is reached" in done.stdout, done.stderr
    with SegmentWriter(tmp_path / "f.h5", MADE_BY) as writer:
        assert set(writer.done) == {"a"}
        writer.finish()


LOOP = f"""
import sys, time
from pathlib import Path
import numpy as np
from samfeat_hloc.files import h5store
h5store.SEGMENT_SECONDS = 0
final = Path(sys.argv[1])
with h5store.SegmentWriter(final, {MADE_BY!r}) as writer:
    print("started", flush=True)
    for i in range(60):
        names = [f"db/{{i}}-{{j}}.jpg" for j in range(3)]
        if all(name in writer.done for name in names):
            continue
        assert not any(name in writer.done for name in names)  # a batch is whole or absent
        values = np.random.default_rng(i).random((3, 500)).astype(np.float32)
        writer.add({{n: h5store.Group({{"x": v}}) for n, v in zip(names, values)}})
    writer.finish()
print("finished", flush=True)
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    whole, final = tmp_path / "whole.h5", tmp_path / "f.h5"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", LOOP, whole], check=True, capture_output=True)
    usual = time.monotonic() - began
    chance = random.Random(0)
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, final], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.random() ** 2 * usual / 4)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if final.exists():
            assert len(contents(final)) == 180  # never half a file
    subprocess.run([sys.executable, "-c", LOOP, final], check=True, capture_output=True)
    assert_equal(final, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "whole.h5"]


def test_segments_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5store, "SEGMENT_BYTES", 5000)
    with SegmentWriter(tmp_path / "f.h5", MADE_BY) as writer:
        for i in range(20):
            writer.add({f"{i}": group(i)})
        # One more may be being written, and what is in memory is less than one.
        assert len(list((tmp_path / "f.h5.parts").glob("*.h5"))) >= 3
        assert writer._pending_bytes <= 5000
    assert len(list((tmp_path / "f.h5.parts").glob("*.h5"))) >= 4


def test_a_segment_that_cannot_be_written_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h5store, "SEGMENT_BYTES", 0)
    write, failures = h5store.write_whole, [1]

    def fail_once(path: Path, content: bytes) -> None:
        if failures:
            failures.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(h5store, "write_whole", fail_once)
    with (
        refused("f.h5.parts/000000.h5", "full"),
        SegmentWriter(tmp_path / "f.h5", MADE_BY) as writer,
    ):
        writer.add({"a": group(1)})
        writer.add({"b": group(2)})
    with SegmentWriter(tmp_path / "f.h5", MADE_BY) as writer:
        assert set(writer.done) == {"a", "b"}  # nothing that was finished is lost
        assert_equal(writer.finish(), whole(tmp_path / "g.h5", {"a": group(1), "b": group(2)}))


def whole(path: Path, groups: dict[str, Group]) -> Path:
    with SegmentWriter(path, MADE_BY) as writer:
        writer.add(groups)
        return writer.finish()


def test_file_hash_tells_files_apart(tmp_path: Path) -> None:
    hashes = set()
    for i, record in enumerate((MADE_BY, OTHER)):
        for names in (["a"], ["a", "b"]):
            path = tmp_path / f"{i}{len(names)}.h5"
            with SegmentWriter(path, record) as writer:
                writer.add({name: group(0) for name in names})
                writer.finish()
            hashes.add(provenance.file_hash(path))
    for value in (1, 2):  # without a record the content counts
        with h5py.File(tmp_path / "foreign.h5", "w") as file:
            file["a/x"] = [value]
        hashes.add(provenance.file_hash(tmp_path / "foreign.h5"))
    (tmp_path / "text").write_text("x")
    hashes.add(provenance.file_hash(tmp_path / "text"))
    assert len(hashes) == 7
    with refused("absent", "no such"):
        provenance.file_hash(tmp_path / "absent")
