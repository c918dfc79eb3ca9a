"""Hosts on one machine: each in namespaces of its own, and a cable between two.

A host has its own network, host name, processes and ``/tmp/ray``; what it is not given is hidden
from it. It lives as long as its first process, which ends with the program that started it: then
the kernel kills all its others and takes its end of the cable away. Nothing of it is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from samfeat_hloc.errors import SamfeatError

_TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
_UNSHARE = ("unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount")
# Its first process: makes the host, says so, and waits for the end of its input.
_INIT = """
read -r pid rest < /proc/self/stat  # outside's, as this /proc is
mount -t proc none /proc
hostname "$1"
for folder in /dev/shm /tmp/ray; do mount -t tmpfs none $folder; done
if [ -n "$2" ]; then
    mount -t tmpfs none "$2"
    mount --bind "$3" "$3"
    mount -o remount,bind,ro "$3"
fi
ip link set lo up
ip address add "$4" dev lo  # stays where the cable goes with the other host
echo "up $pid"
read
"""
_TRY = "mount -t tmpfs none /dev/shm; ip link add one type veth peer name other"


def check() -> None:
    """Raise a SamfeatError where there can be no such hosts."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise SamfeatError("two hosts", f"there is no {tool}", f"on Linux install {package}")
    tried = subprocess.run(
        [*_UNSHARE, "bash", "-ec", _TRY], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        why = tried.stderr.strip().splitlines()[-1:] or ["unshare fails"]
        raise SamfeatError(
            "two hosts",
            f"namespaces are not allowed here ({why[0]})",
            "run as root on Linux, in a container with --privileged",
        )


class Host:
    """A machine, as far as programs can tell.

    Arguments:
        name: its host name.
        address: IPv4, in its own network, which has no other machines but those cabled to it.
        hidden: a folder that is empty and its own on this host; None for none.
        read_only: a folder that it can only read, where one is hidden.
    """

    def __init__(
        self, name: str, address: str, hidden: Path | None = None, read_only: Path | None = None
    ) -> None:
        self.name = name
        self.address = address
        Path("/tmp/ray").mkdir(exist_ok=True)  # to be mounted over
        arguments = [name, str(hidden or ""), str(read_only or ""), address]
        self._process = subprocess.Popen(
            [*_UNSHARE, "bash", "-ec", _INIT, "init", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None and self._process.stderr is not None
        said = self._process.stdout.readline().split()
        if said[:1] != ["up"]:
            raise SamfeatError(name, f"does not start: {self._process.stderr.read().strip()}", "")
        self.pid = int(said[1])

    def path(self, path: str) -> Path:
        """Where a path of this host is found from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that runs another one on this host."""
        return ["nsenter", f"--target={self.pid}", "--all", f"--wd={Path.cwd()}", *arguments]

    def run(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Run a command here.

        Raises:
            SamfeatError: it fails.
        """
        self._finish(self.command(arguments), environment)

    def cable(self, other: Host) -> None:
        """Connect two hosts."""
        # Outside's process ids: from within there is no other host.
        self._finish(
            ["nsenter", f"--target={self.pid}", "--net", "ip", "link", "add", f"to-{other.name}",
             "type", "veth", "peer", "name", f"to-{self.name}", "netns", str(other.pid)]
        )  # fmt: skip
        for host, to in ((self, other), (other, self)):
            end = f"to-{to.name}"
            host.run(["ip", "link", "set", end, "up"])
            host.run(["ip", "route", "add", f"{to.address}/32", "dev", end, "src", host.address])

    def traffic(self, other: Host) -> tuple[int, int]:
        """Bytes that have come from the other host by the cable and gone to it; 0 without one."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, figures = line.partition(":")
            if name.strip() == f"to-{other.name}":
                return int(figures.split()[0]), int(figures.split()[8])
        return 0, 0

    def unplug(self, other: Host) -> None:
        """Take the cable away, if it is there: from now on neither hears of the other."""
        with suppress(SamfeatError):  # the kernel takes it away when a host ends, but not at once
            self.run(["ip", "link", "delete", f"to-{other.name}"])

    def kill(self) -> None:
        """End all its processes at once; twice does no harm."""
        if self._process.poll() is None:
            os.kill(self.pid, 9)
        self._process.communicate()

    def _finish(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise SamfeatError(self.name, f"`{' '.join(command)}` fails: {said}", "")
