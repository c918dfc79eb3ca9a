"""The six stages on a small city, and what their outputs hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import children

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "homographies.yaml"
VERIFIED_AT_ONCE = 8  # pairs; 256 of a user
NAMES = ("extract", "match", "map", "localize", "teach", "train")


@dataclass(frozen=True)
class Stage:
    """A stage. arguments: of its command, for an output folder. batch: the most that a kill may
    cost, in the units that it counts (images, pairs, queries, photos, steps): where they are quick,
    a batch that is being written, and the next, which is computed meanwhile."""

    name: str
    arguments: Callable[[Path], list[str | Path]]
    batch: int
    unit: str


class City:
    """The dataset, and each stage's inputs as an uninterrupted run of the earlier ones left them.

    Arguments:
        folder: where to; kept by a second run.
        images: database images; there are half as many queries by day, and by night.
        size: width and height.
    """

    def __init__(
        self, folder: Path, images: int = 14, size: tuple[int, int] = (256, 192), seed: int = 0
    ) -> None:
        self.folder = folder
        self.dataset = folder / "city"
        self.whole = folder / "whole"
        self._images, self._size, self._seed = images, size, seed
        photos, model = self.dataset / "images_upright", self.dataset / "3D-models/aachen_v_1_1"
        self.photos, self.model = photos, model
        self.db_pairs, self.query_pairs = folder / "pairs-db.txt", folder / "pairs-query.txt"
        self.all_pairs = folder / "pairs.txt"
        whole = self.whole
        lists = sorted(str(self.dataset / "queries" / f"{light}_time_queries_with_intrinsics.txt")
                       for light in ("day", "night"))  # fmt: skip
        features, matches = whole / "extract/features.h5", whole / "match/matches.h5"
        self.features, self.matches, self.map = features, matches, whole / "map/map"
        self.lists = lists
        self.stages = [
            Stage("extract", lambda out: [
                "features", "--images", photos, "--output", out / "features.h5", "--resize", "256",
                "--max-keypoints", "512", "--batch-size", "2", "--workers", "2",
            ], 2, "images"),
            Stage("match", lambda out: [
                "matches", "--pairs", self.all_pairs, "--features", features,
                "--output", out / "matches.h5", "--workers", "2",
            ], 2, "pairs"),
            Stage("map", lambda out: [
                "triangulate", "--reference-model", model, "--images", photos, "--pairs",
                self.db_pairs, "--features", features, "--matches", matches, "--output",
                out / "map",
            ], 2 * VERIFIED_AT_ONCE, "pairs"),
            Stage("localize", lambda out: [
                "poses", "--map", self.map, "--queries", lists[0], "--queries", lists[1],
                "--pairs", self.query_pairs, "--features", features, "--matches", matches,
                "--output", out / "poses.txt",
            ], 4, "queries"),  # one, and those that two threads finish while it is written
            Stage("teach", lambda out: [
                "teach", "--images", photos / "db", "--teacher", "regions", "--device", "cpu",
                "--output", out / "teacher.h5",
            ], 1, "photos"),
            Stage("train", lambda out: [
                "train", "--recipe", CONFIG, f"data.images={photos}", f"output={out / 'run'}",
                "train.steps=8", "train.batch=2", "train.log_every=1", "train.save_every=2",
                "train.validate_every=4", "train.warmup=1", "train.keep=1", "pairs.crop=64",
                "pairs.points=32", "pairs.keypoints=32",
            ], 2, "steps"),
        ]  # fmt: skip

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def prepare(self, stages: Sequence[str] = NAMES) -> dict[str, float]:
        """Make the dataset and run these stages without any trouble; seconds by stage."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.whole, ignore_errors=True)
        made = children.run(self._build)
        if made.code or made.timed_out:
            raise SystemExit(f"the city could not be built: {made.output[-500:]}")
        names = sorted(path.relative_to(self.photos).as_posix() for path in
                       self.photos.rglob("*.jpg"))  # fmt: skip
        database = [name for name in names if name.startswith("db/")]
        db_pairs = list(combinations(database, 2))
        query_pairs = [(name, other) for name in names if name not in database
                       for other in database[::3]]  # fmt: skip
        for path, pairs in ((self.db_pairs, db_pairs), (self.query_pairs, query_pairs),
                            (self.all_pairs, db_pairs + query_pairs)):  # fmt: skip
            path.write_text("".join(f"{a} {b}\n" for a, b in pairs))
        seconds = {}
        for stage in [self.stage(name) for name in stages]:
            output = self.whole / stage.name
            output.mkdir(parents=True)
            ended = run_stage(stage, output)
            if ended.code or ended.timed_out:
                raise SystemExit(f"{stage.name} does not work: {ended.how()}\n{ended.output}")
            seconds[stage.name] = ended.seconds
        return seconds

    def _build(self) -> None:
        from samfeat_hloc.scenes.demo import write_demo

        queries = max(self._images // 2, 1)
        write_demo(
            self.dataset,
            seed=self._seed,
            num_db=self._images,
            num_queries=queries,
            size=self._size,
        )


def run_stage(
    stage: Stage, output: Path, *limits: children.Limit, timeout: float = 300
) -> children.Ended:
    """A stage from its beginning to its end."""
    return start_stage(stage, output, *limits).wait(timeout)


def start_stage(
    stage: Stage, output: Path, *limits: children.Limit, done: Path | None = None
) -> children.Child:
    """Start a stage that keeps every batch at once, as it else does every 10 seconds.

    Arguments:
        done: append to this file each item as it is finished, to see what is done twice.
    """
    run = children.command(stage.arguments(output))

    def work() -> None:
        _watch(done)
        run()

    return children.Child(work, limits)


def _watch(done: Path | None) -> None:
    from samfeat_hloc.colmap import verification
    from samfeat_hloc.files import h5store
    from samfeat_hloc.localization import query_poses
    from samfeat_hloc.training import trainer

    h5store.SEGMENT_SECONDS = 0
    verification.PAIRS_A_BATCH = VERIFIED_AT_ONCE
    if done is None:
        return
    add, rate = h5store.SegmentWriter.add, trainer.learning_rate_at
    finish, verify = query_poses.QueryPoses.finish, verification.Verifier.inliers

    def note(names: list[str]) -> None:
        with done.open("a") as stream:
            stream.write("".join(f"{name}\n" for name in names))

    def counted_add(self: Any, groups: Any) -> None:
        if self.final.suffix == ".h5":  # else counted where it is computed
            note(list(groups))
        add(self, groups)

    def counted_rate(step: int, loop: Any) -> float:
        note([f"step {step}"])
        return rate(step, loop)

    def counted_finish(self: Any, matched: Any, *arguments: Any) -> Any:
        results = finish(self, matched, *arguments)
        note([query.name for query, _ in matched.task.photos])
        return results

    def counted_verify(self: Any, name0: str, name1: str) -> Any:
        verified = verify(self, name0, name1)
        note([f"{name0} {name1}"])
        return verified

    h5store.SegmentWriter.add = counted_add  # type: ignore[method-assign]
    trainer.learning_rate_at = counted_rate
    query_poses.QueryPoses.finish = counted_finish  # type: ignore[method-assign]
    verification.Verifier.inliers = counted_verify  # type: ignore[method-assign]


def unreadable(folder: Path) -> list[str]:
    """Files under a final name that cannot be read whole; those half-written have another name."""
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        temporary = path.suffix in (".tmp", ".lock") or any(p[0] == "." for p in relative.parts)
        if path.is_file() and not temporary:
            try:
                content(path)
            except Exception as error:
                found.append(f"{relative}: {type(error).__name__}: {error}")
    return found


def differences(folder: Path, whole: Path) -> list[str]:
    """What tells a folder of outputs from that of an uninterrupted run; nothing may."""
    names, wanted = _files(folder), _files(whole)
    found = [f"{name}: left behind" for name in sorted(names - wanted)]
    found += [f"{name}: missing" for name in sorted(wanted - names)]
    for name in sorted(names & wanted):
        if not same(content(folder / name), content(whole / name)):
            found.append(f"{name}: differs")
    return found


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }


def content(path: Path) -> Any:
    """What a file holds, apart from dates, seconds and where it lies."""
    import h5py
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".h5":
        found: dict[str, Any] = {}
        with h5py.File(path, "r") as file:
            found["attributes"] = sorted(file.attrs)

            def visit(name: str, item: Any) -> None:
                found[name, "attributes"] = {k: str(v) for k, v in item.attrs.items()}
                if isinstance(item, h5py.Dataset):
                    found[name] = item[()]

            file.visititems(visit)
        return found
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        state.pop("seconds", None)
        return state
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.name == "config.yaml":
        return path.read_text().partition("start_from")[2]  # behind its own place
    return path.read_bytes()


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal, arrays and all."""
    import numpy as np
    import torch

    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def inspect(work: Callable[[], list[str]]) -> list[str]:
    """Run a check in a child; what it found, or how it failed."""

    def told() -> None:
        print(json.dumps(work()))

    ended = children.run(told)
    if ended.code or ended.timed_out:
        return [f"the check failed: {ended.how()}"]
    return list(json.loads(ended.output.splitlines()[-1]))
