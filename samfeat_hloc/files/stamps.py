"""What tells a file from others and from what it was, without reading it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICK = 20_000_000  # nanoseconds within which a file system may give two changes the same time


class Stamp(NamedTuple):
    """Where a file lies on its drive, its size in bytes, and when its content was changed and when
    it came to lie there, in nanoseconds since 1970.

    A copy may have the time of what it was copied from, and the place of a file that is gone.
    """

    device: int
    inode: int
    size: int
    changed: int
    placed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        stat = path.stat()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def settled(stamps: Iterable[Stamp]) -> bool:
    """Whether the next change of any of these files will give it another stamp."""
    return time.time_ns() - max(max(stamp.changed, stamp.placed) for stamp in stamps) > TICK
