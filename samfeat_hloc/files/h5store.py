"""HDF5 outputs that survive a kill: finished batches in small segment files, merged at the end.

An HDF5 file that dies while it is open for writing is often lost whole. So nothing is ever
written to the final file: a batch goes as one segment into ``<final>.parts/``, written under
another name, flushed to the disk and renamed. The merge is written beside the final file and then
renamed. A kill costs at most the batch in memory; the next run goes on after the last
segment.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from ..errors import SamfeatError, cause_of, in_one_line, writing
from ..progress import tqdm
from . import provenance
from .atomic import remove_left_behind, replacing, sync_folder, write_whole
from .h5arrays import open_hdf5, read_array, reading_hdf5
from .locks import sole_run
from .outputs import parts_of, say_skipped

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 16 << 20
SEGMENT_SECONDS = 10.0
_BLOCK = 1 << 16
SOURCE = "source"  # attribute of a group: what it was made from


@dataclass(frozen=True)
class Group:
    """One finished group: its arrays by name, their attributes, and what it was made from.

    compressed: keep the arrays with gzip; not for those that hloc's users read in a hurry.
    digits: arrays that are kept to so many decimal places, in as few bits as that takes. HDF5
        itself reads them as float32.
    """

    datasets: Mapping[str, np.ndarray]
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""
    compressed: bool = False
    digits: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.datasets.values()) + 1024


class SegmentWriter:
    """Writes groups of one HDF5 file batch by batch; a context manager that holds its lock.

    What is there already is kept when ``made_by`` agrees: groups of the final file and of segments
    that an interrupted run has left are in :attr:`done`. Leaving the context on an error still
    writes what is in memory; only :meth:`finish` makes the final file.

    Arguments:
        final: the file to make.
        made_by: its record, see :func:`.provenance.made_by`.
        overwrite: start without the groups of a final file that is there. Segments of an
            interrupted run with the same record are still used.
        compare_inputs: whether a file or segments made from other inputs are refused; not where
            the groups say themselves (``source``) what they were made from.

    Raises:
        SamfeatError: on entering: another run writes this file (its process id is named), the
            file or its segments were created with other settings, or the folder cannot be written.
    """

    def __init__(
        self,
        final: Path,
        made_by: Mapping[str, Any],
        *,
        overwrite: bool = False,
        compare_inputs: bool = True,
    ) -> None:
        self.final = Path(final)
        self.made_by = dict(made_by)
        self.overwrite = overwrite
        self.compare_inputs = compare_inputs
        self.parts = parts_of(self.final)
        self.done: dict[str, str] = {}  # group name -> source
        self._in_final: set[str] = set()
        self._segments: dict[Path, set[str]] = {}
        self._pending: dict[str, Group] = {}
        self._pending_bytes = 0
        self._written_at = time.monotonic()
        self._next = 0
        self._writing: _Segment | None = None

    def __enter__(self) -> SegmentWriter:
        with ExitStack() as stack:
            stack.enter_context(sole_run(self.final))
            remove_left_behind(self.final)
            self._read_final()
            self._read_segments()
            self._lock = stack.pop_all()
        self._written_at = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        except SamfeatError:
            if error is None:  # else the first error is the one to tell
                raise
        finally:
            self._lock.close()

    def is_finished(self, sources: Mapping[str, str]) -> bool:
        """Whether the final file holds all groups of these names, made from these sources; that
        it does is logged."""
        if self._segments or any(
            name not in self._in_final or self.done[name] != source
            for name, source in sources.items()
        ):
            return False
        say_skipped(self.made_by, self.final)
        return True

    def add(self, groups: Mapping[str, Group]) -> None:
        """Take finished groups by their names ("db/1.jpg" nests).

        Groups given together end up in one segment: after a kill either all or none are there.
        A segment is written beside what the caller does next; if that fails, the error is raised
        by a later call.
        """
        for name, group in groups.items():
            self._pending[name] = group
            self._pending_bytes += group.nbytes
            self.done[name] = group.source
        late = time.monotonic() - self._written_at > SEGMENT_SECONDS
        if late or self._pending_bytes > SEGMENT_BYTES:
            self._begin_segment()

    def flush(self) -> None:
        """Write what is in memory as one segment."""
        self._begin_segment()
        self._wait()

    def _begin_segment(self) -> None:
        self._wait()  # one at a time, so that memory is bounded
        if not self._pending:
            return
        path = self.parts / f"{self._next:06d}.h5"
        self._writing = _Segment(path, self._pending, self.made_by)
        self._next += 1
        self._pending, self._pending_bytes = {}, 0
        self._written_at = time.monotonic()

    def _wait(self) -> None:
        """Wait for the segment that is being written; if that failed, it is in memory again."""
        segment, self._writing = self._writing, None
        if segment is None:
            return
        segment.join()
        if segment.failed is not None:
            self._pending = {**segment.groups, **self._pending}
            self._pending_bytes = sum(group.nbytes for group in self._pending.values())
            raise segment.failed
        self._segments[segment.path] = set(segment.groups)

    def finish(
        self,
        *,
        made_by: Mapping[str, Any] | None = None,
        attributes: Mapping[str, np.ndarray] | None = None,
    ) -> Path:
        """Merge everything into the final file and remove the segments.

        Arguments:
            made_by: the record for the final file, where it differs from the segments'.
            attributes: arrays to keep as attributes of the root.
        """
        self.flush()
        record = dict(made_by or self.made_by)
        sources = [*([self.final] if self._in_final else []), *self._segments]
        with _causes(self.final):
            self._check_space(sources)
            with replacing(self.final) as place:
                self._merge(place, record, attributes or {})
            shutil.rmtree(self.parts, ignore_errors=True)
        self._segments = {}
        return self.final

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a group in a segment, by their names.

        Raises:
            SamfeatError: the segment is damaged.
        """
        self._wait()
        path = next(path for path, names in self._segments.items() if name in names)
        with open_hdf5(path) as file, reading_hdf5(path):
            return {key: read_array(file[name], key, path) for key in file[name]}

    def discard(self) -> None:
        """Remove all segments: what they hold is in an output of another kind now."""
        self._wait()
        self._pending, self._pending_bytes, self._segments = {}, 0, {}
        shutil.rmtree(self.parts, ignore_errors=True)

    def _read_final(self) -> None:
        if not self.final.exists():
            return
        if self.overwrite:
            provenance.check_replaceable_hdf5(self.made_by, self.final)
            return
        existing = provenance.read_hdf5(self.final)
        if existing is not None:
            provenance.check_stage(existing, self.made_by, self.final)
        provenance.check(existing, self.made_by, self.final, inputs=self.compare_inputs)
        with open_hdf5(self.final) as file, reading_hdf5(self.final):
            self.done = dict(_groups(file))
        self._in_final = set(self.done)

    def _read_segments(self) -> None:
        if not self.parts.is_dir():
            return
        dropped = 0
        for path in sorted(self.parts.iterdir()):
            if path.suffix != ".h5":  # a segment that a kill has cut off
                path.unlink()
                continue
            try:
                with h5py.File(path, "r") as file:
                    text = file.attrs[provenance.ATTRIBUTE]
                    found = dict(_groups(file))
                    existing = json.loads(text)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                if (cause := cause_of(error)) is not None:  # of the machine: the segment is good
                    raise SamfeatError(path, cause) from None
                logger.warning("%s: damaged, what was in it is done again", path)
                path.unlink()
                continue
            if provenance.differences(existing, self.made_by, inputs=self.compare_inputs):
                if not self.overwrite:
                    provenance.check(existing, self.made_by, self.parts, inputs=self.compare_inputs)
                path.unlink()
                dropped += 1
                continue
            self._segments[path] = set(found)
            self._next = int(path.stem) + 1
            self.done.update(found)
        if dropped:
            logger.info("%s: created with other inputs or options, started again", self.parts)

    def _check_space(self, sources: list[Path]) -> None:
        needed = sum(path.stat().st_size for path in sources)
        free = shutil.disk_usage(self.final.parent).free
        if free < needed:
            raise SamfeatError(
                self.final,
                (
                    f"the disk is too full to merge it ({needed >> 20} MB needed, {free >> 20} "
                    "MB free)"
                ),
                "free some space and run the same command again",
            )

    def _merge(
        self, temporary: Path, record: Mapping[str, Any], attributes: Mapping[str, np.ndarray]
    ) -> None:
        last = {name: path for path, names in self._segments.items() for name in names}
        kept = {self.final: sorted(name for name in self._in_final if name not in last)}
        for path, names in self._segments.items():
            kept[path] = sorted(name for name in names if last[name] == path)
        total = sum(len(names) for names in kept.values())
        with (
            h5py.File(temporary, "w", libver="latest") as merged,
            tqdm(total=total, desc=f"merge {self.final.name}", delay=2, leave=False) as progress,
        ):
            merged.attrs[provenance.ATTRIBUTE] = json.dumps(record)
            for name, value in attributes.items():
                merged.attrs[name] = value
            for path, chosen in kept.items():
                if not chosen:
                    continue
                with h5py.File(path, "r") as segment:
                    for name in chosen:
                        place = name.encode()
                        h5py.h5o.copy(segment.id, place, merged.id, place, lcpl=_nested())
                        progress.update()


class _Segment(Thread):
    """A segment that is being written. failed: why it could not be, once the thread has ended."""

    def __init__(self, path: Path, groups: Mapping[str, Group], made_by: Mapping[str, Any]) -> None:
        super().__init__(name=f"writing {path.name}", daemon=True)
        self.path = path
        self.groups = groups
        self.failed: BaseException | None = None
        self._made_by = made_by
        self.start()

    def run(self) -> None:
        try:
            image = _file_image(self.groups, self._made_by)
            with writing(self.path):
                if not self.path.parent.is_dir():
                    self.path.parent.mkdir()
                    sync_folder(self.path.parent.parent)
                write_whole(self.path, image)
        except BaseException as error:
            self.failed = error


def _groups(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Names and sources of the groups that hold datasets."""
    names: list[str] = []
    file.visit(names.append)
    leaves = {name.rpartition("/")[0] for name in names}
    inner = {name.rpartition("/")[0] for name in leaves}
    for name in leaves - inner - {""}:
        yield name, str(file[name].attrs.get(SOURCE, ""))


def _file_image(groups: Mapping[str, Group], made_by: Mapping[str, Any]) -> bytes:
    """The bytes of an HDF5 file, made in memory so that a full disk is a plain write error."""
    # At once as much memory as it takes: to grow costs three times as much as the rest.
    size = _BLOCK * (len(groups) + 1) + sum(group.nbytes for group in groups.values())
    memory = {"driver": "core", "backing_store": False, "block_size": size}
    with h5py.File("segment", "w", libver="latest", **memory) as file:
        file.attrs[provenance.ATTRIBUTE] = json.dumps(dict(made_by))
        for name, group in groups.items():
            target = h5py.Group(h5py.h5g.create(file.id, name.encode(), lcpl=_nested()))
            if group.source:
                target.attrs[SOURCE] = group.source
            for key, array in group.datasets.items():
                dataset = _dataset(target, key, array, group)
                for attribute, value in group.attributes.get(key, {}).items():
                    dataset.attrs[attribute] = value
        file.flush()
        return file.id.get_file_image()


def _dataset(target: h5py.Group, key: str, array: np.ndarray, group: Group) -> h5py.Dataset:
    if key in group.digits and array.size:
        digits = group.digits[key]
        # HDF5 rounds what lies above the array's least value: that has to be round
        array = np.round(array.astype(np.float64), digits).astype(np.float32)
        return target.create_dataset(key, data=array, scaleoffset=digits, chunks=array.shape)
    if group.compressed and array.size:
        return target.create_dataset(key, data=array, compression="gzip", chunks=array.shape)
    # as `create_dataset`, whose many options take several times as long as HDF5 itself
    array = np.ascontiguousarray(array)
    dtype = h5py.h5t.py_create(array.dtype, logical=True)
    dataset = h5py.h5d.create(
        target.id, key.encode(), dtype, h5py.h5s.create_simple(array.shape), _plain()
    )
    if array.size:
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return h5py.Dataset(dataset)


@cache
def _nested() -> Any:
    """How links are made: with the groups that they are in, names in UTF-8."""
    how = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    how.set_create_intermediate_group(True)
    how.set_char_encoding(h5py.h5t.CSET_UTF8)
    return how


@cache
def _plain() -> Any:
    """How datasets are made: without times, so that equal contents are equal files."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_obj_track_times(False)
    return how


@contextmanager
def _causes(path: Path) -> Iterator[None]:
    """Name the cause of a failed write in words."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = in_one_line(error)
        cause = cause_of(error) or f"cannot be written ({why}); check the folder"
        raise SamfeatError(path, cause) from error
