"""What a measurement has to say of itself: versions, commit, machine and configuration."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.provenance import versions

_PACKAGES = ("samfeat-hloc", "torch", "numpy", "h5py", "pycolmap", "opencv-python-headless",
             "opencv-python", "poselib", "matplotlib")  # fmt: skip


def measurement(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A record of how figures were measured, as plain JSON values.

    Arguments:
        configuration: every option that changes the figures; paths are written as text.
    """
    return {
        "configuration": json.loads(json.dumps(dict(configuration), default=str)),
        "versions": versions(*_PACKAGES),
        "commit": _commit(),
        "machine": _machine(),
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that this package runs from, "-dirty" when changed; or None."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        output = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40",
             "--exclude=*"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip() or None


@functools.cache
def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": _processor(),
            "processors": os.cpu_count(), "threads": torch.get_num_threads(),
            "gpus": gpus}  # fmt: skip


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
