"""How well the network matches during training: held-back photos and planar pairs, both fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..evaluation import hpatches
from ..feature.extraction import detect_and_describe, extract_batch
from ..feature.levels import Network
from ..feature.local_features import Features, as_tensors
from ..feature.options import ExtractOptions
from ..geometry.homographies import transform
from .pairs import PairBatch

OPTIONS = ExtractOptions(max_keypoints=512)
PLANAR = ExtractOptions(resize=640, max_keypoints=1024)
MOST_PLANAR = 40  # pairs; of more, so many are taken, spread evenly


@dataclass(frozen=True)
class PlanarPairs:
    """Pairs of real photos of planes, in a folder with HPatches' layout; read when looked at."""

    root: Path
    pairs: tuple[hpatches.Pair, ...]

    @classmethod
    def open(cls, root: Path) -> PlanarPairs:
        """At most :data:`MOST_PLANAR` pairs of a folder.

        Raises:
            SamfeatError: as :func:`samfeat_hloc.evaluation.hpatches.read_pairs`.
        """
        pairs = hpatches.read_pairs(root, skip_incomplete=True)
        chosen = np.linspace(0, len(pairs) - 1, min(MOST_PLANAR, len(pairs))).round().astype(int)
        return cls(Path(root), tuple(pairs[index] for index in chosen))


@dataclass(frozen=True)
class Validation:
    """What a run is validated on. held_back: homography pairs of photos that are not trained on.
    planar: pairs of real photos. Either may be None."""

    held_back: PairBatch | None
    planar: PlanarPairs | None

    def measure(self, model: Network) -> dict[str, float]:
        """:func:`matching_accuracy` of the held-back photos, and :func:`planar_accuracy` with
        ``planar/`` before each name."""
        found: dict[str, float] = {}
        if self.held_back is not None:
            found |= matching_accuracy(model, self.held_back)
        if self.planar is not None:
            scores = planar_accuracy(model, self.planar)
            found |= {f"planar/{name}": value for name, value in scores.items()}
        return found

    @property
    def decides(self) -> str:
        """The figure by which a checkpoint is the best: real pairs before synthetic ones."""
        return "mma@3" if self.planar is None else "planar/mma@3"


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
    errors = []
    for b, (a0, a1) in enumerate(zip(found0, found1, strict=True)):
        first, second = mutual_nearest(a0["descriptors"], a1["descriptors"])
        expected = transform(batch.matrix01[b : b + 1], a0["keypoints"][first][None])[0]
        errors.append((expected - a1["keypoints"][second]).norm(dim=1))
    return _shares(errors)


@torch.inference_mode()
def planar_accuracy(model: Network, planar: PlanarPairs) -> dict[str, float]:
    """The same on pairs of real photos, whose longer side is brought down to 640 pixels for the
    network; errors in pixels of the photos as they are.

    Raises:
        SamfeatError: a photo that cannot be read.
    """
    errors = []
    read: dict[str, Features] = {}
    for pair in planar.pairs:
        # Pairs of a sequence follow each other and share image 1.
        read = {name: read[name] for name in pair.images if name in read}
        for name in pair.images:
            if name not in read:
                read[name] = as_tensors(extract_batch(model, [planar.root / name], PLANAR)[0])
        a0, a1 = (read[name] for name in pair.images)
        first, second = mutual_nearest(a0["descriptors"], a1["descriptors"])
        homography = torch.from_numpy(pair.homography).float()[None]
        expected = transform(homography, a0["keypoints"][first][None])[0]
        errors.append((expected - a1["keypoints"][second]).norm(dim=1))
    return _shares(errors)


def _shares(errors: Sequence[Tensor]) -> dict[str, float]:
    """Means over pairs, of the errors of each one's matches."""
    shares: dict[str, list[float]] = {"mma@1": [], "mma@3": [], "matches": []}
    for error in errors:
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
