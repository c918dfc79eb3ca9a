"""Whitening of trained descriptors: where a change of view moves them, they count less.

From two views of photos with known points, S is the mean of (d0 - d1)(d0 - d1)^T over the
unit-length descriptors of the same corners. A descriptor d becomes W d with W = S^-strength: at a
strength of 1/2 views differ equally in all directions, at 0 nothing changes. (Not in the paper; one
of the learned linear projections of Mikolajczyk and Matas, 2007.) W is multiplied into the last
convolution.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SamfeatError
from ..feature.levels import half_precision
from ..feature.network import DESCRIPTOR_DIM, SAMFeat
from ..geometry.homographies import HomographyOptions
from ..progress import tqdm
from .homography_pairs import HomographySource
from .last_convolution import multiply_in, open_checkpoint, write
from .pairs import PairBatch, PairOptions

STRENGTH = 0.4
PAIRS = 480
# Harder than what is trained on: what moves a descriptor is to be seen.
VIEWS = PairOptions(night=0.2)
HOMOGRAPHIES = HomographyOptions(scale=2.6, perspective=0.32)
_PAIRS_AT_ONCE = 8
_LEAST_SIMILARITY = 0.4  # of the same point; below, it is hidden in one of the views
_LEAST_VARIANCE = 1e-4  # added to all directions of S, whose trace is some tenths


def main(
    weights: Path,
    images: Path,
    output: Path,
    *,
    strength: float = STRENGTH,
    pairs: int = PAIRS,
    seed: int = 1,
    device: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Whiten a checkpoint's descriptors by views of photos.

    Arguments:
        weights: the checkpoint; the shipped one is whitened already.
        images: folder of photos, such as those that it was trained on.
        output: the checkpoint to write.
        strength: see above, above 0 and up to 0.5.
        pairs: of views to look at.
        seed: of the views.
        device: where to compute; see :func:`samfeat_hloc.parallel.devices.device_of`.
        overwrite: replace a file that is there.

    Raises:
        SamfeatError: a checkpoint that is whitened already or cannot be read, a strength out of
            range, an output that is there, too few photos or matches.
    """
    if not 0 < strength <= 0.5:
        raise SamfeatError("--strength", f"{strength} is not possible", "give one from 0.1 to 0.5")
    model, photos = open_checkpoint(
        weights, images, output, "whitened", device=device, overwrite=overwrite
    )
    source = HomographySource(photos, HOMOGRAPHIES)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    total, count = torch.zeros(DESCRIPTOR_DIM, DESCRIPTOR_DIM, dtype=torch.float64), 0
    for start in tqdm(range(0, pairs, _PAIRS_AT_ONCE), desc="whiten", unit="batch"):
        batch = source.batch(min(_PAIRS_AT_ONCE, pairs - start), VIEWS, generator)
        found = differences(model, batch).cpu().double()
        total, count = total + found.t() @ found, count + len(found)
    if count < 10 * DESCRIPTOR_DIM:
        raise SamfeatError(
            images,
            f"{count} corners match between its views, too few to whiten by",
            "raise --num-pairs, or give other photos",
        )
    whiten(model, total / count, strength)
    facts = {"strength": strength, "pairs": pairs, "photos": images.name, "corners": count}
    return write(model, output, "whitened", facts)


@torch.inference_mode()
def differences(model: SAMFeat, batch: PairBatch) -> Tensor:
    """Of the corners that both views of a pair show, the descriptors' differences (K, 128)."""
    images = batch.network_input.contiguous(memory_format=torch.channels_last)
    with half_precision(images.device):
        features = model.encode(images).features
    corners = torch.cat([batch.corners0, batch.corners1])
    described = [model.describe_at(f, c) for f, c in zip(features, corners, strict=True)]
    views0, views1 = F.normalize(torch.stack(described), dim=-1).chunk(2)
    same = (batch.present > 0) & ((views0 * views1).sum(-1) > _LEAST_SIMILARITY)
    return (views0 - views1)[same]


def whiten(model: SAMFeat, moved: Tensor, strength: float) -> None:
    """Multiply W into the descriptor head.

    Arguments:
        moved: S, (128, 128).
        strength: of W = S^-strength, which is scaled to the Frobenius norm of the identity.
    """
    variances, directions = torch.linalg.eigh(moved.double())
    shrunk = (variances.clamp(min=0) + _LEAST_VARIANCE) ** -strength
    matrix = directions @ torch.diag(shrunk) @ directions.t()
    matrix = matrix * DESCRIPTOR_DIM**0.5 / matrix.norm()
    multiply_in(model, matrix)
