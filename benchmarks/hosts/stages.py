"""Features, matches and localization of a small city, here or over a Ray cluster.

Run by ``run.py`` on the first host, with the cluster's address: tells it on standard output, a line
of JSON each, which host has delivered a batch and which stage is done, and waits for an answer.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files.pair_lists import read_pairs, unique_pairs
from samfeat_hloc.localization import features, localize, matches
from samfeat_hloc.localization.inputs import LocalizationInputs
from samfeat_hloc.parallel.cluster import Cluster
from samfeat_hloc.pipelines.run import run
from samfeat_hloc.pipelines.run_options import RunOptions
from samfeat_hloc.scenes import write_demo

STAGES = {"features": "images", "matches": "pairs", "localization": "queries"}
OPTIONS = ExtractOptions(resize=320, max_keypoints=512)
MARKS = "/tmp/ray"  # of each host its own
SLOW = "slow"  # on a host: while it is there, a batch takes PAUSE seconds more
PAUSE = 2.0
HELD = "held"  # on a host: a second batch is computed, and waits for the host's end
outside = sys.stdout


class City:
    """The files of a generated city.

    ``shared`` has the images, features and matches, which all machines read; ``private`` the
    dataset, the lists, the map and all outputs, which the first alone has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self.private = folder / "private"
        self.made = self.private / "run"

    def write(self) -> None:
        """Generate it and run everything once, for the map and the inputs of each stage."""
        write_demo(self.private / "dataset", num_db=10, num_queries=4, size=(320, 240))
        dataset = self.dataset
        self.shared.mkdir()
        run(dataset.root, self.made, RunOptions(preset="samfeat_fast", workers=1))
        shutil.copytree(dataset.image_dir, self.shared / "images")
        for name in ("features.h5", "matches-query.h5"):
            (self.made / name).rename(self.shared / name)

    @property
    def dataset(self) -> AachenDataset:
        return AachenDataset.open(self.private / "dataset")

    def outputs(self, stage: str, way: str) -> Path:
        """Where a stage writes, alone or spread."""
        return self.private / way / stage

    def compute(self, stage: str, output: Path, cluster: Cluster | None = None) -> int:
        """A stage, into files in the folder ``output``; the number of its items."""
        output.mkdir(parents=True)
        dataset, feature_file = self.dataset, self.shared / "features.h5"
        if stage == "features":
            names = [*dataset.db_names, *dataset.query_names]
            features.main(
                self.shared / "images", names, output / "features.h5",
                model=SAMFeat.from_pretrained(device="cpu"), options=OPTIONS, cluster=cluster,
            )  # fmt: skip
            return len(names)
        if stage == "matches":
            pairs = next(self.made.glob("pairs-db-*.txt"))
            matches.main(pairs, feature_file, output / "matches.h5", cluster=cluster)
            return len(unique_pairs(read_pairs(pairs)))
        inputs = LocalizationInputs(
            self.made / "map", dataset.queries, self.made / "pairs-query-places.txt",
            feature_file, self.shared / "matches-query.h5",
        )  # fmt: skip
        localize.main(inputs, output / "poses.txt", cluster=cluster)
        return len(dataset.queries)


class Watched(Cluster):
    """A cluster that tells which host delivered each batch.

    Arguments:
        address: ``host:port``.
        mortal: the host that delivers one batch and keeps the next.
    """

    def __init__(self, address: str, mortal: str) -> None:
        super().__init__(address)
        self.mortal = mortal
        self.hosts: list[str] = []  # of the batches of this stage

    def map(
        self, work: Callable[[Any], Any], tasks: Iterable[Any], *, device: str = "cpu"
    ) -> Iterator[Any]:
        mortal, marks, held, slow, pause = self.mortal, Path(MARKS), HELD, SLOW, PAUSE

        def perform(task: Any) -> tuple[str, Any]:
            host = socket.gethostname()
            result = work(task)
            end = time.monotonic() + pause
            while (marks / slow).exists() and time.monotonic() < end:
                time.sleep(0.01)
            mark = marks / f"batch-{uuid.uuid4()}"
            if host == mortal and any(marks.glob("batch-*")):
                (marks / held).touch()
                time.sleep(600)
            mark.touch()
            return host, result

        for host, result in super().map(perform, tasks, device=device):
            self.hosts.append(host)
            tell({"delivered": host})
            yield result

    def warm_up(self, hosts: int) -> None:
        """Wait until workers of so many hosts have imported everything."""

        def imported(_: int) -> str:
            from samfeat_hloc.localization import features, localize, matches

            assert features and localize and matches
            time.sleep(0.2)
            return socket.gethostname()

        end = time.monotonic() + 120
        while len(set(super().map(imported, range(4)))) < hosts:
            if time.monotonic() > end:
                raise SamfeatError("two hosts", f"not all {hosts} work after two minutes")


def tell(what: dict[str, Any]) -> None:
    """A line to the program outside; returns once that says to go on."""
    print(json.dumps(what), file=outside, flush=True)
    if not sys.stdin.readline():
        raise SystemExit(1)


def main(folder: Path, address: str, mortal: str) -> None:
    """All stages over the cluster."""
    global outside
    outside = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints
    city = City(folder)
    cluster = Watched(address, mortal)
    with cluster:
        for stage in STAGES:
            cluster.warm_up(2)
            cluster.hosts.clear()
            tell({"begin": stage})
            began = time.monotonic()
            items = city.compute(stage, city.outputs(stage, "spread"), cluster)
            tell({"stage": stage, "items": items, "batches": len(cluster.hosts),
                  "seconds": round(time.monotonic() - began, 2)})  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
