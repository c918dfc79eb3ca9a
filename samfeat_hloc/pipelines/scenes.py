"""A run of every scene of a benchmark, and the submission of all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..datasets.dataset import merged
from ..datasets.registry import scenes_in
from ..evaluation.localization import LocalizationEvaluation
from ..localization import submission
from ..parallel.cluster import Cluster
from .run import Run, run
from .run_options import RunOptions

logger = logging.getLogger(__name__)


def run_scenes(
    dataset_dir: Path, outputs: Path, options: RunOptions, *, cluster: Cluster | None = None
) -> list[Run]:
    """Run the scene that is asked for, or all that are there, each in a folder of its name.

    Args:
        dataset_dir, outputs, options, cluster: see `run`. A benchmark without scenes, and a
            single scene, leave their files in `outputs` itself.

    Raises:
        SamfeatError: as `run`.
    """
    scenes = scenes_in(dataset_dir, options.benchmark, options.scene)
    if options.scene is not None or not scenes:
        return [run(dataset_dir, outputs, options, cluster=cluster)]
    runs = []
    for scene in scenes:
        logger.info("scene %s", scene)
        runs.append(
            run(dataset_dir, outputs / scene, replace(options, scene=scene), cluster=cluster)
        )
    return runs


def submit_all(runs: Sequence[Run], output_dir: Path, method: str) -> Path | None:
    """One submission of all scenes; None where the server takes each by itself, or none.

    Raises:
        SamfeatError: as `submission.make`.
    """
    datasets = [done.dataset for done in runs]
    if len(runs) < 2 or any(d.form is None or d.relocalizations for d in datasets):
        return None
    poses = {}
    for done in runs:
        scene = done.dataset.scene
        poses.update({f"{scene}/{name}": pose for name, pose in done.result.poses.items()})
    return submission.make(poses, merged(datasets), output_dir, method)


def scenes_table(evaluations: dict[str, LocalizationEvaluation]) -> str:
    """The tables of all scenes as one, with a column for the scene; warnings below."""
    width = max(len(scene) for scene in ("scene", *evaluations)) + 2
    rows: list[str] = []
    warnings: list[str] = []
    for scene, evaluation in evaluations.items():
        lines = replace(evaluation, warnings=[]).table().split("\n")
        if not rows:
            rows.append(f"{'scene':<{width}}{lines[0]}")
        rows += [f"{scene:<{width}}{line}" for line in lines[1:]]
        warnings += [f"warning: {scene}: {warning}" for warning in evaluation.warnings]
    return "\n".join(rows + warnings)
