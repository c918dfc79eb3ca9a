"""Cumulative error curves of localization: the share of queries within a growing error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..datasets.dataset import FINE, LONG_TERM
from .curves import style

_LOWEST = (0.001, 0.01)  # metres and degrees where the curves start
_LABELS = ("position error (metres)", "rotation error (degrees)")


def cumulative(errors: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps of the cumulative distribution.

    Args:
        errors: infinite for queries without a pose.

    Returns:
        Finite errors in ascending order, and the share (0 to 1) of all queries up to each.
    """
    values = np.sort(np.asarray(errors, dtype=np.float64))
    values = values[np.isfinite(values)]
    return values, np.arange(1, len(values) + 1) / max(len(errors), 1)


def error_figure(errors: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Two panels, position and rotation, a line for each condition; thresholds dotted.

    Args:
        errors: (metres, degrees) of all queries by condition.
    """
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    panels = figure.subplots(1, 2)
    for index, axes in enumerate(panels):
        highest = 2 * LONG_TERM[-1][index]
        for number, (condition, found) in enumerate(errors.items()):
            values, shares = cumulative([error[index] for error in found])
            values, shares = values[values <= highest], shares[values <= highest]
            # from the left edge, and on to the right one
            x = np.concatenate([[_LOWEST[index]], np.maximum(values, _LOWEST[index]), [highest]])
            y = np.concatenate([[0.0], shares, shares[-1:] if len(shares) else [0.0]])
            look = {**style(number), "marker": "", "linewidth": 1.8}
            axes.plot(
                x, 100 * y, drawstyle="steps-post", label=f"{condition} ({len(found)})", **look
            )
        for threshold in (*FINE, *LONG_TERM):
            axes.axvline(threshold[index], color="0.45", linewidth=0.8, linestyle=":")
            unit = "m" if index == 0 else "°"
            axes.annotate(
                f"{threshold[index]:g}{' ' if index == 0 else ''}{unit}", (threshold[index], 2),
                fontsize=7, rotation=90, ha="right", va="bottom", color="0.3",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(_LOWEST[index], highest)
        axes.set_ylim(0, 101)
        axes.set_xlabel(_LABELS[index])
        axes.grid(linewidth=0.4, alpha=0.5)
    panels[0].set_ylabel("queries (%)")
    panels[0].legend(fontsize=8, loc="upper left", framealpha=0.9, handlelength=3.5)
    return figure
