"""Pictures of figures: curves that can be told apart without colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from ..errors import SamfeatError
from ..files.atomic import making_file
from .hpatches import Comparison
from .matching import THRESHOLDS
from .palette import SERIES

# With the colours go line style and marker, of different periods, so that 60
# methods have different marks.
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*", "+", "<", ">", "h")

_NAMES = {"i": "illumination", "v": "viewpoint", "n": "night", "all": "all pairs"}


def accuracy_figure(comparison: Comparison) -> Figure:
    """Mean matching accuracy over the threshold, a panel for each kind, a line for each method."""
    kinds = comparison.kinds()
    kinds = [k for k in kinds if k == "all"] + [k for k in kinds if k != "all"]
    columns = min(len(kinds), 3)
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 1.2 + 3.2 * rows), layout="constrained")
    curves: dict[str, dict[str, Sequence[float] | np.ndarray]] = {
        method: {kind: result.accuracy for kind, result in results.items()}
        for method, results in comparison.results.items()
    }
    curves |= {f"{name} (published)": dict(of) for name, of in comparison.published.items()}
    handles: dict[str, Any] = {}
    for index, kind in enumerate(kinds):
        axes = figure.add_subplot(rows, columns, index + 1)
        for number, (method, of_method) in enumerate(curves.items()):
            if kind in of_method:
                (handles[method],) = axes.plot(
                    THRESHOLDS, 100 * np.asarray(of_method[kind]), **style(number), label=method
                )
        axes.set_title(_NAMES.get(kind, kind), fontsize=10)
        axes.set_xlabel("threshold (pixels)")
        axes.set_xlim(THRESHOLDS[0], THRESHOLDS[-1])
        axes.set_ylim(0, 100)
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.yaxis.set_major_locator(MultipleLocator(10))
        axes.grid(linewidth=0.4, alpha=0.5)
        if index % columns == 0:
            axes.set_ylabel("mean matching accuracy (%)")
    title = comparison.title + (f"\n{comparison.note}" if comparison.note else "")
    figure.suptitle(title, fontsize=10, wrap=True)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", fontsize=9,
        ncols=min(4, max(1, len(handles))), handlelength=4, frameon=False,
    )  # fmt: skip
    return figure


def style(number: int) -> dict[str, Any]:
    """Colour, line style and marker of the method of that number."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
    }


def save(figure: Figure, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a figure so that ``path`` is either the old file or the whole new one.

    Raises:
        SamfeatError: a format that matplotlib does not know, or a folder that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf", "svg"):
        raise SamfeatError(
            path,
            "pictures are written as .png, .pdf or .svg",
            "give a file name with one of these endings",
        )
    FigureCanvasAgg(figure)
    with making_file(path) as place, matplotlib.rc_context({"svg.hashsalt": "samfeat"}):
        figure.savefig(place, format=kind, dpi=150, metadata=dict(metadata or {}))
    return path
