"""The figures of a run: counted from its files, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..colmap.model import read_model
from ..datasets.dataset import Dataset
from ..datasets.registry import DEFAULT
from ..evaluation.tables import aligned
from ..files.h5arrays import open_hdf5
from ..progress import tqdm


@dataclass(frozen=True)
class StageSummary:
    """One stage: its name, wall time, whether it was done already, and its figures."""

    name: str
    seconds: float
    skipped: bool
    figures: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """The figures in words, as "161 pairs, 1329 matches a pair"."""
        f = self.figures
        parts = []
        if "images" in f:
            parts.append(f"{f['images']} images")
        if "keypoints_per_image" in f:
            parts.append(f"{f['keypoints_per_image']:.0f} keypoints an image")
        if "pairs" in f:
            parts.append(f"{f['pairs']} pairs, {f['matches_per_pair']:.0f} matches a pair")
        if "points" in f:
            parts += [
                f"{f['points']} points",
                f"{f['observations']} observations",
                f"track length {f['mean_track_length']:.2f}",
                f"reprojection error {f['mean_reprojection_error']:.2f} px",
                f"{f['bytes'] / 1e6:.1f} MB",
            ]
        if "localized" in f:
            parts += [
                f"{condition} {counts['localized']} of {counts['queries']}"
                + (f" ({counts['weak']} weak)" if counts.get("weak") else "")
                for condition, counts in f["localized"].items()
            ]
        return ", ".join(parts)


@dataclass(frozen=True)
class RunSummary:
    """All stages of a run, what it was made with, and the evaluation where there is one.

    ``seconds`` are of the whole run, less than the sum where stages ran side by side.
    """

    dataset: str
    engine: str
    preset: str
    weights_sha256: str
    stages: Sequence[StageSummary]
    seconds: float
    evaluation: dict[str, Any] | None = None
    benchmark: str = DEFAULT
    scene: str | None = None
    queries: Path | None = None
    truth: Path | None = None

    def table(self) -> str:
        """Aligned text: stage, seconds, figures."""
        rows = [
            (stage.name, "skipped" if stage.skipped else f"{stage.seconds:.1f}", stage.describe())
            for stage in self.stages
        ]
        rows.append(("all", f"{self.seconds:.1f}", f"{self.engine} engine, {self.preset}"))
        return aligned(("stage", "seconds", "result"), rows, "lrl")

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts."""
        return {
            "dataset": self.dataset,
            "benchmark": self.benchmark,
            "scene": self.scene,
            "queries": None if self.queries is None else str(self.queries),
            "truth": None if self.truth is None else str(self.truth),
            "engine": self.engine,
            "conf": self.preset,
            "weights_sha256": self.weights_sha256,
            "seconds": round(self.seconds, 3),
            "stages": {
                stage.name: {
                    "seconds": round(stage.seconds, 3),
                    "skipped": stage.skipped,
                    **stage.figures,
                }
                for stage in self.stages
            },
            "evaluation": self.evaluation,
        }


def count_keypoints(features: Path, dataset: Dataset) -> dict[str, Any]:
    """Number of images, and their mean keypoint count, of the dataset's images."""
    names = [*dataset.db_names, *dataset.query_names]
    with open_hdf5(features) as file:
        counts = [file[f"{name}/keypoints"].shape[0] for name in names]
    return {"images": len(names), "keypoints_per_image": float(np.mean(counts))}


def count_matches(matches: Path) -> dict[str, Any]:
    """Number of pairs, and their mean match count, in a match file."""
    total = pairs = 0
    with open_hdf5(matches) as file:
        groups = [group for group in file.values() if isinstance(group, h5py.Group)]
        for group in tqdm(groups, desc="count matches", unit="image", leave=False, delay=2):
            for pair in group.values():
                total += int(np.count_nonzero(pair["matches0"][()] >= 0))
                pairs += 1
    return {"pairs": pairs, "matches_per_pair": total / max(pairs, 1)}


def map_figures(map_dir: Path) -> dict[str, Any]:
    """Size and quality of a map."""
    found = read_model(map_dir)
    return {
        "images": len(found.images),
        "points": len(found.point_ids),
        "observations": found.num_observations,
        "mean_track_length": found.mean_track_length,
        "mean_reprojection_error": found.mean_reprojection_error,
        "bytes": sum(path.stat().st_size for path in map_dir.iterdir() if path.is_file()),
    }
