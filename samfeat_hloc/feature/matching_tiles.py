"""Mutual nearest neighbours on a processor, without an index searched in the similarities.

A few rows of similarities at a time, in the cache, are reduced to the largest value of each row and
of each column, which costs a tenth of the product itself. A mutual pair is then where the best
value of a row and the best value of a column are one and the same number; as different pairs may
have equal similarities, the product of each such pair is looked at once more. Of descriptors that
are the same the first counts, as in hloc; different ones that are equally similar to the last
digit, which depends on the order of the sums, are taken as equal if both are mutual.

What comes after the maxima is small, and is done for several pairs of images at once: of a thousand
keypoints an operator takes longer to be called than to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from . import onednn

_TILE = 1 << 20  # similarities at a time: they stay in the cache until they are reduced
_ROUNDING = 4e-6  # of two ways to sum the same products, relative to the sum of their sizes


def mutual_neighbours(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Mutual neighbours of descriptors (N0, D) in (N1, D), for B pairs of images of any sizes.

    Arguments:
        pairs: one at least, float32 on a processor, no image without descriptors; fastest where
            each descriptor's values lie together in memory.

    Returns:
        ``matches`` (B, largest N0) int64, -1 for none, and the similarities to the nearest, of that
        shape, float32; the latter are minus infinity beyond an image's last descriptor. None where
        so many similarities are equal (the same descriptor many times) that looking at all pairs of
        equals would cost more than searching the indices.
    """
    pairs = [(rows0.contiguous(), rows1.contiguous()) for rows0, rows1 in pairs]
    best0, best1 = (list(best) for best in zip(*(_maxima(*pair) for pair in pairs), strict=True))
    similarity = pad_sequence(best0, batch_first=True, padding_value=-torch.inf)
    sorted1, order1 = pad_sequence(best1, batch_first=True, padding_value=torch.inf).sort(1)
    most0, most1 = similarity.shape[1], sorted1.shape[1]
    begin = torch.searchsorted(sorted1, similarity)
    count = torch.searchsorted(sorted1, similarity, right=True) - begin
    equals = count.sum(1)
    total = int(equals.sum())
    if total > 8 * (similarity.numel() + sorted1.numel()):
        return None

    # all pairs of equal values: their rows in the padded best values of all images 0 and 1
    flat0 = torch.repeat_interleave(count.flatten())
    pair = flat0.div(most0, rounding_mode="floor")
    nth = torch.arange(total) - (count.flatten().cumsum(0) - count.flatten())[flat0]
    index0 = flat0 - pair * most0
    index1 = order1[pair, begin.flatten()[flat0] + nth]
    same = _product_is(similarity.flatten()[flat0], pairs, index0, index1, equals.tolist())
    flat0, index1, pair = flat0[same], index1[same], pair[same]

    # of equals the first: for each of image 0 in image 1, then for each of these in image 0
    flat1 = index1 + pair * most1
    first1 = torch.full((similarity.numel(),), sorted1.numel())
    first1.scatter_reduce_(0, flat0, flat1, "amin")
    kept = first1[flat0] == flat1
    flat0, flat1, index1 = flat0[kept], flat1[kept], index1[kept]
    first0 = torch.full((sorted1.numel(),), similarity.numel())
    first0.scatter_reduce_(0, flat1, flat0, "amin")
    kept = first0[flat1] == flat0
    matches = torch.full((similarity.numel(),), -1)
    matches[flat0[kept]] = index1[kept]
    return matches.view_as(similarity), similarity


def similarities(rows0: Tensor, rows1: Tensor) -> Tensor:
    """Products (N0, N1) of (N0, D) and (N1, D) float32.

    On a processor by oneDNN, which comes with torch: on AMD's it is more than twice as fast as
    the library that `torch.mm` takes, on Intel's as fast.
    """
    if rows0.device.type == "cpu" and rows0.dtype == torch.float32 and onednn.LINEAR is not None:
        return cast(Tensor, onednn.LINEAR(rows0, rows1, None, "none", [], ""))
    return rows0 @ rows1.t()


def _maxima(rows0: Tensor, rows1: Tensor) -> tuple[Tensor, Tensor]:
    """Largest similarity of each of (N0, D), and of each of (N1, D): (N0,) and (N1,)."""
    best0 = rows0.new_empty(len(rows0))
    best1 = rows0.new_full((len(rows1),), -torch.inf)
    step = max(1, _TILE // len(rows1))
    for start in range(0, len(rows0), step):
        tile = similarities(rows0[start : start + step], rows1)
        torch.amax(tile, 1, out=best0[start : start + step])
        torch.maximum(best1, tile.amax(0), out=best1)
    return best0, best1


def _product_is(
    value: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], index0: Tensor, index1: Tensor,
    counts: Sequence[int],
) -> Tensor:  # fmt: skip
    """Which of (M,) values are the products of these descriptors, the first ``counts[0]`` of them
    of the first pair of images, and so on."""
    split = zip(pairs, index0.split(counts), index1.split(counts), strict=True)
    sums, sizes = [], []
    for (rows0, rows1), some0, some1 in split:
        products = rows0.index_select(0, some0).mul_(rows1.index_select(0, some1))
        sums.append(products.sum(1))
        sizes.append(products.abs_().sum(1))
    return (torch.cat(sums) - value).abs_() <= torch.cat(sizes).mul_(_ROUNDING)
