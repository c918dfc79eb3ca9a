"""Numbers of a line of a submission."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..files.textlines import parse_number

NORM_TOLERANCE = 1e-4


def wrong_values(quaternion: Sequence[str], translation: Sequence[str]) -> list[str]:
    """What is wrong with the four and three numbers of a pose; empty when nothing is."""
    values = []
    for token in (*quaternion, *translation):
        try:
            values.append(parse_number(token))
        except ValueError:
            return [f"'{token[:60]}' is not a finite number"]
    norm = math.hypot(*values[:4])
    if not abs(norm - 1) <= NORM_TOLERANCE:
        return [f"the quaternion has length {norm:.6g} instead of 1"]
    return []
