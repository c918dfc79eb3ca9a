"""Aligned text tables, for the terminal and for files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], columns: str = "lr") -> str:
    """Columns two spaces apart, as wide as their widest cell, a line a row.

    Arguments:
        rows: a row may be shorter than the header.
        columns: "l" or "r" for each column, left or right; the last goes for all that follow.
    """
    from rich.console import Console  # what draws `--help`; not needed to import this package
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, name in enumerate(header):
        side = columns[min(number, len(columns) - 1)]
        table.add_column(Text(name), justify="left" if side == "l" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
