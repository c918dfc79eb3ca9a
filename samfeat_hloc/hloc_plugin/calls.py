"""hloc itself: whether it is there, its modules, and the record of what it made."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from ..errors import SamfeatError
from ..files import provenance
from . import NOT_INSTALLED, compat, register
from .files import hloc_errors

logger = logging.getLogger(__name__)


def check_installed(option: str = "--engine hloc", instead: str = "use --engine native") -> str:
    """hloc's version.

    Arguments:
        option: that wants it. instead: what does without.

    Raises:
        SamfeatError: it is not installed, or older than the pycolmap that is there.
    """
    if not register(quiet=True):
        raise SamfeatError(option, NOT_INSTALLED, f"or {instead}")
    version = str(importlib.import_module("hloc").__version__)
    if compat.is_outdated(version):
        pycolmap_version = importlib.import_module("pycolmap").__version__
        problem = compat.outdated(version, pycolmap_version)
        raise SamfeatError(option, f"{problem}, or {instead}")
    return version


def hloc_module(name: str) -> Any:
    """One of hloc's modules, with SAMFeat registered."""
    check_installed()
    with hloc_errors(name, Path(f"hloc.{name}")):
        return importlib.import_module(f"hloc.{name}")


def made_by_hloc(
    stage: str, config: dict[str, Any], inputs: dict[str, str], weights_sha256: str | None = None
) -> dict[str, Any]:
    """Provenance that tells hloc's files from the native ones."""
    version = check_installed()
    made_by = provenance.made_by(stage, {"engine": "hloc", **config}, inputs, weights_sha256)
    made_by["versions"]["hloc"] = version
    return made_by
