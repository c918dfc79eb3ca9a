"""A teacher looks at a folder of photos and leaves what it saw in a cache."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from tqdm import tqdm

from .. import images
from ..errors import SamfeatError
from ..localization import provenance
from ..localization.h5store import Group, SegmentWriter
from .cache import BUDGET, FORMAT, MAP_SIDE, TeacherCache, pack
from .maps import working_image
from .reduction import RELATION_ERROR
from .registry import Photo, Teacher, TeacherOptions, load_teacher

logger = logging.getLogger(__name__)

_MOST_PIXELS = 1 << 22  # of a photo given to a teacher; more add nothing at their working sizes


@dataclass(frozen=True)
class Job:
    """What a process needs to teach batches of photos."""

    image_dir: Path
    teacher: str
    options: TeacherOptions
    raw: bool

    def sources(self, names: Sequence[str]) -> dict[str, str]:
        """What stands for each photo: its size in bytes."""
        return {n: f"{(self.image_dir / n).stat().st_size} bytes" for n in names}

    def groups(self, teacher: Teacher, names: Sequence[str]) -> dict[str, Group]:
        """The cache's groups of a batch of photos."""
        photos, sizes = [], []
        for name in names:
            pixels = images.read_image(self.image_dir / name)
            sizes.append((pixels.shape[1], pixels.shape[0]))
            photos.append(Photo(name, _bounded(pixels)))
        sources = self.sources(names)
        return {
            photo.name: pack(taught, size, sources[photo.name], raw=self.raw)
            for photo, size, taught in zip(photos, sizes, teacher.teach(photos), strict=True)
        }


def main(
    image_dir: Path,
    output: Path,
    *,
    teacher: str,
    options: TeacherOptions,
    raw: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the cache of all photos of a folder; go on where an interrupted run left off.

    Arguments:
        raw: keep whole embeddings in float16 (2 MB a photo for SAM).
        device: where to compute; None for all GPUs (a process each), or the processor.
        batch_size: photos through the teacher at once; None for 4 on a GPU, 1 on a processor.
        overwrite: start anew instead of refusing a cache that was made differently.

    Raises:
        SamfeatError: no photos, one that is broken, something the teacher needs is missing, or a
            cache made differently. What is taught so far is kept.
    """
    job = Job(Path(image_dir), teacher, options, raw)
    names = images.list_images(job.image_dir)
    devices = _devices() if device is None else [device]
    first = load_teacher(teacher, options, devices[0])
    config = {"teacher": first.name, "raw": raw, "map_side": MAP_SIDE, **first.config}
    if not raw:
        config |= {"budget": BUDGET, "relation_error": RELATION_ERROR}
    record = provenance.made_by("teach", config, {}, first.weights_sha256)
    sources = job.sources(names)
    with SegmentWriter(output, record, overwrite=overwrite, compare_inputs=False) as writer:
        if writer.is_finished(sources):
            logger.info("teach: %s is there already, skipped", output)
            return output
        left = [name for name in names if writer.done.get(name) != sources[name]]
        if len(left) < len(names):
            logger.info("teach: %d of %d photos are done already", len(names) - len(left),
                        len(names))  # fmt: skip
        size = batch_size or (1 if devices[0] == "cpu" else 4)
        batches = [left[i : i + size] for i in range(0, len(left), size)]
        with (
            tqdm(total=len(left), desc=f"teach ({teacher})", unit="photo") as progress,
            _taught(job, first, devices, batches) as results,
        ):
            for groups in results:
                writer.add(groups)
                progress.update(len(groups))
        text = h5py.string_dtype()
        attributes = {
            key: np.array(value, dtype=text)
            for key, value in (("format", FORMAT), ("teacher", first.name),
                               ("weights_sha256", first.weights_sha256 or ""))
        }  # fmt: skip
        writer.finish(attributes=attributes)
    return output


def summary(cache: TeacherCache) -> str:
    """What the cache costs and how precise its relations are, in a line."""
    sizes = np.array([cache.bytes(name) for name in cache.names]) / 1000
    errors = np.array([cache.relation_error(name) for name in cache.names])
    text = (
        f"{len(cache)} photos, {sizes.mean():.0f} KB each (at most {sizes.max():.0f}); relation"
        f" matrix: mean absolute error {errors.mean():.4f} (at most {errors.max():.4f})"
    )
    if over := int((errors > RELATION_ERROR).sum()):
        text += f"; {over} photos are over {RELATION_ERROR}: {BUDGET // 1000} KB do not hold more"
    return text


@contextmanager
def _taught(
    job: Job, first: Teacher, devices: Sequence[str], batches: Sequence[Sequence[str]]
) -> Iterator[Iterator[dict[str, Group]]]:
    """The groups of all batches, from this process or from one on each device."""
    if len(devices) == 1 or len(batches) == 1:
        yield (job.groups(first, batch) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_start, initargs=(job, free)
    ) as pool:
        try:
            yield _finished([pool.submit(_teach_batch, batch) for batch in batches])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(waiting: list[Future[dict[str, Group]]]) -> Iterator[dict[str, Group]]:
    """Results as they come. A pool of multiprocessing would wait for ever for a killed process."""
    try:
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool:
        raise SamfeatError(
            "teach: a process of it was killed, perhaps for want of memory; run the same command"
            " again, with a smaller --batch-size if it dies again"
        ) from None


_process: dict[str, Any] = {}  # of a process of the pool: its job and its teacher


def _start(job: Job, free: SimpleQueue[str]) -> None:
    _process.update(job=job, teacher=load_teacher(job.teacher, job.options, free.get()))


def _teach_batch(names: Sequence[str]) -> dict[str, Group]:
    groups: dict[str, Group] = _process["job"].groups(_process["teacher"], names)
    return groups


def _devices() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def _bounded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height * width <= _MOST_PIXELS:
        return pixels
    return working_image(pixels, round(max(height, width) * (_MOST_PIXELS / height / width) ** 0.5))
