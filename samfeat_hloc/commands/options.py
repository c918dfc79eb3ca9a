"""Options that several commands have; docs/vocabulary.md says what each word means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..datasets.registry import BENCHMARKS, DEFAULT
from ..feature.presets import PRESETS

DEFAULT_PRESET = "samfeat_aachen"
DEFAULT_MAX_ERROR = 12.0
DEFAULT_BENCHMARK = DEFAULT

Preset = Annotated[
    str, typer.Option("--preset", help=f"How features are extracted: {', '.join(PRESETS)}.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Checkpoint; the shipped one by default.")
]
OfficialWeights = Annotated[
    bool,
    typer.Option("--official-weights", help="--weights is a file of the paper's public release."),
]
FeatureType = Annotated[
    str, typer.Option("--feature-type", help="samfeat, or rootsift to compare with.")
]
MaxError = Annotated[
    float, typer.Option("--max-error", help="Largest reprojection error of an inlier, in pixels.")
]
Benchmark = Annotated[
    str,
    typer.Option("--benchmark", help=f"Whose layout the dataset has: {', '.join(BENCHMARKS)}."),
]
Scene = Annotated[
    str | None, typer.Option("--scene", help="Of a benchmark with scenes; all scenes by default.")
]
Workers = Annotated[
    str, typer.Option("--workers", help="Threads and processes of a stage; ray for a Ray cluster.")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="Ray cluster of --workers ray; $RAY_ADDRESS by default."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what was created with other settings.")
]
