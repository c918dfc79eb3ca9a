"""A file that is in use, half there, or something else: told by what it is, and never given up."""

from __future__ import annotations

import ast
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature import checkpoints
from samfeat_hloc.feature.torch_files import read_tensors, read_torch
from samfeat_hloc.files import provenance
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader
from samfeat_hloc.files.h5arrays import open_hdf5
from samfeat_hloc.localization.matches import DescriptorCache

PACKAGE = Path(provenance.__file__).parents[1]
KINDS = {
    "git-LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4000\n",
    "web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "zip archive": b"PK\x03\x04" + bytes(300),
    "empty": b"",
    "PDF": b"%PDF-1.7\n" + bytes(50),
}
LIBRARY = ("weights_only", "header too", "HeaderToo", "Unpickl", "magic", "zip central")


def half(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_something_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(KINDS[kind])
    for read in (
        checkpoints.read_checkpoint,
        checkpoints.read_release,
        lambda path: read_torch(path, "give another"),
        lambda path: read_tensors(path, "give another"),
    ):
        with pytest.raises(SamfeatError) as caught:
            read(path)
        assert kind in caught.value.problem and caught.value.mend
        assert not any(words in str(caught.value) for words in LIBRARY)


def test_half_a_download(tmp_path: Path) -> None:
    own = half(_copy(checkpoints.SHIPPED, tmp_path / "own.safetensors"))
    torch.save({"a": torch.zeros(1000)}, tmp_path / "zip.pt")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path, read in (
        (own, checkpoints.read_checkpoint),
        (half(tmp_path / "zip.pt"), checkpoints.read_release),
        (half(tmp_path / "old.pt"), checkpoints.read_release),
    ):
        with pytest.raises(SamfeatError) as caught:
            read(path)
        assert "cut off" in caught.value.problem and "download it again" in caught.value.mend
        assert str(path.stat().st_size) in caught.value.problem


def test_each_kind_of_checkpoint_given_as_the_other(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "release.pt")
    with pytest.raises(SamfeatError) as caught:
        checkpoints.read_checkpoint(tmp_path / "release.pt")
    assert "torch" in caught.value.problem and "official=True" in caught.value.mend
    save_file({"a": torch.zeros(3)}, tmp_path / "own.safetensors")
    with pytest.raises(SamfeatError) as caught:
        checkpoints.read_release(tmp_path / "own.safetensors")
    assert "official=True" in caught.value.mend and "leave" in caught.value.mend
    assert read_tensors(tmp_path / "own.safetensors", "")["a"].shape == (3,)


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_code_is_not_loaded_and_nobody_is_told_to(tmp_path: Path) -> None:
    torch.save({"a": _Code()}, tmp_path / "code.pt")
    with pytest.raises(SamfeatError) as caught:
        checkpoints.read_release(tmp_path / "code.pt")
    assert "Python objects" in caught.value.problem
    assert not any(words in str(caught.value) for words in LIBRARY)


def _copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def _hold(path: str, open_: Any, done: Any) -> None:
    with h5py.File(path, "a"):
        open_.set()
        done.wait(60)


def test_a_feature_file_that_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"] = np.zeros((3, 2), np.float32)
    context = multiprocessing.get_context("spawn")
    open_, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(path), open_, done))
    holder.start()
    try:
        assert open_.wait(60)
        for read in (
            FeatureReader, MatchReader, open_hdf5, provenance.file_hash,
            lambda path: DescriptorCache(path, "cpu"),
        ):  # fmt: skip
            with pytest.raises(SamfeatError) as caught:
                read(path)
            assert "open for writing" in caught.value.problem
            assert "wait" in caught.value.mend
    finally:
        done.set()
        holder.join()
    with FeatureReader(path) as reader:
        assert len(reader.keypoints("a.jpg")) == 3


@pytest.mark.parametrize("kind", ["git-LFS", "web page", "zip archive"])
def test_a_feature_file_that_is_something_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    path.write_bytes(KINDS[kind])
    with pytest.raises(SamfeatError) as caught:
        FeatureReader(path)
    assert kind in caught.value.problem


def test_each_of_hlocs_files_given_as_another(tmp_path: Path) -> None:
    held = {
        "feature": {"db/a.jpg/keypoints": np.zeros((3, 2)), "db/a.jpg/descriptors": np.eye(3)},
        "match": {"db-a.jpg/db-b.jpg/matches0": np.zeros(3, int)},
        "retrieval": {"db/a.jpg/global_descriptor": np.zeros(3)},
    }
    for kind, arrays in held.items():
        with h5py.File(tmp_path / f"{kind}.h5", "w") as file:
            for name, values in arrays.items():
                file[name] = values
    readers: dict[str, Callable[[Path], object]] = {
        "feature": lambda path: FeatureReader(path).keypoints("db/b.jpg"),
        "match": lambda path: MatchReader(path).matches("db/a.jpg", "db/c.jpg"),
    }
    for wanted, read in readers.items():
        for kind in held:
            path = tmp_path / f"{kind}.h5"
            with pytest.raises(SamfeatError) as caught:
                read(path)
            told = f"it has {kind} data in it, no {wanted} data"
            assert (caught.value.problem == told) is (kind != wanted)


def test_a_feature_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"] = np.zeros((3000, 2), np.float32)
    half(path)
    with pytest.raises(SamfeatError) as caught:
        FeatureReader(path)
    assert "cut off" in caught.value.problem


def test_no_error_proposes_deleting_a_file() -> None:
    """What cannot be read may be good: in use, of a newer version, half copied."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SamfeatError"):
                continue
            said = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            for text in (text for text in said if isinstance(text, str)):
                if "delete it" in text or "delete the file" in text or "delete both" in text:
                    found.append(f"{path.name}:{node.lineno}: {text}")
    assert not found
