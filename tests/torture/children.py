"""Commands of the package in processes of their own: forked, limited, timed, killed.

The packages that take seconds to import are imported once, here; a child is forked from this
process, so that a random moment falls into the work and not into the imports. Nothing is computed
in this process itself: threads of a library would not survive the fork.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

Work = Callable[[], None]
Limit = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended. code: exit code, or minus the signal. output: both of its streams."""

    code: int
    seconds: float
    output: str
    timed_out: bool = False

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error: ")]

    @property
    def refused(self) -> bool:
        """It said in one line what is wrong, and nothing else went wrong."""
        return self.code == 1 and len(self.errors) == 1 and "Traceback" not in self.output

    def how(self) -> str:
        """In a few words, for the table."""
        if self.timed_out:
            return "hung"
        if self.code < 0:
            return f"died of {signal.Signals(-self.code).name}"
        if "Traceback" in self.output:
            lines = [line for line in self.output.splitlines() if line.strip()]
            return f"traceback: {lines[-1][:160]}"
        if self.code == 0:
            return "finished"
        return self.errors[0] if self.errors else f"exit code {self.code}: {self.output[-160:]}"


class Child:
    """A running child; :meth:`wait` for it or :meth:`kill` it."""

    def __init__(self, work: Work, limits: Sequence[Limit] = ()) -> None:
        # A pipe: writing to a file would fail where files may not grow.
        self._pipe, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self._pipe, False)
        self._output = b""
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _run(work, end, limits)
        os.close(end)

    def kill(self) -> Ended:
        """SIGKILL for it and its own children, now."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # before it has made its group
            os.kill(self.pid, signal.SIGKILL)
        return self.wait(60)

    def wait(self, timeout: float) -> Ended:
        """Until it ends; killed after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            with suppress(BlockingIOError):
                while data := os.read(self._pipe, 1 << 20):
                    self._output += data
            if pid:
                break
            if time.monotonic() > end:
                return replace(self.kill(), timed_out=True)
            time.sleep(0.004)
        os.close(self._pipe)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, time.monotonic() - self.began, self._output.decode(errors="replace"))

    def running(self) -> bool:
        """Whether it has not ended yet; it has to be waited for all the same."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _run(work: Work, stream: int, limits: Sequence[Limit]) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.close(stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for limit in limits:
            limit()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run(work: Work, limits: Sequence[Limit] = (), timeout: float = 300) -> Ended:
    """Run and wait."""
    return Child(work, limits).wait(timeout)


def command(arguments: Sequence[str | Path]) -> Work:
    """The command line ``samfeat ARGUMENTS``."""

    def work() -> None:
        from samfeat_hloc import cli

        sys.argv = ["samfeat", *(str(argument) for argument in arguments)]
        cli.main()

    return work


def processor_seconds() -> float:
    """Of all children that have ended, and of their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(megabytes: int) -> Limit:
    """So much more than what the imports have taken."""

    def limit() -> None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (megabytes << 20),) * 2)

    return limit


def file_size(size: int) -> Limit:
    """No file may grow beyond so many bytes: writes fail as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def open_files(number: int) -> Limit:
    """So many files more than those that are open."""

    def limit() -> None:
        last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        while os.dup(0) < last:  # leave no number below it free
            pass
        most = last + 1 + number
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return limit


def as_nobody() -> None:
    """Without root's right to write everywhere."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def preload() -> None:
    """Import what the commands import."""
    import pycolmap  # noqa: F401
    import torch
    import torch._dynamo  # torch.optim imports it late

    import samfeat_hloc.cli
    import samfeat_hloc.feature.network
    import samfeat_hloc.localization.localize
    import samfeat_hloc.localization.mapping
    import samfeat_hloc.localization.matches
    import samfeat_hloc.scenes.demo
    import samfeat_hloc.teachers.teach
    import samfeat_hloc.training.trainer  # noqa: F401

    with suppress(ImportError):
        import scipy.sparse.csgraph  # noqa: F401
        import skimage.segmentation  # noqa: F401
    torch.set_num_threads(1)
