"""One process, or one for each GPU where ``torchrun`` started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..parallel.devices import device_of

PATIENCE = timedelta(hours=2)  # while the first process packs photos, or validates


def start(device: str | None = None) -> tuple[torch.device, int, int]:
    """Join the other processes.

    Arguments:
        device: where to compute; with several processes each takes a GPU of its own of that type.

    Returns:
        This process's device, its rank and the number of processes.

    Raises:
        SamfeatError: no such device.
    """
    found = device_of(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if found.type == "cuda":
        if found.index is None or world > 1:
            found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(found)
    if world > 1:
        backend = "nccl" if found.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    return found, rank, world


def in_parallel(model: nn.Module, device: torch.device, world: int) -> nn.Module:
    """The model, averaging its gradients over the processes where there are several."""
    if world == 1:
        return model
    own_gpu = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=own_gpu)


def beside(device: torch.device) -> int:
    """How many processes may make data beside this one: its share of the processors where a GPU
    trains; none where the processors do."""
    share = (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", "1"))
    return 0 if device.type == "cpu" or share < 2 else min(share, 16)


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does the block, then all others do."""
    together = distributed.is_available() and distributed.is_initialized()
    first = together and distributed.get_rank() == 0
    if together and not first:
        distributed.barrier()
    yield
    if first:
        distributed.barrier()


def stop(world: int) -> None:
    """Wait for the others and leave."""
    if world > 1:
        distributed.barrier()
        distributed.destroy_process_group()
