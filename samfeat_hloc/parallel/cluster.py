"""Stages on Ray: batches as tasks on the processors or GPUs of one machine or of many.

A task is a batch and nothing else: its result depends on the batch alone and comes back to the
program that was started, which writes all files, as without Ray. So a task whose worker dies is
simply done again, and a run that is killed goes on from its segments. Files (images, features,
matches) are read by the workers under the paths given here; a network's weights and a map are
sent to them.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SamfeatError

logger = logging.getLogger(__name__)

RAY = "ray"
_LOCAL = "local"  # Ray's word for an instance of its own
_RETRIES = 3  # of a batch whose worker dies; one that kills its worker each time has to end
_AHEAD = 2  # tasks a processor that are handed out: enough that none waits for the driver
_PATIENCE = 10.0  # seconds without a result after which lost machines are looked for
_ROUNDS = 4  # least batches a processor, so that all end at about the same time

Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")


class Cluster:
    """Processors and GPUs that Ray gives; a context manager that connects when first needed.

    Arguments:
        address: ``host:port`` of a cluster that runs, or ``auto`` for one that ``ray start`` has
            started on this machine. None for the environment's RAY_ADDRESS; without that Ray is
            started here for this run.

    Raises:
        SamfeatError: Ray is not installed; on first use, it does not start or answer.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            self._ray: Any = import_module(RAY)
        except ImportError as error:
            raise SamfeatError(
                "--workers ray",
                f"Ray cannot be imported ({error})",
                "install it with `pip install 'samfeat-hloc[ray]'`",
            ) from None
        self.address = address
        self._connected = False
        self._owned = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._ray.shutdown()
        self._owned = self._connected = False

    @property
    def device(self) -> str:
        """Where the network and matching run: "cuda" where the cluster has GPUs, else "cpu"."""
        return "cuda" if self._resources().get("GPU", 0) >= 1 else "cpu"

    def batches(self, items: Sequence[Item], most: int, *, device: str = "cpu") -> list[list[Item]]:
        """Items in their order, at most so many together, fewer where workers would be idle."""
        size = max(1, min(most, len(items) // (_ROUNDS * self._slots(device))))
        return [list(items[start : start + size]) for start in range(0, len(items), size)]

    def map(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], *, device: str = "cpu"
    ) -> Iterator[Result]:
        """Results of ``work(task)`` as they come, in any order.

        Arguments:
            work: pickled once and kept by each worker from task to task; what it computes may
                depend on nothing but the task.
            tasks: taken one by one as workers become free.
            device: "cuda" for a GPU a task, "cpu" for a processor.

        Raises:
            SamfeatError: one raised by ``work``, with the machine's name where that is not this
                one; a batch whose worker died too often.
        """
        ray = self._connect()
        perform = ray.remote(_perform).options(
            num_cpus=1, num_gpus=int(device == "cuda"), max_retries=_RETRIES
        )
        # In a list a reference stays one: it is not sent with every task.
        held = [ray.put(work), socket.gethostname()]
        key = held[0].hex()
        numbered = enumerate(tasks)
        in_hand: dict[int, Task] = {}
        waiting: dict[Any, int] = {}  # by reference
        dead = self._dead()
        try:
            while True:
                free = _AHEAD * self._slots(device) - len(in_hand)
                for number, task in islice(numbered, max(0, free)):
                    in_hand[number] = task
                    waiting[perform.remote(key, held, task)] = number
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=_PATIENCE)
                if done:
                    number = waiting.pop(done[0])
                    result = self._result(done[0])
                    del in_hand[number]
                    for other in [one for one, of in waiting.items() if of == number]:
                        del waiting[other]
                        ray.cancel(other)
                    yield result
                elif lost := self._dead() - dead:
                    # Where a machine goes without a word, as by a power cut, Ray knows within a
                    # minute but waits for its answers for many. Which tasks those are it does
                    # not say; done twice by others they do no harm.
                    dead |= lost
                    for number, task in in_hand.items():
                        waiting[perform.remote(key, held, task)] = number
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _dead(self) -> set[str]:
        """Machines that were there and are not any more."""
        return {node["NodeID"] for node in self._connect().nodes() if not node["Alive"]}

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, SamfeatError):
                raise error.cause from None
            if "No module named 'samfeat_hloc'" in str(error):
                raise SamfeatError(
                    "--workers ray",
                    "the workers do not have samfeat_hloc",
                    "install the same version for their Python",
                ) from None
            raise
        except errors.RayError as error:
            raise SamfeatError(
                "--workers ray",
                f"a batch failed: its worker died {_RETRIES + 1} times ({_first_line(error)})",
                (
                    "give the workers more memory, or --batch-size a smaller number, and run "
                    "the same command again"
                ),
            ) from error

    def _slots(self, device: str) -> int:
        """Tasks at a time; asked each time, as machines may come and go."""
        return max(1, int(self._resources().get("GPU" if device == "cuda" else "CPU", 0)))

    def _resources(self) -> dict[str, float]:
        found: dict[str, float] = self._connect().cluster_resources()
        return found

    def _connect(self) -> Any:
        if self._connected:
            return self._ray
        if not self._ray.is_initialized():
            # Ray reports its use over the network unless told not to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            address = self.address or os.environ.get("RAY_ADDRESS") or _LOCAL
            try:
                _reach(address)
                self._ray.init(address=address, logging_level=logging.WARNING)
            except Exception as error:  # Ray raises bare ones too
                what, mend = "Ray does not start", "see the logs in /tmp/ray"
                if address != _LOCAL:
                    what = f"no cluster answers at {address}"
                    mend = "give the address of one that runs, and RAY_AUTH_MODE=token if it asks"
                why = _first_line(error)
                raise SamfeatError("--workers ray", f"{what} ({why})", mend) from None
            self._owned = True
        self._connected = True
        found = self._resources()
        logger.info(
            "ray: %g processors, %g GPUs on %d machines",
            found.get("CPU", 0),
            found.get("GPU", 0),
            sum(node["Alive"] for node in self._ray.nodes()),
        )
        return self._ray


@contextmanager
def chosen(
    workers: str | None, address: str | None = None, device: str | None = None
) -> Iterator[tuple[int | None, Cluster | None]]:
    """What ``--workers`` and ``--ray-address`` say: a number of threads, or a cluster.

    Raises:
        SamfeatError: neither a number from 1 nor ``ray``; Ray is not installed; a ``--device``
            beside it.
    """
    if workers == RAY:
        if device is not None:
            raise SamfeatError("--device", "with --workers ray the cluster's count", "leave it out")
        with Cluster(address) as cluster:
            yield None, cluster
        return
    if address is not None:
        raise SamfeatError("--ray-address", "it belongs to --workers ray")
    if workers is not None and (not workers.isdecimal() or int(workers) < 1):
        raise SamfeatError(f"--workers {workers}", "give a number from 1, or ray")
    yield None if workers is None else int(workers), None


_held: tuple[str, Any] = ("", None)  # a worker's work, from task to task


def _perform(key: str, held: list[Any], task: Any) -> Any:
    """In a worker: do one task, with the work that is kept or has to be fetched first."""
    global _held
    if _held[0] != key:
        _held = ("", None)  # frees the last stage's before the next is there
        _held = (key, import_module(RAY).get(held[0]))
    try:
        return _held[1](task)
    except SamfeatError as error:
        machine = socket.gethostname()
        if machine == held[1]:
            raise
        where = f"on {machine}"
        if Path(error.subject).is_absolute() and not Path(error.subject).exists():
            where += ", which has to see the same files under the same paths"
        raise type(error)(error.subject, f"{error.problem} ({where})", error.mend) from None


def _reach(address: str) -> None:
    """Raise an OSError where nothing listens; Ray itself would try again for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
