"""Matches of many pairs of images into one file of hloc's format."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError, require_known
from ..feature.halves import as_floats
from ..feature.matching import in_tiles, mutual_in_tiles, nearest_neighbours
from ..feature.matching_batches import batches, fits, match_batch, stacked, takes_halves
from ..files import provenance
from ..files.feature_readers import check_kind, pair_name, read_descriptors
from ..files.h5arrays import group_names, open_hdf5
from ..files.h5store import Group, SegmentWriter
from ..files.pair_lists import read_pairs, unique_pairs
from ..parallel.cluster import Cluster
from ..parallel.devices import device_of, to_device, to_host
from ..parallel.workers import Workers, named_failures, sharing_torch
from ..progress import tqdm

logger = logging.getLogger(__name__)

CACHE_BYTES = 1 << 30
_PAIRS_A_TASK = 128  # on Ray: enough that its neighbours share most images
_WORKER_CACHE_BYTES = 1 << 28  # of each worker, which may be many on a machine
_TOGETHER = 1 << 14  # descriptors that one thread matches at once on a CPU, of each side's images
_READ_AT_ONCE = 32  # pairs whose descriptors are read while others are matched on a GPU

_Named = tuple[tuple[Tensor, Tensor], str]  # descriptors of a pair, and its name for messages


@dataclass(frozen=True)
class MatchConfig:
    """How to match.

    mutual: keep a match only where each descriptor is the other's nearest.
    distance_threshold: least upper bound of the distance ``sqrt(2 - 2 cos)``; None keeps all.
    ratio_threshold: bound of the nearest's distance over the second nearest's; None keeps all.
    """

    mutual: bool = True
    distance_threshold: float | None = None
    ratio_threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("distance_threshold", "ratio_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 2:
                raise SamfeatError(name, f"{value!r} is not possible", "give a number in (0, 2]")

    def asdict(self) -> dict[str, Any]:
        """The options as plain values."""
        return asdict(self)


def main(
    pairs: Path,
    features: Path,
    output: Path,
    *,
    features_ref: Path | None = None,
    config: MatchConfig | None = None,
    device: str | None = None,
    workers: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    overwrite: bool = False,
    cluster: Cluster | None = None,
) -> Path:
    """Match the pairs of a pairs file into ``output``.

    A group a pair, named as :func:`pair_name` says: ``matches0`` (N0,) int16 (int32 where image
    1 has more than 32767 keypoints), the index of the keypoint in image 1 or -1, and
    ``matching_scores0`` (N0,) float16. A pair and its reverse are matched once. Pairs that the
    file already has are kept when it was made from the same features with the same configuration.

    Arguments:
        pairs: the pairs file.
        features: features of the images named first.
        features_ref: features of the images named second, where they are in another file.
        config: how to match; None for mutual nearest neighbours without thresholds.
        device: where to compute, such as cuda:1; see :func:`..parallel.devices.device_of`.
        cache_bytes: memory for descriptors of the images used last, of each of the two files.
        workers: pairs matched at a time on a CPU; None for as many as torch has threads.
        overwrite: match all pairs anew.
        cluster: where to match; None for here. Its devices count then, not ``device``.

    Raises:
        SamfeatError: images without features; descriptors of different length, of another shape
            or with NaN; an output made from other features or with another configuration; no such
            device.
    """
    config = config or MatchConfig()
    device = str(device_of(device)) if cluster is None else cluster.device
    wanted = unique_pairs(read_pairs(pairs))
    inputs = {"features": provenance.file_hash(features)}
    if features_ref is not None:
        inputs["features_ref"] = provenance.file_hash(features_ref)
    made_by = provenance.made_by("matches", config.asdict(), inputs)
    with SegmentWriter(output, made_by, overwrite=overwrite) as writer:
        by_group = {pair_name(*pair): pair for pair in wanted}
        if len(by_group) < len(wanted):
            clash = next(pair for pair in wanted if by_group[pair_name(*pair)] != pair)
            raise SamfeatError(
                pairs,
                f"two pairs have the same name {pair_name(*clash)} in a match file",
                "rename one image",
            )
        todo = [
            pair
            for group, pair in by_group.items()
            if group not in writer.done and pair_name(pair[1], pair[0]) not in writer.done
        ]
        if not todo and writer.is_finished(
            {group: "" for group in by_group if group in writer.done}
        ):
            return output
        if len(todo) < len(by_group):
            done = len(by_group) - len(todo)
            logger.info("matches: %d of %d pairs are done already", done, len(by_group))
        del by_group, wanted  # lists of names are all that grows with the pairs
        with _Matching(features, features_ref, config, device, cache_bytes) as matching:
            matching.check_names(todo, pairs)
            ordered = for_locality(todo)
            if cluster is None:
                found: Iterable[dict[str, Group]] = matching.groups(ordered, workers=workers)
            else:
                tasks = cluster.batches(ordered, _PAIRS_A_TASK, device=device)
                found = cluster.map(matching, tasks, device=device)
            with tqdm(total=len(ordered), desc="matches", unit="pair") as progress:
                for groups in found:
                    writer.add(groups)
                    progress.update(len(groups))
        return writer.finish()


class _Matching:
    """Pairs in, their groups out. A pickled copy opens the files anew, with a smaller cache."""

    def __init__(
        self,
        features: Path,
        features_ref: Path | None,
        config: MatchConfig,
        device: str,
        cache_bytes: int,
    ) -> None:
        self.config = config
        self._cache0 = self._cache1 = DescriptorCache(features, device, limit=cache_bytes)
        if features_ref is not None:
            self._cache1 = DescriptorCache(features_ref, device, limit=cache_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        cache0, cache1 = self._cache0, self._cache1
        reference = None if cache1 is cache0 else cache1.path.absolute()
        limit = min(cache0.limit, _WORKER_CACHE_BYTES)
        return _Matching, (cache0.path.absolute(), reference, self.config, cache0.device, limit)

    def __enter__(self) -> _Matching:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache0.close()
        self._cache1.close()

    def check_names(self, listed: Sequence[tuple[str, str]], pairs: Path) -> None:
        self._cache0.check_names((name for name, _ in listed), pairs)
        self._cache1.check_names((name for _, name in listed), pairs)

    def __call__(self, listed: Sequence[tuple[str, str]]) -> dict[str, Group]:
        return {name: g for groups in self.groups(listed, workers=1) for name, g in groups.items()}

    def groups(
        self, listed: Sequence[tuple[str, str]], *, workers: int | None
    ) -> Iterator[dict[str, Group]]:
        descriptors = self._read(listed)
        names = (f"{a} {b}" for a, b in listed)
        found = match_many(descriptors, self.config, workers=workers, names=names)
        for pair, group in zip(listed, found, strict=True):
            yield {pair_name(*pair): group}

    def _read(self, listed: Sequence[tuple[str, str]]) -> Iterator[tuple[Tensor, Tensor]]:
        def read(some: Sequence[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
            return [_descriptors(a, self._cache0, b, self._cache1) for a, b in some]

        if in_tiles(torch.device(self._cache0.device)):
            yield from (pair for one in listed for pair in read([one]))
            return
        starts = range(0, len(listed), _READ_AT_ONCE)
        with Workers(1, "reading") as pool:
            tasks = (listed[start : start + _READ_AT_ONCE] for start in starts)
            yield from chain.from_iterable(pool.map(read, tasks, name=lambda some: str(some[0])))


def match_many(
    pairs: Iterable[tuple[Tensor, Tensor]], config: MatchConfig, *, workers: int | None = None,
    names: Iterable[str] = (),
) -> Iterator[Group]:  # fmt: skip
    """Match pairs of descriptors (D, N0), (D, N1), a few at a time; groups come in their order.

    On a CPU a few pairs at a time go side by side, each few with a share of torch's threads; on
    other devices whole batches, each while the one before is brought to the host.

    Arguments:
        names: of the pairs, for messages.
    """
    pairs = iter(pairs)
    first = next(pairs, None)
    if first is None:
        return
    pairs = chain([first], pairs)
    if not in_tiles(first[0].device):
        waiting: Callable[[], list[Group]] | None = None
        for batch in batches(pairs, first[0].device):
            begun = _begin(batch, config)
            yield from waiting() if waiting else ()
            waiting = begun
        yield from waiting() if waiting else ()
        return
    named = _together(zip(pairs, chain(names, repeat("")), strict=False))
    if (workers or torch.get_num_threads()) == 1:
        for some in named:
            yield from _match_together([pair for pair, _ in some], config)
        return
    with sharing_torch(workers, "matching") as pool:
        for groups, failed in pool.map(
            lambda some: _match_named(some, config), named, name=lambda some: some[0][1]
        ):
            yield from groups
            if failed is not None:
                raise failed


def for_locality(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Order pairs so that the images of neighbouring pairs are mostly the same.

    Images are numbered breadth-first over the graph of pairs, from the first on; pairs then go by
    their later image, as in an elimination of a banded matrix. Depends on the list alone.
    """
    neighbours: dict[str, list[str]] = defaultdict(list)
    for name0, name1 in pairs:
        neighbours[name0].append(name1)
        neighbours[name1].append(name0)
    number: dict[str, int] = {}
    for start in neighbours:
        if start in number:
            continue
        number[start] = len(number)
        waiting = deque([start])
        while waiting:
            for name in neighbours[waiting.popleft()]:
                if name not in number:
                    number[name] = len(number)
                    waiting.append(name)

    def rank(pair: tuple[str, str]) -> int:
        low, high = sorted((number[pair[0]], number[pair[1]]))
        return high * len(number) + low

    return sorted(pairs, key=rank)


class DescriptorCache:
    """Descriptors of a feature file, the most recently used ones kept on the device."""

    def __init__(self, path: Path, device: str, *, limit: int = CACHE_BYTES) -> None:
        self.path = path
        self.device = device
        self.limit = limit
        self.reads = 0
        self._bytes = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._file: h5py.File = open_hdf5(path)

    def __enter__(self) -> DescriptorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory and close the file; twice does no harm."""
        self._file.close()
        self._kept.clear()

    def check_names(self, names: Any, pairs: Path) -> None:
        """Raise a SamfeatError that names the images without features."""
        known = set(group_names(self._file, "descriptors"))
        if not known:
            check_kind(self._file, self.path, "feature")
        require_known(
            names, known, pairs, f"no features in {self.path} of",
            "extract them first or correct the pairs",
        )  # fmt: skip

    def get(self, name: str) -> Tensor:
        """Descriptors (D, N) on the device, float32, or float16 where they are stored so and the
        device can match them; each one's values lie together in memory."""
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
            return found
        found = self._read(name)
        self.reads += 1
        self._kept[name] = found
        self._bytes += found.nbytes
        while self._bytes > self.limit and len(self._kept) > 2:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return found

    def _read(self, name: str) -> Tensor:
        rows = read_descriptors(self._file, name, self.path)
        device = torch.device(self.device)
        if in_tiles(device):
            return torch.from_numpy(as_floats(rows)).t()
        # They go to the device as they are stored: (D, N), mostly halves.
        dtype = np.float16 if rows.dtype == np.float16 else np.float32
        stored = torch.from_numpy(rows.T.astype(dtype, copy=False))
        there = to_device(stored, device)
        return (there if takes_halves(device) else there.float()).t().contiguous().t()


def _descriptors(
    name0: str, cache0: DescriptorCache, name1: str, cache1: DescriptorCache
) -> tuple[Tensor, Tensor]:
    descriptors0, descriptors1 = cache0.get(name0), cache1.get(name1)
    if descriptors0.shape[0] != descriptors1.shape[0]:
        raise SamfeatError(
            cache1.path,
            (
                f"descriptors of {name1} have {descriptors1.shape[0]} values, those of "
                f"{name0} in {cache0.path} {descriptors0.shape[0]}"
            ),
            "extract both with the same network",
        )
    return descriptors0, descriptors1


def _match(descriptors0: Tensor, descriptors1: Tensor, config: MatchConfig) -> Group:
    pair = descriptors0.float(), descriptors1.float()
    matches, scores = nearest_neighbours(*pair, **config.asdict())
    matches = matches.to(_index_type(descriptors1.shape[1]))
    return _group(matches.cpu().numpy(), scores.half().cpu().numpy())


def _together(named: Iterable[_Named]) -> Iterator[list[_Named]]:
    """Pairs in lists of about as many descriptors each, one pair at least."""
    some: list[_Named] = []
    descriptors = 0
    for item in named:
        larger = max(side.shape[1] for side in item[0])
        if some and descriptors + larger > _TOGETHER:
            yield some
            some, descriptors = [], 0
        some.append(item)
        descriptors += larger
    if some:
        yield some


def _match_named(
    named: Sequence[_Named], config: MatchConfig
) -> tuple[list[Group], Exception | None]:
    """Match a few pairs; of those before one that fails their groups, and the error to raise."""
    with suppress(Exception):
        return _match_together([pair for pair, _ in named], config), None
    groups = []
    for pair, name in named:
        try:
            with named_failures(name, "matching"):
                groups.append(_match(*pair, config))
        except Exception as failed:
            return groups, failed
    return groups, None


def _match_together(pairs: Sequence[tuple[Tensor, Tensor]], config: MatchConfig) -> list[Group]:
    """Match a few pairs on a CPU in one thread, together where they can be."""
    plain = config.mutual and not config.ratio_threshold
    none_empty = all(min(a.shape[1], b.shape[1]) for a, b in pairs)
    found = mutual_in_tiles(pairs, config.distance_threshold) if plain and none_empty else None
    if found is None:
        return [_match(*pair, config) for pair in pairs]
    matches, scores = found[0].numpy(), found[1].half().numpy()
    groups = []
    for (first, second), row, values in zip(pairs, matches, scores, strict=True):
        index = np.int16 if _index_type(second.shape[1]) == torch.int16 else np.int32
        count = first.shape[1]
        groups.append(_group(row[:count].astype(index), values[:count].copy()))
    return groups


def _begin(
    pairs: Sequence[tuple[Tensor, Tensor]], config: MatchConfig
) -> Callable[[], list[Group]]:
    """Begin to match a batch; what is returned waits for its groups."""
    if len(pairs) == 1 and not fits(*pairs[0]):
        return lambda: [_match(*pairs[0], config)]
    sizes = [(a.shape[1], b.shape[1]) for a, b in pairs]
    full = [pair for pair, size in zip(pairs, sizes, strict=True) if min(size)]
    if full:
        matches, scores = match_batch(stacked(full), **config.asdict())
        dtype = _index_type(max(count1 for _, count1 in sizes))
        # One copy brings both: halves travel as the whole numbers of the same bits.
        packed = torch.stack([matches.to(dtype), scores.half().view(torch.int16).to(dtype)], 1)
        arrived = to_host([packed])

    def groups() -> list[Group]:
        found = iter(arrived()[0].numpy() if full else ())
        result = []
        for count0, count1 in sizes:
            part = next(found) if count0 and count1 else np.array([[-1], [0]]).repeat(count0, 1)
            index = np.int16 if _index_type(count1) == torch.int16 else np.int32
            scores = part[1, :count0].astype(np.int16).view(np.float16)
            result.append(_group(part[0, :count0].astype(index), scores))
        return result

    return groups


def _index_type(count: int) -> torch.dtype:
    """Of indices below ``count``; int16, as hloc has it, where they fit."""
    return torch.int16 if count <= np.iinfo(np.int16).max + 1 else torch.int32


def _group(matches: np.ndarray, scores: np.ndarray) -> Group:
    return Group({"matches0": matches, "matching_scores0": scores})
