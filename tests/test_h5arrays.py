"""Arrays of HDF5 files read chunk by chunk are those that HDF5 reads."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from samfeat_hloc.files.h5arrays import read_unpacked


def test_arrays_of_every_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (37, 53)).astype(np.int16)
    layouts: dict[str, dict] = {
        "plain": {},
        "chunks": {"chunks": (8, 16)},
        "gzip": {"compression": "gzip"},
        "gzip in chunks": {"compression": "gzip", "chunks": (10, 20)},
        "shuffled": {"compression": "gzip", "shuffle": True},
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, layout in layouts.items():
            file.create_dataset(name, data=values, **layout)
        file.create_dataset("none", (0, 4), "f4", maxshape=(None, 4), compression="gzip")
        sparse = file.create_dataset("sparse", (40, 40), "f4", chunks=(10, 10), compression="gzip")
        sparse[:10, :10] = 3
        file.create_dataset("scalar", data=5)
        cube = file.create_dataset("cube", data=rng.normal(size=(4, 5, 6)), compression="gzip")
        found = {name: read_unpacked(file[name]) for name in file}
        expected = {name: file[name][()] for name in file}
        cube.id.write_direct_chunk((0, 0, 0), b"x" * 40)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
        with pytest.raises(ValueError):
            read_unpacked(cube)
