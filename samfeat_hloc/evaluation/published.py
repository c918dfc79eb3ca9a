"""Curves that others have published as ``.npy`` files, read without running what is in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError, in_one_line
from .matching import THRESHOLDS

MAX_BYTES = 10_000_000
NUM_PAIRS = {"i": 52 * 5, "v": 56 * 5}  # of D2-Net's subset of HPatches

# What pickled arrays of numbers are made of; nothing here can run code.
_ALLOWED = {
    (module, name)
    for core in ("numpy.core.multiarray", "numpy._core.multiarray")
    for module, name in ((core, "_reconstruct"), (core, "scalar"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Numbers(pickle.Unpickler):
    """An unpickler that knows arrays and numbers only, as ``torch.load(weights_only=True)`` does.

    D2-Net's caches, the curves that papers compare with, are pickled tuples of dictionaries:
    ``np.load`` opens them with ``allow_pickle=True`` alone, which would run any code in them.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """A published curve of mean matching accuracies at 1 to 10 pixels.

    Taken are: an array of 10 or more numbers from 0 to 1 (all pairs), of shape (2, 10 or more)
    (illumination, viewpoint), of shape (3, 10 or more) (all, illumination, viewpoint), and the
    cache files of D2-Net's notebook (sums over all 540 pairs, as their protocol has them).

    Returns:
        (10,) float64 for each of "i", "v" and "all" that the file tells.

    Raises:
        SamfeatError: none of these.
    """
    content = _load(path)
    try:
        if content.dtype == object:
            return _d2net(content)
        array = np.atleast_2d(content.astype(np.float64))[:, : len(THRESHOLDS)]
        if array.shape[1] < len(THRESHOLDS) or array.ndim != 2:
            raise ValueError(f"its shape is {content.shape}")
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError("its numbers are not from 0 to 1")
        if len(array) == 1:
            return {"all": array[0]}
        if len(array) == 2:
            return _with_all(array[0], array[1])
        if len(array) == 3:
            return {"all": array[0], "i": array[1], "v": array[2]}
        raise ValueError(f"its shape is {content.shape}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        why = in_one_line(error)
        raise SamfeatError(
            path,
            f"no curve of accuracies at 1 to 10 pixels ({why})",
            (
                "give an array of shape (10,), (2, 10) or (3, 10), or a cache file of "
                "D2-Net's notebook"
            ),
        ) from None


def _d2net(content: np.ndarray) -> dict[str, np.ndarray]:
    """(illumination, viewpoint, …): dictionaries from pixels to the sum of shares over pairs."""
    sums = list(content.reshape(-1))
    curves = []
    for kind, of_kind in zip("iv", sums[:2], strict=True):
        curve = np.array([float(of_kind[t]) for t in THRESHOLDS]) / NUM_PAIRS[kind]
        if not (np.isfinite(curve).all() and curve.min() >= 0 and curve.max() <= 1 + 1e-9):
            raise ValueError("its sums are not over 260 and 280 pairs")
        curves.append(curve)
    return _with_all(*curves)


def _with_all(illumination: np.ndarray, viewpoint: np.ndarray) -> dict[str, np.ndarray]:
    pairs = NUM_PAIRS
    both = (pairs["i"] * illumination + pairs["v"] * viewpoint) / (pairs["i"] + pairs["v"])
    return {"all": both, "i": illumination, "v": viewpoint}


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise SamfeatError(path, "no such file", "check the path")
    if path.stat().st_size > MAX_BYTES:
        raise SamfeatError(
            path, f"{path.stat().st_size} bytes are too many for a curve", "check the path"
        )
    raw = path.read_bytes()
    try:
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        if version[0] not in (1, 2):
            raise ValueError(f"version {version} of the format")
        header = np.lib.format.read_array_header_1_0 if version[0] == 1 else (
            np.lib.format.read_array_header_2_0
        )  # fmt: skip
        _, _, dtype = header(stream)
        if dtype.hasobject:
            return np.asarray(_Numbers(stream).load(), dtype=object)
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except Exception as error:  # unpickling broken data raises almost anything
        why = in_one_line(error)
        raise SamfeatError(
            path, f"not an .npy file of numbers ({why})", "save the curve with np.save"
        ) from None
