"""The benchmarks by name, and how to open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SamfeatError
from .aachen import AachenDataset
from .dataset import Dataset

DEFAULT = "aachen"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: what people call it.
        open: reads the dataset in a folder; takes the scene where there are scenes.
        scenes: the scenes in a dataset's folder; None for a benchmark without.
    """

    title: str
    open: Callable[..., Dataset]
    scenes: Callable[[Path], list[str]] | None = None


BENCHMARKS = {
    "aachen": Benchmark("Aachen Day-Night v1.1", AachenDataset.open),
}


def find(name: str) -> Benchmark:
    """The benchmark of that name, a SamfeatError where there is none."""
    if name not in BENCHMARKS:
        raise SamfeatError(f"--benchmark {name}", f"choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def open_dataset(root: Path, benchmark: str = DEFAULT, scene: str | None = None) -> Dataset:
    """The dataset of a benchmark in the folder ``root``.

    Raises:
        SamfeatError: no such benchmark or scene, or whatever is wrong in the folder.
    """
    found = find(benchmark)
    if found.scenes is None:
        if scene is not None:
            raise SamfeatError(f"--scene {scene}", f"{found.title} has no scenes", "leave it out")
        return found.open(root)
    scenes = found.scenes(root)
    if scene is None and len(scenes) == 1:
        scene = scenes[0]
    if scene not in scenes:
        asked = "--scene" if scene is None else f"--scene {scene}"
        raise SamfeatError(asked, f"choose from those in {root}: {', '.join(scenes)}")
    return found.open(root, scene)
