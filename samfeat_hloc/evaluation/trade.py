"""Right matches against wrong ones: what a threshold on their similarity trades.

A matching accuracy is a share, and can be raised by leaving right matches out. A map asks for many
right matches, a pose for few wrong ones; the curve shows both. It has a point for each least cosine
similarity of :data:`LEAST`, the first of which keeps every match; hloc's ``distance_threshold`` is
``sqrt(2 - 2 cosine)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .curves import style
from .matching import RIGHT_WITHIN, PairResult

LEAST = (-1.0, *(round(0.02 * step, 2) for step in range(5, 50)))
# Measured by others on `town`'s pairs that share 20 points: matches, and those near epipolar lines.
_ELSEWHERE = {"town": {"ALIKED-n16, measured elsewhere": (1010.0, 691.0)}}


def trade_of(pairs: Sequence[PairResult]) -> list[tuple[float, float]]:
    """Mean matches a pair, and mean right ones, at each least similarity.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("no pairs")
    points = []
    for least in LEAST:
        kept = [pair.errors[pair.similarities >= least] for pair in pairs]
        matches = float(np.mean([len(errors) for errors in kept]))
        right = float(np.mean([(errors <= RIGHT_WITHIN).sum() for errors in kept]))
        points.append((matches, right))
    return points


def trade_figure(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], least: float = 0.3
) -> Figure:
    """Right matches over wrong ones, a panel for each set of pairs, a line for each method.

    Arguments:
        panels: by set, by method: matches and right matches at each of :data:`LEAST`.
        least: share of a method's right matches at which its line ends.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 1.2 + 3.2 * rows), layout="constrained")
    handles: dict[str, Any] = {}
    everywhere = list(dict.fromkeys(method for methods in panels.values() for method in methods))
    for index, (title, methods) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for method, points in methods.items():
            matches, right = np.array(points).T
            shown = right >= least * right[0]
            look = style(everywhere.index(method))  # the same in every panel
            (handles[method],) = axes.plot(
                (matches - right)[shown], right[shown], **look, label=method, markevery=[0]
            )
        for name, (every, good) in _ELSEWHERE.get(title, {}).items():
            handles[name] = axes.scatter(
                [every - good], [good], marker="*", s=70, color="black", label=name, zorder=3
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlim(left=0)
        axes.set_xlabel("wrong matches a pair")
        if index % columns == 0:
            axes.set_ylabel("right matches a pair")
        axes.grid(linewidth=0.4, alpha=0.5)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", fontsize=9,
        ncols=min(4, max(1, len(handles))), handlelength=4, frameon=False,
    )  # fmt: skip
    return figure
