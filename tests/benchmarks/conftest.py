"""The photos that every benchmark's layout is made from, rendered once."""

from __future__ import annotations

import pytest
import torch
from small_city import City, photograph_city


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return photograph_city(tmp_path_factory.mktemp("city"))


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)
