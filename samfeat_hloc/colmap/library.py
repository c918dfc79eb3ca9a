"""pycolmap, where it is new enough; every module of the package takes it from here.

Older ones differ in arguments and names, and end in a TypeError somewhere.
"""

from __future__ import annotations

from ..errors import SamfeatError, cause_of
from .library_version import MEND, check_version

check_version()
try:
    import pycolmap
except ImportError as error:
    raise SamfeatError(
        "pycolmap", cause_of(error) or f"cannot be imported ({' '.join(str(error).split())})", MEND
    ) from None

__all__ = ["pycolmap"]
