"""SAMFeat local features for visual localization with hloc and COLMAP."""

from __future__ import annotations

__version__ = "0.1.0"
