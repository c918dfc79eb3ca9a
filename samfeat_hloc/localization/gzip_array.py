"""Arrays of HDF5 files, unpacked by as many threads as ask for them."""

from __future__ import annotations

import zlib
from itertools import product

import h5py
import numpy as np

_DEFLATE = h5py.h5z.FILTER_DEFLATE


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
