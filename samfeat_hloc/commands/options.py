"""Options that several commands have; docs/vocabulary.md says what each word means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..datasets.registry import BENCHMARKS, DEFAULT
from ..feature.presets import PRESETS

DEFAULT_PRESET = "samfeat_aachen"
DEFAULT_MAX_ERROR = 12.0
DEFAULT_STORAGE = "half"
DEFAULT_BENCHMARK = DEFAULT

OWN_PHOTOS = "Your own photos"
BENCHMARK_PANEL = "A benchmark"
STAGES = "Single stages of a run, on hloc's file formats"
LOOK = "Measure and look"
TRAINING = "Training"
INSTALLATION = "This installation"

EVAL = "Measure results against ground truth."

Images = Annotated[
    Path, typer.Option("--images", help="Folder of images; an image's name is its path below it.")
]
Features = Annotated[
    Path, typer.Option("--features", help="Feature file (HDF5, as hloc's and `samfeat features`').")
]
Matches = Annotated[
    Path, typer.Option("--matches", help="Match file (HDF5, as hloc's and `samfeat matches`').")
]
Pairs = Annotated[Path, typer.Option("--pairs", help="List of pairs, a line 'name0 name1' each.")]
ReferenceModel = Annotated[
    Path, typer.Option("--reference-model", help="COLMAP model with the known cameras and poses.")
]
SavedMap = Annotated[Path, typer.Argument(metavar="MAP", help="Folder of a saved map.")]
Dataset = Annotated[Path, typer.Option("--dataset", help="Dataset folder of the benchmark.")]
Output = Annotated[Path, typer.Option("--output", help="File to write.")]
PairsOutput = Annotated[Path, typer.Option("--output", help="List of pairs to write.")]
JsonOutput = Annotated[
    Path | None, typer.Option("--output", help="Write the figures to this JSON file too.")
]
Outputs = Annotated[Path, typer.Option("--outputs", help="Folder of all results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what was created with other settings.")
]
OverwriteStages = Annotated[
    bool, typer.Option("--overwrite", help="Do every stage again, even those that are finished.")
]
OverwriteOutput = Annotated[bool, typer.Option("--overwrite", help="Replace --output.")]
Preset = Annotated[
    str, typer.Option("--preset", help=f"How features are extracted: {', '.join(PRESETS)}.")
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        help="How descriptors are stored: full, half (half the size) or quantised (smaller).",
    ),
]
FeatureType = Annotated[
    str, typer.Option("--feature-type", help="samfeat, or rootsift to compare with.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Checkpoint of SAMFeat, or paper: the paper's whole method, which comes too.",
        show_default="the package's",
    ),
]
OfficialWeights = Annotated[
    bool,
    typer.Option("--official-weights", help="--weights is a file of the paper's public release."),
]
Method = Annotated[
    str, typer.Option("--method", help="Name of the method in the submission's file name.")
]
MaxError = Annotated[
    float, typer.Option("--max-error", help="Largest reprojection error of an inlier, in pixels.")
]
MapImages = Annotated[
    int, typer.Option("--num-retrieved", help="Database images matched with each photo.")
]
Overlap = Annotated[
    int,
    typer.Option(
        "--overlap",
        help="How many of the images that follow it in a sequence each image is paired with; it "
        "is also paired with those 1, 2, 4, 8 and so on after it.",
    ),
]
Motion = Annotated[
    float,
    typer.Option(
        "--motion",
        help="How far the picture moves from one frame that is taken to the next, as a share "
        "of its longer side.",
    ),
]
KnownPoses = Annotated[
    Path | None,
    typer.Option(
        "--poses",
        help="Known poses, a line 'name qw qx qy qz tx ty tz' (world to camera) each.",
    ),
]
KnownCamera = Annotated[
    str | None,
    typer.Option("--camera", help='Known camera of all photos, "MODEL width height params...".'),
]
KnownCameras = Annotated[
    Path | None,
    typer.Option(
        "--cameras", help="Known cameras, a line 'name MODEL width height params...' each."
    ),
]
Places = Annotated[
    bool,
    typer.Option(
        "--places/--no-places", help="Leave out retrieved images of other places that look alike."
    ),
]
Benchmark = Annotated[
    str,
    typer.Option(
        "--benchmark", help=f"Benchmark whose layout the dataset has: {', '.join(BENCHMARKS)}."
    ),
]
Scene = Annotated[
    str | None,
    typer.Option(
        "--scene", help="A scene of the benchmark, where it has scenes.", show_default="all"
    ),
]
Queries = Annotated[
    Path | None,
    typer.Option(
        "--queries", help="For --benchmark colmap: list of the queries, by name or with intrinsics."
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(
        "--truth", help="For --benchmark colmap: the true poses, a poses file or a COLMAP model."
    ),
]
MaskFolder = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="Folder of masks, a/b.jpg.png for a/b.jpg: no keypoints where they are black.",
    ),
]
Workers = Annotated[
    str, typer.Option("--workers", help="Threads or processes at a time; ray for a Ray cluster.")
]
LocalWorkers = Annotated[
    int, typer.Option("--workers", min=1, help="Threads or processes at a time.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", help="Ray cluster of --workers ray.", show_default="$RAY_ADDRESS"
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, mps or xpu.",
        show_default="a GPU where there is one, else the CPU",
    ),
]


def resize_option(default: str) -> Any:
    """``--resize`` of features, in place of what ``default`` ("the preset's") is."""
    return typer.Option("--resize", help="Longer side in pixels.", show_default=default)


def max_keypoints_option(default: str) -> Any:
    """``--max-keypoints`` of features, in place of what ``default`` ("the preset's") is."""
    return typer.Option(
        "--max-keypoints", help="Keypoints per image at most.", show_default=default
    )
