"""How well the network matches during training: held-back photos, fixed pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..extract import ExtractOptions, Network, detect_and_describe
from .homographies import transform
from .pairs import PairBatch

OPTIONS = ExtractOptions(max_keypoints=512)


@torch.inference_mode()
def matching_accuracy(model: Network, batch: PairBatch) -> dict[str, float]:
    """Mutual nearest neighbours on a batch of pairs.

    Returns:
        ``mma@1``, ``mma@3``: mean over pairs of the share of matches whose error is at most so
        many pixels of view 1; ``matches``: mean number a pair.
    """
    assert batch.matrix01 is not None, "validation pairs are homographies"
    found0 = detect_and_describe(model, batch.image0, OPTIONS)
    found1 = detect_and_describe(model, batch.image1, OPTIONS)
    shares: dict[str, list[float]] = {"mma@1": [], "mma@3": [], "matches": []}
    for b, (a0, a1) in enumerate(zip(found0, found1, strict=True)):
        first, second = mutual_nearest(a0["descriptors"], a1["descriptors"])
        expected = transform(batch.matrix01[b : b + 1], a0["keypoints"][first][None])[0]
        error = (expected - a1["keypoints"][second]).norm(dim=1)
        for limit in (1, 3):
            share = float((error <= limit).float().mean()) if len(error) else 0.0
            shares[f"mma@{limit}"].append(share)
        shares["matches"].append(float(len(error)))
    return {name: sum(values) / max(len(values), 1) for name, values in shares.items()}


def mutual_nearest(descriptors0: Tensor, descriptors1: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of mutual nearest neighbours of descriptors (D, N) and (D, M)."""
    if descriptors0.shape[1] == 0 or descriptors1.shape[1] == 0:
        empty = torch.empty(0, dtype=torch.long, device=descriptors0.device)
        return empty, empty
    similarity = descriptors0.t() @ descriptors1
    forward, backward = similarity.argmax(1), similarity.argmax(0)
    first = torch.arange(len(forward), device=forward.device)
    mutual = backward[forward] == first
    return first[mutual], forward[mutual]
