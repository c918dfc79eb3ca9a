"""Whether the pycolmap that is installed is new enough; it is not imported for that."""

from __future__ import annotations

from importlib import metadata

from ..errors import SamfeatError
from ..version import LEAST_PYCOLMAP

MEND = f'pip install --upgrade "pycolmap>={LEAST_PYCOLMAP[0]}.{LEAST_PYCOLMAP[1]}"'


def check_version() -> None:
    """Refuse a pycolmap that is missing or too old.

    Raises:
        SamfeatError: see above.
    """
    try:
        version = metadata.version("pycolmap")
    except metadata.PackageNotFoundError:
        return  # built from source, or missing: its import tells
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < LEAST_PYCOLMAP:
        raise SamfeatError(f"pycolmap {version}", "this version is too old", MEND)
