"""A teacher looks at a folder of photos and leaves what it saw in a cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from ..errors import SamfeatError
from ..files import images, provenance
from ..files.h5store import Group, SegmentWriter
from ..files.image_folders import list_images
from ..parallel.devices import Work, all_devices, device_of, on_devices
from ..parallel.image_checks import refuse_broken
from ..progress import tqdm
from .cache import BUDGET, FORMAT, MAP_SIDE, TeacherCache, pack
from .labels import Labels
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
    skip_unlabelled: bool = False,
) -> Path:
    """Write the cache of all photos of a folder; go on where an interrupted run left off.

    Arguments:
        raw: keep whole embeddings in float16 (2 MB a photo for SAM).
        device: where to compute; None for all GPUs (a process each), or the processor.
        batch_size: photos through the teacher at once; None for 4 on a GPU, 1 on a processor.
        overwrite: start anew instead of refusing a cache that was created with other settings.
        skip_unlabelled: leave out photos that the teacher `labels` has no map of.

    Raises:
        SamfeatError: no photos, one that is broken, something the teacher needs is missing, or a
            cache created with other settings. What is taught so far is kept.
    """
    job = Job(Path(image_dir), teacher, options, raw)
    names = list_images(job.image_dir, for_lists=False)
    devices = all_devices() if device is None else [str(device_of(device))]
    first = load_teacher(teacher, options, devices[0])
    if skip_unlabelled:
        names = _labelled(first, names)
    config = {"teacher": first.name, "raw": raw, "map_side": MAP_SIDE, **first.config}
    if not raw:
        config |= {"budget": BUDGET, "relation_error": RELATION_ERROR}
    record = provenance.made_by("teach", config, {}, first.weights_sha256)
    sources = job.sources(names)
    with SegmentWriter(output, record, overwrite=overwrite, compare_inputs=False) as writer:
        if writer.is_finished(sources):
            return output
        left = [name for name in names if writer.done.get(name) != sources[name]]
        refuse_broken(job.image_dir, left)
        if len(left) < len(names):
            logger.info("teach: %d of %d photos are done already", len(names) - len(left),
                        len(names))  # fmt: skip
        size = batch_size or (1 if devices[0] == "cpu" else 4)
        batches = [left[i : i + size] for i in range(0, len(left), size)]
        with (
            tqdm(total=len(left), desc=f"teach ({teacher})", unit="photo") as progress,
            on_devices(
                partial(_work, job), devices, batches,
                command="teach", first=partial(job.groups, first),
            ) as results,
        ):  # fmt: skip
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


def _labelled(teacher: Teacher, names: Sequence[str]) -> list[str]:
    """The photos that the teacher `labels` has label maps of."""
    if not isinstance(teacher, Labels):
        raise SamfeatError(
            "--skip-unlabelled", f"the teacher {teacher.name} looks at every photo", "leave it out"
        )
    known = [name for name in names if teacher.knows(name)]
    if not known:
        raise SamfeatError("--label-maps", "has no label map of any photo", "check their names")
    logger.warning("teach: %d of %d photos have label maps", len(known), len(names))
    return known


def _work(job: Job, device: str) -> Work[dict[str, Group]]:
    return partial(job.groups, load_teacher(job.teacher, job.options, device))


def _bounded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height * width <= _MOST_PIXELS:
        return pixels
    return working_image(pixels, round(max(height, width) * (_MOST_PIXELS / height / width) ** 0.5))
