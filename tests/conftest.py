"""Fixtures that several test modules use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and reference outputs beside the checkout; skips where absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the shared data folder beside the checkout ({SHARED.name}/)")
    return SHARED
