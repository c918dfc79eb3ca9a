"""Nearest neighbours of many pairs at once: how a GPU is kept busy.

A batch of pairs is a handful of large operators whatever the number of pairs, and none of them
waits for the device: one product, the largest of rows and of columns with their indices, and the
checks. Images with fewer descriptors than others of the batch are padded; what the padding is
similar to is overwritten with minus infinity before anything is compared. Nothing here needs CUDA.

Descriptors that are stored as halves stay halves on CUDA: products of halves are exact in float32,
where they are summed, so the similarities are those of float32 descriptors at a quarter of the
time.

Of equal similarities the first counts, in rows and in columns. hloc's matcher takes `topk`, which
gives the first too for one neighbour on CUDA and, from 64 descriptors on, on a processor; among
fewer, and for the two neighbours of the ratio test, torch promises no order of equals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..parallel.devices import to_device

_MOST_PAIRS = 64
_SIMILARITIES = {"cuda": 1 << 29}  # of a batch at most: 2 GB in float32
_SIMILARITIES_ELSEWHERE = 1 << 26
# Where `max` with indices takes the first of equal values: torch's reductions compare the indices.
_FIRST_OF_EQUALS = ("cpu", "cuda")


class PairBatch(NamedTuple):
    """Descriptors of B pairs, padded. rows0: (B, N0, D), rows1: (B, N1, D), float32, or float16
    where :func:`takes_halves`; counts0, counts1: how many of them are descriptors of each image, 1
    at least."""

    rows0: Tensor
    rows1: Tensor
    counts0: Sequence[int]
    counts1: Sequence[int]


@torch.inference_mode()
def match_batch(
    batch: PairBatch,
    *,
    mutual: bool = True,
    distance_threshold: float | None = None,
    ratio_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What :func:`.matching.nearest_neighbours` says of each pair of a batch.

    Returns:
        ``matches0`` (B, N0) int64, -1 for none, and ``scores0`` (B, N0) float32, both without
        meaning in the padding.
    """
    rows0, rows1, counts0, counts1 = batch
    device = rows0.device
    similarity = _products(rows0, rows1.transpose(1, 2))
    on_device = to_device(torch.tensor([counts0, counts1]), device)[..., None]
    _overwrite(similarity, min(counts1), on_device[1])
    _overwrite(similarity.transpose(1, 2), min(counts0), on_device[0])

    # As in hloc, the second nearest is not asked for where an image has one descriptor.
    single = (on_device == 1).any(0)

    def side(dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """The largest similarities, their indices, and whether the thresholds hold."""
        best, index = _largest(similarity, dim)
        kept = torch.ones_like(index, dtype=torch.bool)
        if ratio_threshold:
            second = _second(similarity, dim, best, index)
            kept = single | (2 * (1 - best) <= ratio_threshold**2 * (2 * (1 - second)))
        if distance_threshold:
            kept &= 2 * (1 - best) <= distance_threshold**2
        return best, index, kept

    best, index, kept = side(2)
    scores = torch.where(kept, (best + 1) / 2, 0)
    if mutual:
        _, index1, kept1 = side(1)
        back = torch.where(kept1, index1, -1).gather(1, index)
        kept = kept & (back == torch.arange(rows0.shape[1], device=device))
    return torch.where(kept, index, -1), scores


def takes_halves(device: torch.device) -> bool:
    """Whether float16 descriptors can be matched there as they are."""
    return device.type == "cuda" and hasattr(torch.ops.aten.bmm, "dtype")


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, N0, D) times (B, D, N1), float32."""
    if rows.dtype == torch.float16 and takes_halves(rows.device):
        return torch.bmm(rows, columns, out_dtype=torch.float32)
    return torch.bmm(rows.float(), columns.float())


def batches(
    pairs: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Pairs of descriptors (D, N0), (D, N1), in their order, as many together as fit."""
    most = most_similarities(device)
    some: list[tuple[Tensor, Tensor]] = []
    length0 = length1 = 0
    for pair in pairs:
        longest0 = max(length0, pair[0].shape[1])
        longest1 = max(length1, pair[1].shape[1])
        if some and (len(some) == _MOST_PAIRS or (len(some) + 1) * longest0 * longest1 > most):
            yield some
            some, longest0, longest1 = [], pair[0].shape[1], pair[1].shape[1]
        some.append(pair)
        length0, length1 = longest0, longest1
    if some:
        yield some


def most_similarities(device: torch.device) -> int:
    """How many a batch may have, by the memory that is free."""
    most = _SIMILARITIES.get(device.type, _SIMILARITIES_ELSEWHERE)
    if device.type == "cuda" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(device)
        most = min(most, max(free // 16, _SIMILARITIES_ELSEWHERE))
    return most


def fits(descriptors0: Tensor, descriptors1: Tensor) -> bool:
    """Whether a pair (D, N0), (D, N1) can be a batch."""
    return descriptors0.shape[1] * descriptors1.shape[1] <= most_similarities(descriptors0.device)


def stacked(pairs: Sequence[tuple[Tensor, Tensor]]) -> PairBatch:
    """Descriptors (D, N0), (D, N1) of pairs, none empty, as a batch.

    An image that is in several pairs is copied once before it is spread.
    """
    place: dict[int, int] = {}
    images: list[Tensor] = []
    start = 0
    for descriptors in (image for pair in pairs for image in pair):
        if id(descriptors) not in place:
            place[id(descriptors)] = start
            images.append(descriptors.t())
            start += descriptors.shape[1]
    flat = torch.cat(images)
    sides = []
    for side in (0, 1):
        counts = [pair[side].shape[1] for pair in pairs]
        starts = [place[id(pair[side])] for pair in pairs]
        where = to_device(torch.tensor([starts, counts]), flat.device)[..., None]
        # Beyond its last descriptor an image repeats it.
        row = torch.arange(max(counts), device=flat.device)
        index = where[0] + torch.minimum(row, where[1] - 1)
        rows = flat.index_select(0, index.flatten()).view(*index.shape, -1)
        sides.append((rows, counts))
    (rows0, counts0), (rows1, counts1) = sides
    return PairBatch(rows0, rows1, counts0, counts1)


def _overwrite(similarity: Tensor, least: int, counts: Tensor) -> None:
    """Minus infinity in the columns from counts (B, 1) on, which are ``least`` at least."""
    columns = similarity.shape[2]
    if least < columns:
        padding = torch.arange(least, columns, device=counts.device) >= counts
        similarity[:, :, least:].masked_fill_(padding[:, None], -torch.inf)


def _largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Largest values and the first index of each, int64."""
    if x.device.type in _FIRST_OF_EQUALS:
        values, index = x.max(dim)
        return values, index
    values = x.amax(dim, keepdim=True)
    shape = [1, 1, 1]
    shape[dim] = x.shape[dim]
    places = torch.arange(x.shape[dim], device=x.device, dtype=torch.int32).view(shape)
    index = torch.where(x == values, places, x.shape[dim] - 1).amin(dim)
    return values.squeeze(dim), index.long()


def _second(x: Tensor, dim: int, largest: Tensor, index: Tensor) -> Tensor:
    """The largest values but those at the indices; ``x`` is as before afterwards."""
    index = index.unsqueeze(dim)
    second = x.scatter_(dim, index, -torch.inf).amax(dim)
    x.scatter_(dim, index, largest.unsqueeze(dim))
    return second
