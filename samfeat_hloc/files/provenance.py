"""What made a file: stage, configuration, weights and inputs, kept with every output.

In an HDF5 file it is the root attribute ``made_by`` (JSON); beside any other file it is
``<file>.made_by.json``, inside a folder ``made_by.json``. A stage that finds its output compares:
the same maker means that the work is done, another one is an error and never silently reused.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py

from ..errors import SamfeatError
from .atomic import write_whole
from .h5arrays import InUse, check_file, is_damaged, open_hdf5, reading_hdf5
from .stamps import Kept, Stamp

ATTRIBUTE = "made_by"
_COMPARED = ("stage", "config", "weights_sha256", "inputs")
_MEND = "recreate it with --overwrite, or choose another output"
_PACKAGES = ("samfeat-hloc", "torch", "numpy", "h5py", "pycolmap")
NO_RECORD = ("it does not record how it was created", "move it away, or choose another output")
_BLOCK = 1 << 16
_SAMPLES = 64

_hashes: Kept[str] = Kept(1000)


def made_by(
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    weights_sha256: str | None = None,
) -> dict[str, Any]:
    """A record of how an output is made, as plain JSON values.

    Arguments:
        stage: the stage's name, such as ``"features"``.
        config: every option that changes the result.
        inputs: a hash for each input, by its name; see :func:`file_hashes`, :func:`names_hash`.
        weights_sha256: digest of the network's weights where one took part.
    """
    record: dict[str, Any] = {"stage": stage, "config": dict(config), "inputs": dict(inputs)}
    if weights_sha256 is not None:
        record["weights_sha256"] = weights_sha256
    record["versions"] = versions(*_PACKAGES)
    return json.loads(json.dumps(record))


def differences(
    existing: Mapping[str, Any], wanted: Mapping[str, Any], *, inputs: bool = True
) -> list[str]:
    """What tells two records apart, in words; versions are not compared.

    Arguments:
        inputs: whether other inputs count as a difference.
    """
    found = []
    for key in _COMPARED:
        old, new = existing.get(key), wanted.get(key)
        if old == new or (key == "inputs" and not inputs):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(old.keys() | new.keys()):
                if old.get(name) != new.get(name):
                    found.append(_changed(name, old.get(name), new.get(name), key == "inputs"))
        else:
            found.append(_changed(key, old, new, False))
    return found


def check(
    existing: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    path: Path,
    *,
    inputs: bool = True,
) -> None:
    """Refuse an existing output that was not made as wanted.

    Arguments:
        existing: the record found with the output, None when there is none.
        wanted: the record of what would be made now.
        path: the output, for the message.
        inputs: whether other inputs count as a difference.

    Raises:
        SamfeatError: no record, or one that differs; says in what.
    """
    if existing is None:
        raise SamfeatError(path, *NO_RECORD)
    found = differences(existing, wanted, inputs=inputs)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise SamfeatError(
            path, f"created with other settings: {'; '.join(found[:3])}{more}", _MEND
        )


def check_replaceable(
    existing: Mapping[str, Any] | None, wanted: Mapping[str, Any], path: Path
) -> None:
    """Refuse to put an output in place of something else, as another stage's output, which may be
    its input, or a file of another program.

    Arguments: as in :func:`check`.

    Raises:
        SamfeatError: no record, or another stage's.
    """
    if existing is None:
        raise SamfeatError(path, *NO_RECORD)
    check_stage(existing, wanted, path)


def check_replaceable_hdf5(wanted: Mapping[str, Any], path: Path) -> None:
    """:func:`check_replaceable` of an HDF5 file; a damaged one is replaced.

    Raises:
        SamfeatError: as there; a folder, or a file that is something else.
    """
    try:
        existing = read_hdf5(path)
    except InUse:
        raise
    except SamfeatError:
        if not path.is_file():
            raise
        if not is_damaged(path):
            raise SamfeatError(path, "is no HDF5 file", NO_RECORD[1]) from None
        return
    check_replaceable(existing, wanted, path)


def check_stage(existing: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse to put the output of one stage in place of another's, whose input it may be.

    Raises:
        SamfeatError: the file has another stage's.
    """
    if existing.get("stage") != wanted.get("stage"):
        raise SamfeatError(
            path,
            f"it has {existing.get('stage')} in it, not {wanted.get('stage')}",
            "choose another output",
        )


def sidecar(output: Path) -> Path:
    """Where the record of a text file or a folder lies."""
    return output / "made_by.json" if output.is_dir() else Path(f"{output}.made_by.json")


def write_sidecar(output: Path, record: Mapping[str, Any]) -> Path:
    """Write the record of a file, or of a folder that exists, beside or into it.

    For whoever holds the output's lock; see :class:`.outputs.Output`.
    """
    path = sidecar(output)
    write_whole(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path


def read_sidecar(output: Path) -> dict[str, Any] | None:
    """The record of a text file or folder; None when there is none.

    Raises:
        SamfeatError: a record that is not JSON.
    """
    path = sidecar(output)
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise SamfeatError(path, "it cannot be read", _MEND) from None


def read_hdf5(path: Path) -> dict[str, Any] | None:
    """The record in an HDF5 file; None when it has none.

    Raises:
        SamfeatError: the file cannot be read as HDF5.
    """
    with open_hdf5(path) as file, reading_hdf5(path):
        text = file.attrs.get(ATTRIBUTE)
        return None if text is None else _parsed(text, path)


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 over names (or any texts without line ends); their order does not matter."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        SamfeatError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error.strerror})", "check the path") from None
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """A hash that stands for a file as an input.

    Text and other small files: SHA-256 of the content. HDF5 files, which may have gigabytes: of
    their record and the names in them; of one without a record (hloc made it) the names, the
    size, and 64 blocks spread over the file. A file that has not changed is not read again, as the
    names in a city's file are millions.

    Raises:
        SamfeatError: the file is missing or cannot be read.
    """
    check_file(path)
    return _hashes.of(lambda: (Stamp.of(path),), lambda: _file_hash(path))


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        if not h5py.is_hdf5(path):
            return file_sha256(path)
        with open_hdf5(path) as file, reading_hdf5(path):
            text = file.attrs.get(ATTRIBUTE)
            names: list[bytes] = []
            h5py.h5o.visit(file.id, names.append)  # File.visit makes text of each
        digest.update(b"\n".join(sorted(names)))
        if text is not None:
            record = _parsed(text, path)
            compared = {key: record.get(key) for key in _COMPARED}
            digest.update(json.dumps(compared, sort_keys=True).encode())
        else:
            size = path.stat().st_size
            digest.update(str(size).encode())
            with path.open("rb") as stream:
                for i in range(_SAMPLES):
                    stream.seek(max(0, size - _BLOCK) * i // (_SAMPLES - 1))
                    digest.update(stream.read(_BLOCK))
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error})", "make it again") from None
    return digest.hexdigest()


def file_hashes(**files: Path) -> dict[str, str]:
    """The :func:`file_hash` of each file, by the name that it has as an input.

    Raises:
        SamfeatError: a file is missing or cannot be read.
    """
    return {name: file_hash(path) for name, path in files.items()}


def _changed(name: str, old: Any, new: Any, is_input: bool) -> str:
    if is_input:
        return f"its input {name} has changed"
    if name == "weights_sha256":
        old, new = (None if v is None else str(v)[:12] for v in (old, new))
    return f"{name} was {json.dumps(old)} and is now {json.dumps(new)}"


def _parsed(text: Any, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (TypeError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise SamfeatError(path, "its made_by record is not JSON", _MEND)
    return record


@cache
def versions(*packages: str) -> Mapping[str, str]:
    """Of Python, and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
