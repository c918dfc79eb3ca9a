"""Two hosts on one machine: every stage over Ray, with one of the hosts killed in its middle.

    python benchmarks/hosts/run.py [--json FILE]        # as root on Linux, with Ray and iproute2

The hosts are namespaces with a network, a host name, processes and a folder of their own
(`namespaces.py`). The second has only what docs/scale.md calls shared: the images, the feature file
and the match file, and can write none of it. Features, matches and poses of a small generated city
are computed without Ray, then over both hosts; in each stage the second delivers a batch, computes
another, and is killed. Ends with an error unless every dataset, pose and log is the same.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import typer
from namespaces import Host, check
from stages import HELD, MARKS, SLOW, STAGES, City

from samfeat_hloc.cli import run_program
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.parallel.cluster import Cluster

FIRST, SECOND = "first", "second"
ADDRESS = {FIRST: "10.213.77.1", SECOND: "10.213.77.2"}
HEAD = f"{ADDRESS[FIRST]}:6379"
TRIES = 3  # to start Ray on the second host
WAIT = 60.0  # seconds for the second host to have computed its second batch


def main(
    unplug: Annotated[
        bool,
        typer.Option(
            "--unplug", help="Take the cable out before each kill, so that no goodbye is sent."
        ),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
) -> None:
    """Compute alone, set the hosts up, compute over them, kill, compare."""
    began = time.monotonic()
    logging.getLogger().setLevel(logging.WARNING)
    Cluster()  # says whether Ray is there
    check()
    records = []
    with tempfile.TemporaryDirectory(prefix="samfeat-hosts-", dir="/var/tmp") as folder:
        city, alone = City(Path(folder)), {}
        city.write()
        for stage in STAGES:
            start = time.monotonic()
            city.compute(stage, city.outputs(stage, "alone"))
            alone[stage] = time.monotonic() - start
        typer.echo(f"a city, and its results without Ray: {time.monotonic() - began:.0f} s")
        with TwoHosts(city) as hosts:
            for record in hosts.compute(unplug):
                stage = record["stage"]
                record["seconds_alone"] = round(alone[stage], 2)
                record["equal"] = equal(city.outputs(stage, "alone"), city.outputs(stage, "spread"))
                records.append(record)
                typer.echo(line(record))
    typer.echo(f"done in {time.monotonic() - began:.0f} s; nothing differs")
    if json_file is not None:
        content = {**measurement({"unplug": unplug}), "stages": records}
        write_atomically(json_file, json.dumps(content, indent=1) + "\n")


def line(record: dict[str, Any]) -> str:
    """A stage in words."""
    delivered, before = record["delivered"], record["before_the_kill"]
    return (
        f"{record['stage']}: {record['items']} {STAGES[record['stage']]} in {record['batches']} "
        f"batches. First host {before.get(FIRST, 0)}, second host {before[SECOND]} and one more "
        f"computed when it is killed ({record['bytes_sent'] / 1e6:.2f} MB sent to it, "
        f"{record['bytes_received'] / 1e6:.2f} MB received); first host {delivered[FIRST]} "
        f"{record['seconds_after_the_kill']:.1f} s later. "
        f"All {record['equal']} arrays, attributes and files equal."
    )


class TwoHosts:
    """Two hosts with a cable between them, and Ray on both, a processor each."""

    def __init__(self, city: City) -> None:
        self.city = city
        self.second: Host | None = None
        repository = str(Path(__file__).resolve().parents[2])
        self.environment = {
            **os.environ,
            # Ray lets only those in who know a word.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [repository, os.environ.get("PYTHONPATH")])
            ),
        }  # fmt: skip
        self.first = Host(FIRST, ADDRESS[FIRST])

    def __enter__(self) -> TwoHosts:
        try:
            self._ray(self.first, "--head", f"--port={HEAD.split(':')[1]}",
                      "--include-dashboard=false")  # fmt: skip
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in (self.second, self.first):
            if host is not None:
                host.kill()

    def compute(self, unplug: bool) -> Iterator[dict[str, Any]]:
        """What became of each stage, once it is done; with the second host there again."""
        program = str(Path(__file__).with_name("stages.py"))
        driver = subprocess.Popen(
            self.first.command([sys.executable, program, str(self.city.folder), HEAD, SECOND]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip
        assert driver.stdin is not None and driver.stdout is not None
        delivered: Counter[str] = Counter()
        killed: dict[str, Any] = {}
        slow = self.first.path(MARKS) / SLOW
        for told in map(json.loads, driver.stdout):
            if "begin" in told:
                slow.touch()  # or the first does small batches before the second is asked
                delivered.clear()
                killed, began = {}, self._traffic()
            elif "delivered" in told:
                delivered[told["delivered"]] += 1
                if not killed and delivered[SECOND]:
                    killed = {"before_the_kill": dict(delivered), **self._kill(began, unplug)}
                    since = time.monotonic()
                    slow.unlink()
            elif not killed:
                raise SamfeatError(told["stage"], "was done before the second host had a batch")
            else:
                after = round(time.monotonic() - since, 2)
                yield {**told, "delivered": dict(delivered), **killed,
                       "seconds_after_the_kill": after}  # fmt: skip
                if told["stage"] != list(STAGES)[-1]:
                    self._join()
            driver.stdin.write("\n")
            driver.stdin.flush()
        if driver.wait() != 0:
            raise SamfeatError("the first host", "failed", "its error is above")

    def _join(self) -> None:
        """A second host, as a machine that is started anew."""
        for tries_left in reversed(range(TRIES)):
            if self.second is not None:
                self.first.unplug(self.second)
            self.second = Host(
                SECOND, ADDRESS[SECOND], hidden=self.city.private, read_only=self.city.shared
            )
            self.first.cable(self.second)
            try:
                return self._ray(self.second, f"--address={HEAD}")
            except SamfeatError:  # busy: Ray waits for itself for half a minute alone
                self.second.kill()
                if not tries_left:
                    raise

    def _traffic(self) -> tuple[int, int]:
        assert self.second is not None
        return self.first.traffic(self.second)

    def _kill(self, began: tuple[int, int], unplug: bool) -> dict[str, int]:
        """Kill the second host; what went by the cable since ``began``."""
        assert self.second is not None
        held, end = self.second.path(MARKS) / HELD, time.monotonic() + WAIT
        while not held.exists():
            if time.monotonic() > end:
                raise SamfeatError("the second host", "got only one batch of the stage")
            time.sleep(0.01)
        received, sent = (now - then for now, then in zip(self._traffic(), began, strict=True))
        if unplug:
            self.first.unplug(self.second)
        self.second.kill()
        return {"bytes_received": received, "bytes_sent": sent}

    def _ray(self, host: Host, *role: str) -> None:
        host.run(
            [str(Path(sys.executable).with_name("ray")), "start", *role,
             f"--node-ip-address={host.address}", "--num-cpus=1", "--num-gpus=0",
             f"--object-store-memory={100 << 20}", "--disable-usage-stats"],
            environment=self.environment,
        )  # fmt: skip


def equal(alone: Path, spread: Path) -> int:
    """The number of files, and of datasets and attributes in them, all of which are the same.

    Raises:
        SamfeatError: that names what differs.
    """
    one, other = contents(alone), contents(spread)
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other or not np.array_equal(one[name], other[name]):
            raise SamfeatError(spread, f"{name} is not what a run without Ray makes")
    return len(one)


def contents(folder: Path) -> dict[str, Any]:
    """All datasets and attributes of HDF5 files; other files as they are."""
    found: dict[str, Any] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = value

    for path in sorted(folder.rglob("*")):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                add(path.name, file)
                file.visititems(add)
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


if __name__ == "__main__":
    run_program(main)
