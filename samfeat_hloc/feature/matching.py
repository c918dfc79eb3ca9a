"""Mutual nearest neighbours of descriptors, in plain torch and bounded memory.

On a processor, where only mutual neighbours are asked for, no index is searched in the
similarities at all. A few rows of them at a time, in the cache, are reduced to the largest value of
each row and of each column, which costs a tenth of the product itself. A mutual pair is then where
the best value of a row and the best value of a column are one and the same number; as different
pairs may have equal similarities, the product of each such pair is looked at once more. Of
descriptors that are the same the first counts, as in hloc; different ones that are equally similar
to the last digit, which depends on the order of the sums, are taken as equal if both are mutual.

GPUs take whole batches of pairs: :mod:`.matching_batches`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from . import onednn
from .matching_batches import PairBatch, match_batch, most_similarities

# Similarities computed at a time: few enough to stay in the cache for the reductions that follow,
# enough rows to keep the matrix product fast.
_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 28}
_TILE = {"cpu": 1 << 20, "cuda": 1 << 28}  # the same where only maxima are taken
_ROUNDING = 4e-6  # of two ways to sum the same products, relative to the sum of their sizes


@torch.inference_mode()
def nearest_neighbours(
    descriptors0: Tensor,
    descriptors1: Tensor,
    *,
    mutual: bool = True,
    distance_threshold: float | None = None,
    ratio_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """For each descriptor of image 0 its nearest one in image 1, as hloc's matcher defines it.

    The dot product counts as cosine, so descriptors should have unit length; the squared distance
    is ``2 - 2 cos``. The similarity matrix is never held whole.

    Arguments:
        descriptors0: (D, N0) or a batch (B, D, N0), float32.
        descriptors1: (D, N1) or (B, D, N1).
        mutual: keep a match only where each is the other's nearest; of equally near ones the
            first counts.
        distance_threshold: drop matches farther apart than this; None or 0 keeps all.
        ratio_threshold: compares squared distances: the nearest may have at most the square of
            this times the second nearest, from both sides when ``mutual``. None or 0 keeps all;
            without effect where an image has one descriptor.

    Returns:
        ``matches0`` (N0,) or (B, N0) int64, -1 for none, and ``scores0`` of the same shape,
        float32: ``(cos + 1) / 2`` to the nearest neighbour where the thresholds hold seen from
        image 0 (mutual or not), else 0.
    """
    if descriptors0.ndim == 2:
        matches, scores = nearest_neighbours(
            descriptors0[None],
            descriptors1[None],
            mutual=mutual,
            distance_threshold=distance_threshold,
            ratio_threshold=ratio_threshold,
        )
        return matches[0], scores[0]

    batch, _, count0 = descriptors0.shape
    count1 = descriptors1.shape[-1]
    matches = torch.full((batch, count0), -1, device=descriptors0.device)
    scores = descriptors0.new_zeros(batch, count0)
    if count0 == 0 or count1 == 0:
        return matches, scores
    if not in_tiles(descriptors0.device):
        some = most_similarities(descriptors0.device) // (count0 * count1)
        if some:
            return _in_batches(
                descriptors0, descriptors1, some, mutual=mutual,
                distance_threshold=distance_threshold, ratio_threshold=ratio_threshold,
            )  # fmt: skip
    ratio = ratio_threshold if ratio_threshold and min(count0, count1) > 1 else None

    best1 = descriptors0.new_full((batch, count1), -torch.inf)  # over image 0, for each of image 1
    second1 = best1.clone()
    similarity = torch.empty_like(scores)
    step = max(1, _CHUNK.get(descriptors0.device.type, 1 << 22) // (batch * count1))
    rows = descriptors0.transpose(1, 2)
    if mutual and not ratio:
        found = [
            _mutual(a.contiguous(), b.contiguous())
            for a, b in zip(rows, descriptors1.transpose(1, 2), strict=True)
        ]
        if all(pair is not None for pair in found):
            matches, similarity = (torch.stack(part) for part in zip(*found, strict=True))  # type: ignore[arg-type]
            scores = (similarity + 1) / 2
            if distance_threshold:
                near = 2 * (1 - similarity) <= distance_threshold**2
                return torch.where(near, matches, -1), torch.where(near, scores, 0)
            return matches, scores
    for start in range(0, count0, step):
        part = slice(start, start + step)
        chunk = torch.bmm(rows[:, part], descriptors1)
        nearest = chunk.argmax(2, keepdim=True)
        similarity[:, part] = chunk.gather(2, nearest)[..., 0]
        matches[:, part] = nearest[..., 0]
        if mutual:
            top = chunk.amax(1)
            if ratio:
                second1 = torch.maximum(second1, _second(chunk, top))
                second1 = torch.maximum(second1, torch.minimum(best1, top))
            best1 = torch.maximum(best1, top)
        if ratio:
            second0 = chunk.scatter_(2, nearest, -torch.inf).amax(2)
            scores[:, part] = _within_ratio(similarity[:, part], second0, ratio)
    valid = scores > 0 if ratio else torch.ones_like(matches, dtype=torch.bool)
    if distance_threshold:
        valid &= 2 * (1 - similarity) <= distance_threshold**2
    scores = torch.where(valid, (similarity + 1) / 2, 0)
    if mutual:
        valid &= similarity == best1.gather(1, matches)
        if ratio:
            valid &= _within_ratio(best1, second1, ratio).gather(1, matches)
        valid &= _first_of_equals(matches, valid, count1)
    return torch.where(valid, matches, -1), scores


def in_tiles(device: torch.device) -> bool:
    """Whether the device is fast at a cacheful of similarities at a time, not at whole batches."""
    return device.type == "cpu"


def _in_batches(
    descriptors0: Tensor, descriptors1: Tensor, some: int, **thresholds: Any
) -> tuple[Tensor, Tensor]:
    """Neighbours of (B, D, N0) in (B, D, N1), ``some`` of B at a time."""
    sides = (side.transpose(1, 2).split(some) for side in (descriptors0, descriptors1))
    found = [
        match_batch(PairBatch(a, b, [a.shape[1]] * len(a), [b.shape[1]] * len(b)), **thresholds)
        for a, b in zip(*sides, strict=True)
    ]
    matches, scores = (torch.cat(part) for part in zip(*found, strict=True))
    return matches, scores


def _mutual(rows0: Tensor, rows1: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mutual neighbours of (N0, D) in (N1, D) and the best similarities (N0,).

    None where so many similarities are equal (the same descriptor many times) that looking at all
    pairs of equals would cost more than searching the indices.
    """
    best0, best1 = _maxima(rows0, rows1)
    sorted1, order1 = torch.sort(best1, stable=True)
    begin = torch.searchsorted(sorted1, best0)
    count = torch.searchsorted(sorted1, best0, right=True) - begin
    total = int(count.sum())
    if total > 8 * (len(rows0) + len(rows1)):
        return None
    index0 = torch.repeat_interleave(count)
    place = torch.arange(total, device=count.device) - (count.cumsum(0) - count)[index0]
    index1 = order1[begin[index0] + place]
    products = rows0[index0] * rows1[index1]
    error = (products.sum(1) - best0[index0]).abs()
    same = error <= _ROUNDING * products.abs_().sum(1)
    index0, index1 = index0[same], index1[same]
    # of equals the first: the pairs are in the order of image 0, and of image 1 for each of it
    first1 = torch.full_like(best0, len(rows1), dtype=torch.int64)
    first1.scatter_reduce_(0, index0, index1, "amin")
    first0 = torch.full_like(best1, len(rows0), dtype=torch.int64)
    kept = first1[index0] == index1
    index0, index1 = index0[kept], index1[kept]
    first0.scatter_reduce_(0, index1, index0, "amin")
    kept = first0[index1] == index0
    matches = torch.full_like(first1, -1)
    matches[index0[kept]] = index1[kept]
    return matches, best0


def _maxima(rows0: Tensor, rows1: Tensor) -> tuple[Tensor, Tensor]:
    """Largest similarity of each of (N0, D), and of each of (N1, D): (N0,) and (N1,)."""
    best0 = rows0.new_empty(len(rows0))
    best1 = rows0.new_full((len(rows1),), -torch.inf)
    step = max(1, _TILE.get(rows0.device.type, 1 << 20) // len(rows1))
    for start in range(0, len(rows0), step):
        tile = similarities(rows0[start : start + step], rows1)
        torch.amax(tile, 1, out=best0[start : start + step])
        torch.maximum(best1, tile.amax(0), out=best1)
    return best0, best1


def similarities(rows0: Tensor, rows1: Tensor) -> Tensor:
    """Products (N0, N1) of (N0, D) and (N1, D) float32.

    On a processor by oneDNN, which comes with torch: on AMD's it is more than twice as fast as
    the library that `torch.mm` takes, on Intel's as fast.
    """
    if rows0.device.type == "cpu" and rows0.dtype == torch.float32 and onednn.LINEAR is not None:
        return cast(Tensor, onednn.LINEAR(rows0, rows1, None, "none", [], ""))
    return rows0 @ rows1.t()


def _second(chunk: Tensor, top: Tensor) -> Tensor:
    """Second largest of each column, (B, N1), of (B, N, N1) whose largest are known."""
    is_top = chunk == top[:, None]
    below = chunk.masked_fill(is_top, -torch.inf).amax(1)
    if torch.count_nonzero(is_top) == top.numel():
        return below
    return torch.where(is_top.sum(1) > 1, top, below)


def _within_ratio(similarity: Tensor, second: Tensor, ratio: float) -> Tensor:
    return 2 * (1 - similarity) <= ratio**2 * (2 * (1 - second))


def _first_of_equals(matches: Tensor, valid: Tensor, count1: int) -> Tensor:
    """Mark the lowest of several indices of image 0 that match the same one of image 1."""
    batch, count0 = matches.shape
    index0 = torch.arange(count0, device=matches.device).expand(batch, -1)
    first = torch.full((batch, count1), count0, device=matches.device)
    first.scatter_reduce_(1, matches, torch.where(valid, index0, count0), "amin")
    return first.gather(1, matches) == index0
