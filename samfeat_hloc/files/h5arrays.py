"""HDF5 files that may come from strangers: opening them, and arrays unpacked in several threads."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from ..errors import SamfeatError, cause_of, in_one_line
from .signatures import HDF5_START, signature

MOST_VALUES = 1 << 28  # of one array: 1 GB of float32
_MEND = "make the file again"
_DEFLATE = h5py.h5z.FILTER_DEFLATE


class InUse(SamfeatError):
    """A file that another process has open for writing."""


def check_file(path: Path) -> None:
    """Refuse what is not there, and folders."""
    if path.is_dir():
        raise SamfeatError(path, "this is a folder, not a file", "name a file")
    if not path.is_file():
        raise SamfeatError(path, "no such file", "check the path or run the stage that makes it")


def is_damaged(path: Path) -> bool:
    """Whether a file that cannot be read was an HDF5 file once: it begins as one, or holds nothing,
    as after a crash of the machine."""
    with path.open("rb") as stream:
        head = stream.read(len(HDF5_START))
    return head == HDF5_START or not head.strip(b"\0")


def open_hdf5(path: Path) -> h5py.File:
    """An HDF5 file open for reading.

    Raises:
        SamfeatError: missing, or not (a whole) HDF5 file.
    """
    check_file(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _unreadable_file(path, error) from None


@contextmanager
def reading_hdf5(path: Path) -> Iterator[None]:
    """Raise what HDF5 says of a damaged file in the block as a SamfeatError that names it."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _unreadable_file(path, error) from None


def _unreadable_file(path: Path, error: Exception) -> SamfeatError:
    """Why HDF5 cannot read a file: it may be in use, something else, or damaged."""
    why = in_one_line(error)
    if "unable to lock file" in why or "already open for" in why:
        return InUse(
            path,
            "another program has it open for writing (or was killed while it had)",
            "wait until that one ends; on a drive without locks set HDF5_USE_FILE_LOCKING=FALSE",
        )
    if (cause := cause_of(error)) is not None:
        return SamfeatError(path, cause)
    found = None if h5py.is_hdf5(path) else signature(path)
    if found is not None:
        return SamfeatError(
            path, f"is {found.what}, not an HDF5 file", found.mend or "name the right file"
        )
    if "truncated file" in why:
        return SamfeatError(
            path, "is cut off, or still being copied", "copy it again, or make it with --overwrite"
        )
    return SamfeatError(
        path,
        f"cannot be read as HDF5 ({why})",
        "check that it is the right file; if so copy it again, or make it with --overwrite",
    )


def group_names(file: h5py.File, dataset: str) -> list[str]:
    """Sorted names of the groups of an open HDF5 file that hold a dataset of that name."""
    names: list[str] = []
    with reading_hdf5(Path(file.filename)):
        file.visit(names.append)
    ending = f"/{dataset}"
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


def read_array(group: h5py.Group, name: str, path: Path) -> np.ndarray:
    """An array of numbers of an open HDF5 file that may come from a stranger.

    Arguments:
        path: the file, for the message.

    Raises:
        SamfeatError: as :func:`read_dataset`, and when it is not there.
    """
    try:
        found = group[name]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _unreadable(f"{path}: {(group.name or '').strip('/')}/{name}", error) from None
    return read_dataset(found, path)


def read_dataset(found: h5py.HLObject, path: Path) -> np.ndarray:
    """The numbers of what a file has under some name, which may be anything.

    Arguments:
        path: the file, for the message.

    Raises:
        SamfeatError: not numbers, cannot be read, or more values than any real file has (a few
            bytes of HDF5 can claim a shape of terabytes).
    """
    wrong = ""
    try:
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub":
            wrong = "not an array of numbers"
        elif found.shape is None or found.size > MOST_VALUES:
            wrong = f"claims the absurd shape {found.shape}"
        else:
            return read_unpacked(found)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _unreadable(_place(found, path), error) from None
    raise SamfeatError(_place(found, path), wrong, _MEND)


def read_plain(file: h5py.File, key: str) -> np.ndarray | None:
    """The numbers of a dataset that is stored as they are, a quarter of the time that
    :func:`read_dataset` takes; None where there is something else, or nothing, or damage, for that
    to say what."""
    try:
        dataset = h5py.h5d.open(file.id, key.encode())
        shape, dtype = dataset.shape, dataset.dtype
        in_pieces = dataset.get_offset() is None  # so are those that are packed
        if dtype.kind not in "fiu" or in_pieces or math.prod(shape) > MOST_VALUES:
            return None
        array = np.empty(shape, dtype)
        if array.size:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None
    return array


def _place(found: h5py.HLObject, path: Path) -> str:
    return f"{path}: {(found.name or '').strip('/')}"


def _unreadable(place: str, error: Exception) -> SamfeatError:
    why = in_one_line(error)
    return SamfeatError(place, f"cannot be read ({why})", _MEND)


def read_unpacked(dataset: h5py.Dataset) -> np.ndarray:
    """All values of a dataset.

    HDF5 lets one thread in at a time; unpacking gzip, most of the work, is done after leaving it.

    Raises:
        OSError, ValueError: it cannot be read, or is damaged.
    """
    stored = dataset.id.get_create_plist()
    gzip = [stored.get_filter(i)[0] for i in range(stored.get_nfilters())] == [_DEFLATE]
    if not gzip or not dataset.size:
        return np.asarray(dataset[()])
    shape, dtype, chunk = dataset.shape, dataset.dtype, dataset.chunks
    ranges = (range(0, n, step) for n, step in zip(shape, chunk, strict=True))
    corners = list(product(*ranges))
    if dataset.id.get_num_chunks() != len(corners):  # some were never written
        return np.asarray(dataset[()])
    packed = [(corner, *dataset.id.read_direct_chunk(corner)) for corner in corners]
    array = np.empty(shape, dtype)
    expected = int(np.prod(chunk)) * dtype.itemsize
    for corner, filters_skipped, data in packed:
        raw = data if filters_skipped else _inflated(data, expected)
        part = array[tuple(slice(i, i + n) for i, n in zip(corner, chunk, strict=True))]
        whole = np.frombuffer(raw, dtype).reshape(chunk)
        part[:] = whole[tuple(slice(n) for n in part.shape)]
    return array


def _inflated(data: bytes, expected: int) -> bytes:
    """Unpacked, no more than one byte over what is expected: a few bytes can hold gigabytes."""
    try:
        return zlib.decompressobj().decompress(data, expected + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
