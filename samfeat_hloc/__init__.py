"""SAMFeat local features for visual localization with hloc and COLMAP."""

from __future__ import annotations

from .hloc_plugin import register

__version__ = "0.1.0"

register(quiet=True)
