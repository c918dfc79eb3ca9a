"""The benchmarks by name, and how to open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SamfeatError
from . import aachen_v1, cambridge, cmu, colmap_model, four_seasons, inloc, robotcar, seven_scenes
from .aachen import AachenDataset
from .dataset import Dataset, merged

DEFAULT = "aachen"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: what people call it.
        open: reads the dataset in a folder; takes the scene where there are scenes, and
            `queries` and `truth` where these are given by hand.
        scenes: the scenes in a dataset's folder; None for a benchmark without.
        by_hand: whether its queries are a list that the user names.
    """

    title: str
    open: Callable[..., Dataset]
    scenes: Callable[[Path], list[str]] | None = None
    by_hand: bool = False


BENCHMARKS = {
    "aachen": Benchmark("Aachen Day-Night v1.1", AachenDataset.open),
    "aachen-v1": Benchmark("Aachen Day-Night v1.0", aachen_v1.open_dataset),
    "cambridge": Benchmark("Cambridge Landmarks", cambridge.open_dataset, cambridge.scenes),
    "7scenes": Benchmark("7Scenes", seven_scenes.open_dataset, seven_scenes.scenes),
    "robotcar": Benchmark("RobotCar Seasons", robotcar.open_dataset),
    "cmu": Benchmark("Extended CMU Seasons", cmu.open_dataset, cmu.scenes),
    "4seasons": Benchmark("4Seasons", four_seasons.open_dataset, four_seasons.scenes),
    "inloc": Benchmark("InLoc", inloc.open_dataset),
    "colmap": Benchmark("a COLMAP model", colmap_model.open_dataset, by_hand=True),
}


def find(name: str) -> Benchmark:
    """The benchmark of that name, a SamfeatError where there is none."""
    if name not in BENCHMARKS:
        raise SamfeatError(f"--benchmark {name}", f"choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def scenes_in(root: Path, benchmark: str, scene: str | None = None) -> list[str]:
    """The scenes to run: the one asked for, else all that are there; none without scenes.

    Raises:
        SamfeatError: no such benchmark or scene.
    """
    found = find(benchmark)
    if found.scenes is None:
        if scene is not None:
            raise SamfeatError(f"--scene {scene}", f"{found.title} has no scenes", "leave it out")
        return []
    scenes = found.scenes(root)
    if scene is None:
        return scenes
    if scene not in scenes:
        raise SamfeatError(f"--scene {scene}", f"choose from those in {root}: {', '.join(scenes)}")
    return [scene]


def open_dataset(
    root: Path,
    benchmark: str = DEFAULT,
    scene: str | None = None,
    *,
    queries: Path | None = None,
    truth: Path | None = None,
) -> Dataset:
    """The dataset of a benchmark in the folder ``root``.

    Args:
        root: in the layout of the benchmark's module.
        benchmark: see `BENCHMARKS`.
        scene: of a benchmark with scenes; may be left out where one is there.
        queries, truth: of ``colmap``, see `colmap_model`.

    Raises:
        SamfeatError: no such benchmark or scene, or whatever is wrong in the folder.
    """
    found = find(benchmark)
    if found.by_hand:
        scenes_in(root, benchmark, scene)
        return found.open(root, queries=queries, truth=truth)
    for option, given in (("--queries", queries), ("--truth", truth)):
        if given is not None:
            raise SamfeatError(option, f"{found.title} has its own", "leave it out")
    scenes = scenes_in(root, benchmark, scene)
    if found.scenes is None:
        return found.open(root)
    if len(scenes) > 1:
        raise SamfeatError("--scene", f"choose from those in {root}: {', '.join(scenes)}")
    return found.open(root, scenes[0])


def open_all(root: Path, benchmark: str = DEFAULT, scene: str | None = None) -> Dataset:
    """The dataset of a scene, else of all scenes together: their queries, without a database.

    Raises:
        SamfeatError: as `open_dataset`.
    """
    scenes = scenes_in(root, benchmark, scene)
    if len(scenes) < 2:
        return open_dataset(root, benchmark, scene)
    return merged([open_dataset(root, benchmark, name) for name in scenes])
