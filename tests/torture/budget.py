"""The time that the whole may take: on a slow machine less is tried, and the page says how much."""

from __future__ import annotations

import time


class Budget:
    """Minutes shared out among parts; what one leaves over goes to those after it."""

    def __init__(self, minutes: float, parts: int) -> None:
        self._end = time.monotonic() + 60 * minutes
        self._parts = parts

    def next(self, parts: int = 1) -> float:
        """When the next one has to end, on the monotonic clock; it may count as several parts."""
        now = time.monotonic()
        share = max(self._end - now, 0) * parts / max(self._parts, parts)
        self._parts -= parts
        return now + share


def left(deadline: float) -> bool:
    """Whether there is time for another try."""
    return time.monotonic() < deadline


def short(tried: int, wanted: int, what: str) -> list[str]:
    """What is added to a row where the time was up before all was tried."""
    return [f"the time was up after {tried} of {wanted} {what}"] if tried < wanted else []
