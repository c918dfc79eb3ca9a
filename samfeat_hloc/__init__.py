"""SAMFeat local features for visual localization with hloc and COLMAP."""

from __future__ import annotations

# Before anyone imports pycolmap: its version 4.2.1 exports a zlib of its own, which the system's
# picks up when it is loaded later; the first PNG or .npz written then aborts Python.
import zlib  # noqa: F401
from typing import TYPE_CHECKING, Any

from .hloc_plugin import register
from .version import __version__

if TYPE_CHECKING:
    from .feature.network import SAMFeat

__all__ = ["SAMFeat", "__version__", "register"]

register(quiet=True)


def __getattr__(name: str) -> Any:
    # torch takes a second to import, which neither hloc's other extractors nor --help should pay.
    if name == "SAMFeat":
        from .feature.network import SAMFeat

        return SAMFeat
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
