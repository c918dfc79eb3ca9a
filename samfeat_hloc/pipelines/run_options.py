"""What a whole run is asked for, checked before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..datasets.registry import DEFAULT
from ..errors import SamfeatError
from ..feature.presets import PRESETS
from ..localization.features import STORAGE
from . import methods

ENGINES = ("native", "hloc")
VLAD = "vlad"


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    engine: "native", or "hloc" for hloc's own stages.
    features: "samfeat", or "rootsift" to compare with, at the preset's size and number.
    preset: a preset of extraction, as "samfeat_aachen".
    weights: checkpoint; None for the shipped one.
    official_weights: `weights` is a file of the paper's public release.
    pairs_db, pairs_query: lists of pairs to use in place of covisibility and retrieval.
    retrieval: "vlad", or one of hloc's global descriptors (hloc has to be installed); None for
        the list that comes with the dataset, and "vlad" where none does.
    num_covisible: database images paired with each database image; None for what hloc takes on
        the benchmark.
    num_retrieved: database images retrieved for each query; likewise.
    places: leave out images of lookalike places, see `places`; hloc has no such stage.
    max_error: of inliers of a query's pose, in pixels; likewise.
    method: name in the submission's file name.
    workers: threads and processes of stages that take them.
    storage: how descriptors are kept, see `features`; hloc has "half" alone.
    device: of the network, matching and retrieval; see `samfeat_hloc.parallel.devices.device_of`.
    overwrite: do every stage again.
    benchmark: whose layout the dataset has, see `datasets.registry`.
    scene: of a benchmark with scenes.
    queries, truth: of "colmap": the list of queries, and their true poses.
    depth: put the map's points on the dataset's depth maps.
    masks: folder of the images' masks; hloc's extraction takes none.
    rig: which queries a rig's cameras took at once, see `datasets.rigs.frames_of_queries`; they
        are localized together. hloc has no such stage.
    """

    engine: str = "native"
    features: str = "samfeat"
    preset: str = "samfeat_aachen"
    weights: Path | None = None
    official_weights: bool = False
    pairs_db: Path | None = None
    pairs_query: Path | None = None
    retrieval: str | None = None
    num_covisible: int | None = None
    num_retrieved: int | None = None
    places: bool = True
    max_error: float | None = None
    method: str = "samfeat"
    workers: int = 2
    storage: str = "half"
    device: str | None = None
    overwrite: bool = False
    benchmark: str = DEFAULT
    scene: str | None = None
    queries: Path | None = None
    truth: Path | None = None
    depth: bool = False
    masks: Path | None = None
    rig: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise SamfeatError(f"--engine {self.engine}", f"choose from {', '.join(ENGINES)}")
        if self.preset not in PRESETS:
            raise SamfeatError(f"--preset {self.preset}", f"choose from {', '.join(PRESETS)}")
        for name in ("num_covisible", "num_retrieved", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SamfeatError(f"--{name.replace('_', '-')}", "give a number from 1")
        if self.features not in methods.METHODS:
            known = ", ".join(methods.METHODS)
            raise SamfeatError(f"--feature-type {self.features}", f"choose from {known}")
        if self.features != "samfeat" and self.engine != "native":
            raise SamfeatError(
                f"--feature-type {self.features}", "only --engine native extracts them"
            )
        methods.check(self.features, self.weights, self.official_weights)
        if self.storage not in STORAGE:
            known = ", ".join(STORAGE)
            raise SamfeatError(f"--storage {self.storage}", f"choose from {known}")
        if self.storage != "half" and self.engine != "native":
            raise SamfeatError(
                f"--storage {self.storage}", "only --engine native stores descriptors so"
            )
        if self.masks is not None and self.engine != "native":
            raise SamfeatError("--masks", "only --engine native takes them", "leave it out")
        if self.rig is not None and self.engine != "native":
            raise SamfeatError("--rig", "only --engine native localizes rigs", "leave it out")
        if self.device is not None and self.engine != "native":
            raise SamfeatError("--device", "hloc chooses its own", "leave it out")
        if self.max_error is not None and not self.max_error > 0:
            raise SamfeatError("--max-error", "give a number of pixels above 0")
