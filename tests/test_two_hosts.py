"""Ray over two hosts, namespaces of this machine: `benchmarks/hosts`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from refusals import refused

from samfeat_hloc.errors import SamfeatError

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "hosts"


@pytest.fixture(scope="module")
def namespaces() -> ModuleType:
    spec = importlib.util.spec_from_file_location("namespaces", FOLDER / "namespaces.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def allowed(namespaces: ModuleType) -> None:
    try:
        namespaces.check()
    except SamfeatError as error:
        pytest.skip(str(error))


def test_where_there_can_be_no_hosts(
    namespaces: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "_UNSHARE", ("sh", "-c", "echo no such right >&2; false"))
    monkeypatch.setattr(namespaces.shutil, "which", str)
    with refused("two hosts", ("namespaces", "no such right"), "root"):
        namespaces.check()
    monkeypatch.setattr(namespaces.shutil, "which", {"unshare": "/bin/unshare"}.get)
    with refused("two hosts", "nsenter", "util-linux"):
        namespaces.check()


def test_hosts_have_a_cable_and_a_folder_in_common(
    namespaces: ModuleType, allowed: None, tmp_path: Path
) -> None:
    hidden, shared = tmp_path / "hidden", tmp_path / "shared"
    for folder in (hidden, shared):
        folder.mkdir()
        (folder / "file").touch()
    first = namespaces.Host("first", "10.213.78.1")
    second = namespaces.Host("second", "10.213.78.2", hidden=hidden, read_only=shared)
    try:
        assert (first.path(str(hidden)) / "file").exists()
        assert not (second.path(str(hidden)) / "file").exists()
        second.run(["test", "-f", str(shared / "file")])
        with refused("second", "Read-only"):
            second.run(["touch", str(shared / "more")])
        reach = [sys.executable, "-c", "import socket, sys; print(socket.gethostname());"
                 "socket.create_connection((sys.argv[1], 9), timeout=5)"]  # fmt: skip
        with refused("first", "unreachable"):
            first.run([*reach, second.address])
        first.cable(second)
        for host, other in ((first, second), (second, first)):
            with refused(host.name, "refused"):  # by the other: nothing listens
                host.run([*reach, other.address])
        assert min(first.traffic(second)) > 0
        for _ in range(2):
            first.unplug(second)
        assert first.traffic(second) == (0, 0)
        with refused("first", "unreachable"):
            first.run([*reach, second.address])
        for _ in range(2):
            second.kill()
    finally:
        second.kill()
        first.kill()
    assert not Path(f"/proc/{first.pid}").exists() and not Path(f"/proc/{second.pid}").exists()


@pytest.mark.torture
def test_all_stages_with_a_host_killed_in_each(
    namespaces: ModuleType, allowed: None, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'samfeat-hloc[ray]'")
    record = tmp_path / "hosts.json"
    subprocess.run([sys.executable, str(FOLDER / "run.py"), "--json", str(record)], check=True)
    stages = json.loads(record.read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["features", "matches", "localization"]
    for stage in stages:
        assert stage["before_the_kill"]["second"] == stage["delivered"]["second"] == 1
        assert sum(stage["delivered"].values()) == stage["batches"] > 2
        assert stage["equal"] >= 3
