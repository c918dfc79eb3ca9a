"""hloc's own pipelines, run as they are but for who extracts and matches.

Aachen's are run from the photos on, with the names of three configurations changed to those that
the plugin adds. For the others the features, matches and global descriptors are those of a run that
was done before, under the names that the pipeline has.
"""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
import pytest

from samfeat_hloc.localization import global_descriptors, matches
from samfeat_hloc.pipelines.run import Run


class Instead:
    """What stands in for `extract_features.main` and `match_features.main`."""

    def __init__(self, run: Run, work: Path, name: Callable[[str], str] = lambda name: name):
        names = [*run.dataset.db_names, *run.dataset.query_names]
        self.features = work / "features.h5"
        with h5py.File(run.features) as source, h5py.File(self.features, "w") as target:
            for each in names:
                source.copy(source[each], target, name=name(each))
        self.work, self.made = work, 0
        self.db = [name(each) for each in run.dataset.db_names]
        self.queries = [name(each) for each in run.dataset.query_names]

    def extract(self, conf: dict[str, Any], *args: Any, **kwargs: Any) -> Path:
        if "global" not in conf["output"]:
            return self.features
        output = self.work / "global.h5"
        return global_descriptors.main(self.features, self.db, self.queries, output)

    def match(self, conf: dict[str, Any], pairs: Path, *args: Any, **kwargs: Any) -> Path:
        self.made += 1
        return matches.main(pairs, self.features, self.work / f"matches{self.made}.h5")


def run_pipeline(run: Run, root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run hloc's pipeline of the benchmark on a copy of the dataset; its poses file."""
    shutil.copytree(root, out / "dataset")
    benchmark, root, scene = run.dataset.benchmark, out / "dataset", run.dataset.scene
    outputs = out / "outputs"
    outputs.mkdir()
    if benchmark in ("aachen", "aachen-v1"):
        return _aachen(run, root, outputs, monkeypatch)
    instead = Instead(run, out, name_of(benchmark))
    for module in ("extract_features", "match_features"):
        found = importlib.import_module(f"hloc.{module}")
        monkeypatch.setattr(found, "main", getattr(instead, module.split("_")[0]))
    everything = len(run.dataset.db_names)
    args = Namespace(dataset=root, outputs=outputs, num_covis=20, num_loc=everything)
    results = outputs / "results.txt"
    if benchmark == "robotcar":
        pipeline = importlib.import_module("hloc.pipelines.RobotCar.pipeline")
        monkeypatch.setattr(pipeline, "CONDITIONS", ["dawn", "night"])  # those that are there
        # It reads bytes in a way that NumPy 2.3 has no more.
        monkeypatch.setattr(np, "fromstring", lambda data, dtype: np.frombuffer(data, dtype))
        pipeline.run(args)
        return only(outputs.glob("RobotCar_hloc_*.txt"))
    if benchmark == "cambridge":
        pipeline = importlib.import_module("hloc.pipelines.Cambridge.pipeline")
        models = root / "CambridgeLandmarks_Colmap_Retriangulated_1024px"
        pipeline.run_scene(root / scene, models / scene, outputs, results, 20, everything)
        return results
    if benchmark == "7scenes":
        pipeline = importlib.import_module("hloc.pipelines.7Scenes.pipeline")
        models = root / "7scenes_sfm_triangulated" / scene / "triangulated"
        depth = root / "depth" / f"7scenes_{scene}" / "train" / "depth"
        dense = run.map_dir.name == "map-depth"
        if dense:
            _mend_depth(monkeypatch)
        pipeline.run_scene(
            root / scene, models, run.dataset.retrieval.published, outputs, results, 30, dense,
            depth_dir=depth,
        )  # fmt: skip
        return results
    if benchmark == "cmu":
        pipeline = importlib.import_module("hloc.pipelines.CMU.pipeline")
        # It writes the list of queries in one place and reads it in another, which is not there.
        pipeline.generate_query_list(root, root / scene / "queries_with_intrinsics.txt", scene)
        (root / scene / "queries").mkdir()
        shutil.copy(
            root / scene / "queries_with_intrinsics.txt",
            root / scene / "queries" / "all_time_queries_with_intrinsics.txt",
        )
        pipeline.run_slice(scene, root, outputs, 20, everything)
        return only((outputs / scene).glob("CMU_hloc_*.txt"))
    assert benchmark == "4seasons"
    pairs_from_poses = importlib.import_module("hloc.pairs_from_poses")
    best = pairs_from_poses.pairs_from_score_matrix

    def at_most(scores: Any, invalid: Any, count: int) -> Any:  # it asks for 20, of fewer
        return best(scores, invalid, min(count, scores.shape[1]))

    monkeypatch.setattr(pairs_from_poses, "pairs_from_score_matrix", at_most)
    for module, more in (("prepare_reference", []), ("localize", ["--sequence", scene])):
        argv = [module, "--dataset", str(root), "--outputs", str(outputs), *more]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_module(f"hloc.pipelines.4Seasons.{module}", run_name="__main__")
    return outputs / f"localization_{scene}_hloc+superglue.txt"


def _aachen(run: Run, root: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """hloc extracts, retrieves and matches too; only the configurations' names are others."""
    version, theirs = {
        "aachen": ("Aachen_v1_1", "superpoint_max"),
        "aachen-v1": ("Aachen", "superpoint_aachen"),
    }[run.dataset.benchmark]
    for module, name, ours in (
        ("extract_features", theirs, run.summary.preset),
        ("extract_features", "netvlad", "samfeat_vlad"),
        ("match_features", "superglue", "NN-samfeat"),
    ):
        confs = importlib.import_module(f"hloc.{module}").confs
        monkeypatch.setitem(confs, name, confs[ours])
    args = Namespace(dataset=root, outputs=outputs, num_covis=20, num_loc=len(run.dataset.db_names))
    importlib.import_module(f"hloc.pipelines.{version}.pipeline").run(args)
    return only(outputs.glob("Aachen*_hloc_*.txt"))


def _mend_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """hloc projects as pycolmap 4 does no more, and reads depth half a pixel beside the point."""
    project = pycolmap.Camera.img_from_cam

    def projected(camera: Any, points: np.ndarray) -> Any:
        return project(camera, np.column_stack([points, np.ones(len(points))]))

    monkeypatch.setattr(pycolmap.Camera, "img_from_cam", projected)
    module = importlib.import_module("hloc.pipelines.7Scenes.create_gt_sfm")
    interpolate = module.interpolate_depth
    monkeypatch.setattr(module, "interpolate_depth", lambda d, p: interpolate(d, p - 0.5))


def name_of(benchmark: str) -> Callable[[str], str]:
    """How the benchmark's pipeline calls an image: below its own folder of images."""
    folders = {"cmu": 0, "4seasons": 1}.get(benchmark)
    if folders is None:
        return lambda name: name
    return lambda name: "/".join(name.split("/")[-1 - folders :])


def only(paths: Iterable[Path]) -> Path:
    (path,) = paths
    return path
