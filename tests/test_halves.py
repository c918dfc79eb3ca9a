"""Descriptors as halves and back: numpy's values, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from samfeat_hloc.feature.halves import as_floats, as_halves

EDGES = [0.0, -0.0, 1e-8, 6e-8, -1e-7, 0.1, 1 / 3, 1.0005, 65504.0, np.inf, -np.inf]


@pytest.mark.parametrize("shape", [(128, 40), (3, 1), (128, 0)])
def test_the_values_are_those_of_numpy(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values.flat[: len(EDGES)] = EDGES[: values.size]
    halves = as_halves(values)
    np.testing.assert_array_equal(halves.view(np.uint16), values.astype(np.float16).view(np.uint16))
    turned = as_halves(values, turned=True)
    assert turned.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(turned, halves.T)
    floats = as_floats(halves.T)
    assert floats.dtype == np.float32 and floats.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(floats, halves.T.astype(np.float32))
    np.testing.assert_array_equal(as_floats(halves.T.astype(">f2")), floats)
