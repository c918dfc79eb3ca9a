"""The vocabulary of retrieval: k-means (Lloyd's iterations) in torch, on any device.

Each iteration is a few matrix products, and nothing waits for the device. Elsewhere than on a
processor sums are products too: scattered additions would come out differently from run to run on a
GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..feature.matching_tiles import similarities
from ..parallel.devices import to_device

ITERATIONS = 25
_AT_ONCE = 1 << 26  # similarities of points and centres


@torch.inference_mode()
def kmeans(points: Tensor, clusters: int, *, seed: int, iterations: int = ITERATIONS) -> Tensor:
    """Cluster centres (clusters, D) of points (M, D) float32, on their device.

    The first centres are points drawn by ``seed``. A centre that loses all its points goes to one
    of those farthest from theirs. The same points on the same device give the same centres.
    """
    drawn = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres = points[to_device(drawn, points.device)]
    lengths = points.square().sum(1)
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centres), torch.zeros_like(centres[:, :1])
        apart = []
        for some, length in zip(*_parts(points, lengths, clusters), strict=True):
            similarity, nearest = _nearest(some, centres)
            total, members = _sums(some, nearest, clusters)
            sums += total
            counts += members
            apart.append(length - 2 * similarity)
        farthest = points[torch.cat(apart).topk(min(clusters, len(points))).indices]
        empty = counts == 0
        place = (empty.long().cumsum(0) - 1).clamp(min=0)[:, 0]
        centres = torch.where(empty, farthest[place], sums / counts.clamp(min=1))
    return centres


@torch.inference_mode()
def vlad(descriptors: Tensor, words: Tensor) -> Tensor:
    """Descriptors (N, D) and words (K, D) to the unit vector (K * D,); zero for N = 0."""
    if not len(descriptors):
        return torch.zeros_like(words).flatten()
    total, members = _sums(descriptors, _nearest(descriptors, words)[1], len(words))
    residuals = total - members * words
    residuals /= residuals.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (residuals / residuals.norm().clamp(min=1e-12)).flatten()


def _parts(points: Tensor, lengths: Tensor, clusters: int) -> tuple[list[Tensor], list[Tensor]]:
    some = max(1, _AT_ONCE // clusters)
    return list(points.split(some)), list(lengths.split(some))


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Of each point x the largest ``x c - c c / 2`` over the centres c, and which it is."""
    similarity = similarities(points, centres) - centres.square().sum(1) / 2
    best, index = similarity.max(1)
    return best, index


def _sums(points: Tensor, nearest: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Of each cluster the sum of its points (clusters, D), and their number (clusters, 1)."""
    if points.device.type == "cpu":
        total = points.new_zeros(clusters, points.shape[1]).index_add_(0, nearest, points)
        return total, torch.bincount(nearest, minlength=clusters)[:, None].to(points.dtype)
    members = (torch.arange(clusters, device=nearest.device)[:, None] == nearest).to(points.dtype)
    return members @ points, members.sum(1, keepdim=True)
