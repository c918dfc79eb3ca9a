"""Stages on Ray: what one process makes, also where workers or the driver are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mapped_scene
import numpy as np
import pytest
import torch
from mapped_scene import DB, QUERIES, Files
from PIL import Image
from refusals import refused
from test_h5store import assert_equal

from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files.h5arrays import InUse
from samfeat_hloc.localization import features, localize, mapping, matches
from samfeat_hloc.parallel import cluster
from samfeat_hloc.parallel.cluster import Cluster

OPTIONS = ExtractOptions(resize=64, max_keypoints=100, detection_threshold=0.0, precision="float32")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Ray on this machine with two workers."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'samfeat-hloc[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import tests
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    built = mapped_scene.build(tmp_path_factory.mktemp("scene"))
    mapping.main(built.mapping(), built.root / "map")
    random = np.random.default_rng(0)
    for name in [*DB, *QUERIES]:
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((128, 96)).save(built.images / name)
    return built


class Marking:
    """Work that leaves a file for each batch done, and where asked its worker's last one."""

    def __init__(self, work: Callable[[Any], Any], marks: Path, deaths: int) -> None:
        self.work = work
        self.marks = marks
        self.deaths = deaths

    def __call__(self, task: Any) -> Any:
        result = self.work(task)
        (self.marks / f"done-{uuid.uuid4()}").touch()
        if len(list(self.marks.iterdir())) > 1:  # another batch is done already
            for death in range(self.deaths):
                try:
                    (self.marks / f"died-{death}").open("x").close()
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return result


class Deadly(Cluster):
    """A cluster with workers that are killed in the middle, before their batch is delivered."""

    def __init__(self, marks: Path, deaths: int = 1) -> None:
        super().__init__()
        marks.mkdir()
        self.marks = marks
        self.deaths = deaths

    def map(
        self, work: Callable[[Any], Any], tasks: Iterable[Any], *, device: str = "cpu"
    ) -> Iterator[Any]:
        return super().map(Marking(work, self.marks, self.deaths), tasks, device=device)

    def count(self, what: str) -> int:
        return len(list(self.marks.glob(f"{what}-*")))


def run_stage(stage: str, files: Files, folder: Path, cluster: Cluster | None) -> Path:
    folder.mkdir(exist_ok=True)
    if stage == "features":
        torch.manual_seed(0)
        model = SAMFeat().eval()
        output = folder / "features.h5"
        return features.main(
            files.images, [*DB, *QUERIES], output,
            model=model, options=OPTIONS, batch_size=2, cluster=cluster,
        )  # fmt: skip
    if stage == "matches":
        output = folder / "matches.h5"
        return matches.main(files.pairs("db"), files.features, output, cluster=cluster)
    localize.main(files.localization(), folder / "poses.txt", cluster=cluster)
    return folder / "poses.txt"


@pytest.mark.parametrize("stage", ["features", "matches", "localization"])
def test_a_killed_worker_changes_nothing(
    address: str, files: Files, tmp_path: Path, stage: str
) -> None:
    alone = run_stage(stage, files, tmp_path / "alone", None)
    cluster = Deadly(tmp_path / "marks")
    spread = run_stage(stage, files, tmp_path / "spread", cluster)
    assert cluster.count("died") == 1
    assert cluster.count("done") >= 4  # three batches or more, and the lost one again
    made = sorted(path.name for path in alone.parent.iterdir())
    assert sorted(path.name for path in spread.parent.iterdir()) == made
    for name in made:
        if name.endswith(".h5"):
            assert_equal(spread.parent / name, alone.parent / name)
        else:
            assert (spread.parent / name).read_bytes() == (alone.parent / name).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from samfeat_hloc.files import h5store
from samfeat_hloc.localization import matches
from samfeat_hloc.parallel.cluster import Cluster
h5store.SEGMENT_SECONDS = 0
begin = h5store.SegmentWriter._begin_segment
def write_and_die(writer):
    begin(writer)
    writer._wait()
    if len(list(writer.parts.glob("*.h5"))) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
h5store.SegmentWriter._begin_segment = write_and_die
with Cluster(sys.argv[1]) as cluster:
    matches.main(*map(Path, sys.argv[2:]), cluster=cluster)
"""


def test_a_killed_driver_goes_on(address: str, files: Files, tmp_path: Path) -> None:
    whole = run_stage("matches", files, tmp_path / "alone", None)
    output = tmp_path / "spread" / "matches.h5"
    given = [files.pairs("db"), files.features, output]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, address, *given], stderr=subprocess.DEVNULL, check=False
    )
    assert killed.returncode == -signal.SIGKILL and not output.exists()
    assert len(list((tmp_path / "spread" / "matches.h5.parts").iterdir())) == 3

    cluster = Deadly(tmp_path / "marks", deaths=0)
    assert run_stage("matches", files, output.parent, cluster) == output
    pairs_left = cluster.count("done")
    assert pairs_left > 0
    assert_equal(output, whole)
    assert [path.name for path in output.parent.iterdir()] == ["matches.h5"]
    run_stage("matches", files, output.parent, cluster)
    assert cluster.count("done") == pairs_left  # all is there: nothing is done again


def test_errors_are_one_line(address: str, files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "images"
    for name in DB[:3]:
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        (broken / name).write_bytes((files.images / name).read_bytes())
    cut = broken / DB[1]
    cut.write_bytes(cut.read_bytes()[:-200])
    with refused(cut):
        features.main(
            broken, DB[:3], tmp_path / "f.h5",
            model=SAMFeat().eval(), options=OPTIONS, batch_size=1, cluster=Cluster(),
        )  # fmt: skip


def test_an_error_names_the_machine(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here.h5", tmp_path / "there.h5"
    here.touch()

    def read(path: Path) -> None:
        raise InUse(path, "cannot be read", "copy it")

    with refused(here, "cannot be read") as caught:
        list(Cluster().map(read, [here]))
    assert caught.value.problem == "cannot be read"  # this machine needs no name
    machine = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "the driver's")
    for path, words in ((here, machine), (there, (machine, "same paths"))):
        with refused(path, words, "copy it") as caught:
            list(Cluster().map(read, [path]))
        assert isinstance(caught.value, InUse)
        assert ("same paths" in caught.value.problem) == (path == there)


def test_a_batch_that_always_kills_ends_the_run(address: str, tmp_path: Path) -> None:
    cluster = Deadly(tmp_path / "marks", deaths=100)
    with refused("--workers ray", "4 times"):
        list(cluster.map(abs, [-1, -2]))


def test_batches_of_a_machine_that_does_not_answer(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samfeat_hloc.parallel.cluster._PATIENCE", 0.2)
    here = Cluster()
    deaths, found = here._dead(), list[int]()

    def work(task: int) -> int:
        try:
            (tmp_path / f"begun-{task}").touch(exist_ok=False)
        except FileExistsError:
            (tmp_path / f"again-{task}").touch(exist_ok=False)
            return -task
        if task == 1:
            time.sleep(120)  # the first time it is on the machine that is cut off
        return -task

    # That is noticed when all others are done.
    monkeypatch.setattr(here, "_dead", lambda: deaths | ({"lost"} if len(found) == 4 else set()))
    began = time.monotonic()
    for result in here.map(work, [1, 2, 3, 4, 5]):
        found.append(result)
    assert sorted(found) == [-5, -4, -3, -2, -1]
    assert time.monotonic() - began < 100
    assert [path.name for path in tmp_path.glob("again-*")] == ["again-1"]  # once, and no other


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        refused("--workers ray", mend="samfeat-hloc[ray]"),
        cluster.chosen("ray"),
    ):
        pass


def test_options() -> None:
    with cluster.chosen(None) as found:
        assert found == (None, None)
    with cluster.chosen("3") as found:
        assert found == (3, None)
    for workers in ("0", "-1", "many", "2.5"):
        with (
            refused(f"--workers {workers}", ("1", "ray")),
            cluster.chosen(workers),
        ):
            pass
    with refused("--ray-address"), cluster.chosen("2", "auto"):
        pass
