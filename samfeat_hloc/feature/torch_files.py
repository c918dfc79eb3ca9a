"""Tensors out of files of torch's and of safetensors, and what is said of files that are neither.

Only tensors are read, never code. What a library says of a file that it cannot read is for
programmers ("header too large"), or harmful (torch proposes to load code): it is not passed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..errors import SamfeatError, cause_of
from ..files.signatures import SAFETENSORS, TORCH, signature

AGAIN = "copy or download it again"


def read_torch(path: Path, mend: str, *, device: Any = "cpu") -> Any:
    """What a file of torch's holds, where that is tensors and plain values.

    Arguments:
        mend: what to do where it is another file.

    Raises:
        SamfeatError: not there, another kind of file, cut off, or with Python objects in it.
    """
    if not path.is_file():
        raise SamfeatError(path, "no such file", mend)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises almost anything on a broken file
        if (cause := cause_of(error)) is not None:
            raise SamfeatError(path, cause) from None
        raise unread(path, TORCH, mend, objects="unsupported" in str(error).lower()) from None


def read_tensors(path: Path, mend: str) -> dict[str, Any]:
    """The tensors of a file of torch's or of safetensors, by their names.

    Raises:
        SamfeatError: as `read_torch`, or it holds something else.
    """
    if signature(path) == SAFETENSORS:
        try:
            return load_file(path)
        except Exception as error:
            if (cause := cause_of(error)) is not None:
                raise SamfeatError(path, cause) from None
            raise unread(path, SAFETENSORS, mend) from None
    found = read_torch(path, mend)
    if not isinstance(found, dict):
        raise SamfeatError(path, "holds no tensors by name", mend)
    return found


def unread(path: Path, wanted: object, mend: str, *, objects: bool = False) -> SamfeatError:
    """Why a file cannot be read, by what it is.

    Arguments:
        wanted: `SAFETENSORS` or `TORCH`.
        mend: where it is another kind of file and nothing better can be said.
        objects: it holds Python objects.
    """
    if path.stat().st_size == 0:
        return SamfeatError(path, "is empty", AGAIN)
    found = signature(path)
    if found is None:
        return SamfeatError(path, "is not a checkpoint", mend)
    if found != wanted:
        return SamfeatError(path, f"is {found.what}", found.mend or mend)
    if objects:
        return SamfeatError(
            path, "holds Python objects, which can run code and are not loaded", mend
        )
    size = path.stat().st_size
    return SamfeatError(path, f"is {found.what} that is cut off or damaged ({size} bytes)", AGAIN)
