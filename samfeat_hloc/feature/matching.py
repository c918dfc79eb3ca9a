"""Nearest neighbours of descriptors, in plain torch and bounded memory.

Mutual ones without a ratio test are found on a processor by :mod:`.matching_tiles`; GPUs take whole
batches of pairs: :mod:`.matching_batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .matching_batches import PairBatch, match_batch, most_similarities
from .matching_tiles import mutual_neighbours

# Similarities computed at a time: few enough to stay in the cache for the reductions that follow,
# enough rows to keep the matrix product fast.
_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 28}


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
    if mutual and not ratio and in_tiles(descriptors0.device):
        found = mutual_in_tiles(
            list(zip(descriptors0, descriptors1, strict=True)), distance_threshold
        )
        if found is not None:
            return found

    best1 = descriptors0.new_full((batch, count1), -torch.inf)  # over image 0, for each of image 1
    second1 = best1.clone()
    similarity = torch.empty_like(scores)
    step = max(1, _CHUNK.get(descriptors0.device.type, 1 << 22) // (batch * count1))
    rows = descriptors0.transpose(1, 2)
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


@torch.inference_mode()
def mutual_in_tiles(
    pairs: Sequence[tuple[Tensor, Tensor]], distance_threshold: float | None = None
) -> tuple[Tensor, Tensor] | None:
    """What :func:`nearest_neighbours` says of mutual neighbours, for pairs of any sizes at once.

    Arguments:
        pairs: descriptors (D, N0) and (D, N1) of B pairs, float32 on a processor, none empty.

    Returns:
        ``matches0`` and ``scores0``, (B, largest N0), without meaning beyond an image's last
        descriptor; None where too many descriptors are equal for this way.
    """
    found = mutual_neighbours([(first.t(), second.t()) for first, second in pairs])
    if found is None:
        return None
    matches, similarity = found
    scores = (similarity + 1) / 2
    if distance_threshold:
        near = 2 * (1 - similarity) <= distance_threshold**2
        return torch.where(near, matches, -1), torch.where(near, scores, 0)
    return matches, scores


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
