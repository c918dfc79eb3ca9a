"""``samfeat run`` on every third database photo of a dataset: what a map of few photos can do.

    python benchmarks/aachen/thin.py DATASET --outputs DIR [options of samfeat run]

``--every N`` keeps every N-th. The thin dataset is made in DIR/dataset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samfeat_hloc.cli import main as samfeat
from samfeat_hloc.evaluation.thin import thin_dataset

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def main(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Dataset in Aachen's layout.")],
    outputs: Annotated[Path, typer.Option(help="Folder for the thin dataset and all results.")],
    every: Annotated[int, typer.Option(min=1, help="Keep every N-th database photo.")] = 3,
) -> None:
    """Make the thin dataset and run on it; other options are those of samfeat run."""
    outputs.mkdir(parents=True, exist_ok=True)
    thin = thin_dataset(dataset, outputs / "dataset", every=every)
    samfeat(["run", str(thin), "--outputs", str(outputs), *context.args])


if __name__ == "__main__":
    app()
