"""What tells a file from others and from what it was, without reading it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Stamps = tuple["Stamp", ...]

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


class Kept(Generic[T]):
    """What was made of files, kept in memory as long as they are what they were."""

    def __init__(self, most: int) -> None:
        """
        Arguments:
            most: kept at once; what was asked for longest ago goes first.
        """
        self._most = most
        self._kept: OrderedDict[Stamps, T] = OrderedDict()
        self._lock = threading.RLock()  # whoever asks for what is being made waits for it

    def known(self, stamps: Stamps) -> T | None:
        """What is kept of files with these stamps."""
        with self._lock:
            return self._kept.get(stamps)

    def of(self, stamps: Callable[[], Stamps], make: Callable[[], T]) -> T:
        """What is kept of the files, or what ``make`` makes of them now."""
        before = stamps()
        with self._lock:
            if before in self._kept:
                self._kept.move_to_end(before)
                return self._kept[before]
            sure = settled(before)
            made = make()
            if sure and before == stamps():
                self._kept[before] = made
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return made
