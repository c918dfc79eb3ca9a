"""A linear map of trained descriptors, learned from what they match: right matches less wrong ones.

Every point of a training pair has its match. Most keypoints of real photos have none: the other
photo does not show them, or has no keypoint there. Which of those become wrong matches depends on
which are each other's nearest neighbours, and this learns it: views of photos with a known
homography are matched with all their keypoints, among keypoints of other photos. Points i and j
are each other's nearest neighbours with the probability

    P_ij = softmax_j(s_ij / T) softmax_i(s_ij / T),

s their cosine; a right match earns P_ij, a wrong one costs a penalty times as much. (Not in the
paper; the reward is that of DISK, NeurIPS 2020, with gradients through P itself.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SamfeatError
from ..feature.levels import choose, detect_levels
from ..feature.network import DESCRIPTOR_DIM, SAMFeat
from ..feature.options import ExtractOptions
from ..geometry.homographies import HomographyOptions, transform
from ..progress import tqdm
from .homography_pairs import HomographySource
from .last_convolution import multiply_in, open_checkpoint, write
from .pairs import PairOptions

logger = logging.getLogger(__name__)

STEPS = 270
PAIRS = 3  # a step: a pair, and two other photos of which it gets keypoints
# Parts of the views alone are common: keypoints without a match are what it is about.
VIEWS = PairOptions(crop=352, night=0.3)
HOMOGRAPHIES = HomographyOptions(scale=2.2, perspective=0.3, shift=0.6, zoom=[0.6, 1.3])
# One after another, so that the map suits one scale and several.
SCALES = ((1.0,), (0.5, 0.7, 1.0, 1.2, 1.7), (1.0,), (0.35, 0.5, 0.7, 1.0))
KEYPOINTS = 900
TEMPERATURE = 0.02
PENALTY = 1.0  # more leaves fewer wrong matches and fewer right ones, which thin maps pay for
RIGHT = 2.5  # pixels
WRONG = 4.0  # pixels; between the two, a match neither earns nor costs
_AMONG_OTHERS = 0.7  # share of the pairs that get keypoints of other photos
_LEAST_POSSIBLE = 20  # right matches; with fewer, a pair would count more than others
_RATE = {"matrix": 0.001, "vector": 0.01}


class DescribedView(NamedTuple):
    """Keypoints of a view, described at every scale. keypoints: (N, 2) xy in its pixels.
    descriptors: (N, L, 128), not normalised. shares: (N, L), how much each scale counts."""

    keypoints: Tensor
    descriptors: Tensor
    shares: Tensor


class Projection(nn.Module):
    """The map: at first the identity.

    Arguments:
        length: typical length of a descriptor before normalisation; the vector is in units of it.
    """

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length
        self.matrix = nn.Parameter(torch.eye(DESCRIPTOR_DIM))
        self.vector = nn.Parameter(torch.zeros(DESCRIPTOR_DIM))

    def forward(self, view: DescribedView) -> Tensor:
        """Descriptors (N, 128) of unit length, pooled over the scales as extraction does."""
        mapped = view.descriptors @ self.matrix.t() + self.length * self.vector
        pooled = (F.normalize(mapped, dim=-1) * view.shares[..., None]).sum(dim=1)
        return F.normalize(pooled, dim=-1)


def main(
    weights: Path,
    images: Path,
    output: Path,
    *,
    steps: int = STEPS,
    seed: int = 1,
    penalty: float = PENALTY,
    device: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Learn the map for a checkpoint, by views of photos.

    Arguments:
        weights: the checkpoint, best whitened before; the shipped one has its map already.
        images: folder of photos, such as those that it was trained on.
        output: the checkpoint to write.
        steps: of the optimizer, three pairs each.
        seed: of the views.
        penalty: what a wrong match costs, where a right one earns 1.
        device: where to compute; see :func:`samfeat_hloc.parallel.devices.device_of`.
        overwrite: replace a file that is there.

    Raises:
        SamfeatError: a checkpoint that has its map already or cannot be read, an output that is
            there, no photos, or too little in them to match.
    """
    model, photos = open_checkpoint(
        weights, images, output, "projected", device=device, overwrite=overwrite
    )
    source = HomographySource(photos, HOMOGRAPHIES)
    there = next(model.parameters()).device
    generator = torch.Generator(there).manual_seed(seed)
    projection: Projection | None = None
    taken = 0
    progress = tqdm(range(steps), desc="project", unit="step")
    for step in progress:
        scales = SCALES[step % len(SCALES)]
        views0, views1, moved = described_pairs(model, source, scales, generator)
        if min(len(view.keypoints) for view in (*views0, *views1)) == 0:
            continue
        if projection is None:
            length = float(views0[0].descriptors.norm(dim=-1).mean())
            projection = Projection(length).to(there)
            groups = [{"params": [p], "lr": _RATE[n]} for n, p in projection.named_parameters()]
            optimizer = torch.optim.Adam(groups)
            decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
        rewards = [
            pair_reward(projection, views0, views1, moved[pair], pair, penalty, generator)
            for pair in range(PAIRS)
        ]
        reward = torch.stack(rewards).mean()
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
        decay.step()
        taken += 1
        progress.set_postfix(reward=round(reward.item(), 3), refresh=False)
    if projection is None:
        raise SamfeatError(images, "no keypoints in views of its photos", "give other photos")
    multiply_in(model, projection.matrix.detach(), projection.length * projection.vector.detach())
    if taken < steps:
        logger.warning(
            "project: %d of %d steps did nothing, a view had no keypoints", steps - taken, steps
        )
    facts = {"steps": taken, "pairs": taken * PAIRS, "photos": images.name, "seed": seed,
             "penalty": penalty}  # fmt: skip
    return write(model, output, "projected", facts)


@torch.no_grad()
def described_pairs(
    model: SAMFeat, source: HomographySource, scales: Sequence[float], generator: torch.Generator
) -> tuple[list[DescribedView], list[DescribedView], list[Tensor]]:
    """Two views each of some photos, and the first one's keypoints (N, 2) moved to the second."""
    batch = source.batch(PAIRS, VIEWS, generator)
    assert batch.matrix01 is not None, "homographies have matrices"
    views0, views1 = (describe(model, image, scales) for image in (batch.image0, batch.image1))
    moved = [
        transform(matrix[None], view.keypoints[None])[0]
        for matrix, view in zip(batch.matrix01, views0, strict=True)
    ]
    return views0, views1, moved


def describe(model: SAMFeat, images: Tensor, scales: Sequence[float]) -> list[DescribedView]:
    """The keypoints that extraction finds in images (B, 3, H, W), described at every scale."""
    options = ExtractOptions(max_keypoints=KEYPOINTS, scales=tuple(scales))
    levels = detect_levels(model, images, options)
    chosen = choose(levels, options)
    views = []
    for b, found in enumerate(chosen.found):
        keypoints, shares = chosen.keypoints[b][found], chosen.shares[b][found]
        described = [model.describe_at(lv.features[b], lv.places(keypoints)) for lv in levels]
        views.append(DescribedView(keypoints, torch.stack(described, dim=1), shares))
    return views


def pair_reward(
    projection: Projection, views0: Sequence[DescribedView], views1: Sequence[DescribedView],
    moved: Tensor, pair: int, penalty: float, generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The reward of a pair's matches, often among keypoints of two other photos.

    Arguments:
        views0, views1: of all pairs of the step.
        moved: (N, 2), this pair's keypoints of view 0 in view 1.
    """
    apart = torch.cdist(moved, views1[pair].keypoints)
    first, second = projection(views0[pair]), projection(views1[pair])
    if float(torch.rand(1, generator=generator, device=generator.device)) < _AMONG_OTHERS:
        # Not both of one photo: they would match each other.
        others0 = _some(views0[(pair + 1) % PAIRS], generator)
        others1 = _some(views1[(pair + 2) % PAIRS], generator)
        first = torch.cat([first, projection(others0)])
        second = torch.cat([second, projection(others1)])
        more = (0, len(second) - apart.shape[1], 0, len(first) - apart.shape[0])
        apart = F.pad(apart, more, value=np.inf)
    return expected_reward(first, second, apart <= RIGHT, apart > WRONG, penalty)


def expected_reward(
    first: Tensor, second: Tensor, right: Tensor, wrong: Tensor, penalty: float
) -> Tensor:
    """Expected reward of mutual nearest neighbours, for each right match that is possible.

    Arguments:
        first, second: descriptors (N, 128) and (M, 128) of unit length.
        right, wrong: (N, M) bool, which matches earn 1 and which cost the penalty.

    Returns:
        Scalar, at most 1.
    """
    similarity = first @ second.t() / TEMPERATURE
    mutual = torch.softmax(similarity, dim=1) * torch.softmax(similarity, dim=0)
    possible = right.any(dim=1).sum().clamp(min=_LEAST_POSSIBLE)
    return ((mutual * right).sum() - penalty * (mutual * wrong).sum()) / possible


def _some(view: DescribedView, generator: torch.Generator) -> DescribedView:
    """A random number of a view's keypoints, chosen at random."""
    order = torch.randperm(len(view.keypoints), generator=generator, device=generator.device)
    share = float(torch.rand(1, generator=generator, device=generator.device))
    return DescribedView(*(part[order[: round(share * len(order))]] for part in view))
