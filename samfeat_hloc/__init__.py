"""SAMFeat local features for visual localization with hloc and COLMAP.

::

    from samfeat_hloc import SAMFeat, match

    found = match("a.jpg", "b.jpg")  # keypoints of both, and which of them match
    features = SAMFeat.from_pretrained().extract("photo.jpg", resize=1024)

Importing it registers SAMFeat with hloc, and imports neither torch nor pycolmap: what needs them is
imported when it is first used. Arrays and coordinates: :mod:`samfeat_hloc.feature`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import TYPE_CHECKING

from .hloc_plugin import register
from .version import __version__

if TYPE_CHECKING:
    from .colmap.cameras import Camera
    from .feature.network import SAMFeat
    from .feature.options import ExtractOptions
    from .feature.presets import PRESETS
    from .feature.two_images import match
    from .maps.localizer import Localizer
    from .pipelines.run import run

__all__ = [
    "PRESETS",
    "Camera",
    "ExtractOptions",
    "Localizer",
    "SAMFeat",
    "__version__",
    "match",
    "register",
    "run",
]

_LAZY = {
    "Camera": ".colmap.cameras",
    "ExtractOptions": ".feature.options",
    "Localizer": ".maps.localizer",
    "PRESETS": ".feature.presets",
    "SAMFeat": ".feature.network",
    "match": ".feature.two_images",
    "run": ".pipelines.run",
}


def _load_zlib() -> None:
    """Load zlib before anyone loads pycolmap, or warn that it is too late.

    pycolmap exports a zlib of its own (seen in 4.2.1), which the system's picks up where that is
    loaded later: the first PNG or .npz file written then aborts Python.
    """
    loaded = list(sys.modules)
    if "pycolmap._core" in loaded and "zlib" not in loaded[: loaded.index("pycolmap._core")]:
        warnings.warn(
            "pycolmap was imported before samfeat_hloc, and may abort Python when a PNG or .npz"
            " file is written; import samfeat_hloc first, before pycolmap and hloc",
            RuntimeWarning,
            stacklevel=3,
        )
    importlib.import_module("zlib")


_load_zlib()
register(quiet=True)

if not TYPE_CHECKING:  # for type checkers the names are those imported above, and no others

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
