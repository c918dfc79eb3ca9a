"""An HDF5 file open for reading in several threads and processes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import h5py

from .h5arrays import open_hdf5


class SharedFile:
    """Opens the file when it is first asked for; a forked or unpickled copy opens it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handle: tuple[int, h5py.File] | None = None

    def __call__(self) -> h5py.File:
        """The file, as this process has it open."""
        with self._lock:
            if self._handle is None or self._handle[0] != os.getpid():
                self._handle = os.getpid(), open_hdf5(self.path)
            return self._handle[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
