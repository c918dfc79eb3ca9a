"""Depth maps of photos: COLMAP's, NumPy's, and HDF5 as MegaDepth has it."""

from __future__ import annotations

import io
import threading
import zlib
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from ..errors import SamfeatError, in_one_line
from ..files.h5arrays import read_unpacked

ENDINGS = (".geometric.bin", ".h5", ".hdf5", ".npy")
_MOST_PIXELS = 200_000_000
_parsing = threading.Lock()


def find_depth_map(folder: Path, name: str) -> Path | None:
    """The depth map of the image ``name`` (db/1.jpg) below a folder; None where there is none.

    Looked for: ``db/1.jpg`` and ``db/1`` followed by one of ``ENDINGS``.
    """
    bare = str(PurePosixPath(name).with_suffix(""))
    candidates = (folder / f"{stem}{ending}" for ending in ENDINGS for stem in (name, bare))
    return next((path for path in candidates if path.is_file()), None)


def read_depth_map(path: Path) -> np.ndarray:
    """Depth along the optical axis, float32 (h, w) in the model's units, 0 where unknown.

    COLMAP's ``.bin``, ``.npy``, or the dataset ``depth`` of an HDF5 file. Negative values (as
    in MegaDepth's ordinal masks), NaN and infinity count as unknown.

    Raises:
        SamfeatError: not such a file, or a damaged one.
    """
    try:
        if path.suffix == ".npy":
            depth = array_of(path.read_bytes())
        elif path.suffix == ".bin":
            depth = _read_colmap(path)
        else:
            depth = _read_hdf5(path)
        if depth.ndim != 2 or depth.dtype.kind not in "fiu" or min(depth.shape) < 2:
            raise ValueError(f"its shape is {depth.shape}, of type {depth.dtype}")
    except (OSError, ValueError, KeyError, EOFError, TypeError, zlib.error) as error:
        why = in_one_line(error)
        raise SamfeatError(
            path,
            f"not a depth map ({why})",
            (
                "give COLMAP's .geometric.bin, an .npy file of shape (h, w) or an HDF5 "
                "file with the dataset 'depth'"
            ),
        ) from None
    depth = depth.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def array_of(npy: bytes) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file; nothing is unpickled. ValueError otherwise.

    One thread at a time: NumPy parses the header as Python code, and Python 3.11 and 3.12 raise a
    SystemError at times where several threads parse ("AST constructor recursion depth mismatch").
    """
    with _parsing:
        return np.asarray(np.load(io.BytesIO(npy), allow_pickle=False))


def _read_colmap(path: Path) -> np.ndarray:
    """``width&height&channels&`` and the values row by row, float32."""
    data = path.read_bytes()
    parts = data[:64].split(b"&", 3)
    width, height, channels = (int(part) for part in parts[:3])
    start = sum(len(part) + 1 for part in parts[:3])
    if channels != 1 or not 0 < width * height <= _MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels of {channels} values")
    if len(data) != start + 4 * width * height:
        raise ValueError("it is cut off")
    return np.frombuffer(data, "<f4", offset=start).reshape(height, width)


def _read_hdf5(path: Path) -> np.ndarray:
    """The dataset ``depth``."""
    with h5py.File(path, "r") as file:
        dataset = file["depth"]
        if dataset.size > _MOST_PIXELS:
            raise ValueError(f"it claims the shape {dataset.shape}")
        return read_unpacked(dataset)
