"""Agreement of the detector with itself: keypoints that it finds in two views of one place.

Labels say where a keypoint of the unlit view is; what light or noise does to the heatmap's peak
they do not see. Here the network's own peaks of both views are paired by the known correspondence.
Their distance is the loss, as the reprojection loss of ALIKED (arXiv 2304.03608), and each peak
learns its partner's place (:func:`.losses.position_loss`), which also makes it a sharp one, as
ALIKED's dispersity peak loss does. None of it is in SAMFeat's paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..feature import detection
from .losses import position_loss
from .pairs import Move

RADIUS = 1  # pixels, of the window of the soft-argmax around a peak
TEMPERATURE = 0.5  # of its softmax over logits: nearest to what `detection.refine` finds
REACH = 3.0  # pixels; peaks farther apart are not one place
_SUPPRESSION = 1  # pixels, as extraction suppresses
_BORDER = 4  # pixels, as extraction leaves out
_LEAST_LOGIT = -3.0  # of extraction's threshold, a score of 0.05
_NEAREST = 1e-3  # pixels; the gradient of a distance of 0 is not a number


def own_peaks(logits: Tensor, seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best peaks of heatmaps where both views show the scene, placed by a soft-argmax.

    Arguments:
        logits: (V, S, S), before the sigmoid. seen: (V, S, S), 1 where a peak counts.
        count: at most so many a view.

    Returns:
        places (V, K, 2) xy in pixels, with gradients, and (V, K) bool, which are there.
    """
    side = logits.shape[-1]
    fixed = logits.detach()
    kept = detection.suppress(fixed[:, None], _SUPPRESSION, -torch.inf)
    kept = detection.clear_border(kept, _BORDER, width=side, height=side) & (seen[:, None] > 0)
    whole, ranks = detection.best_points(fixed, kept[:, 0], count)
    around = detection.peak_neighbourhoods(logits, whole, RADIUS).float() / TEMPERATURE
    return whole + detection.soft_argmax(around, RADIUS), ranks > -torch.inf


def agreement_loss(
    logits: Tensor, seen0: Tensor, seen1: Tensor, moves: tuple[Move, Move], count: int
) -> Tensor:
    """How far the two views' own keypoints are apart.

    Keypoints are paired when each is the other's nearest, and nearer than :data:`REACH`.

    Arguments:
        logits: (2B, S, S) of view 0's images, then view 1's.
        seen0, seen1: (B, S, S), 1 where a pixel's content is visible in the other view too.
        moves: take points (B, N, 2) of view 0 to view 1, and back, with gradients.
        count: keypoints a view at most.

    Returns:
        Scalar: the mean distance in pixels of paired keypoints, plus the position loss of each
        view with the other one's keypoints as labels; means of both views.
    """
    places, found = own_peaks(logits, torch.cat([seen0, seen1]), count)
    (places0, places1), (found0, found1) = places.chunk(2), found.chunk(2)
    move01, move10 = moves
    in1 = move01(places0)
    with torch.no_grad():
        apart = torch.cdist(in1, places1)
        apart = apart.masked_fill(~(found0[:, :, None] & found1[:, None]), torch.inf)
        nearest, partner = apart.min(dim=2)
        back = apart.argmin(dim=1).gather(1, partner)
        own = torch.arange(partner.shape[1], device=partner.device)
        paired = ((back == own) & (nearest < REACH)).float()
    partners = places1.gather(1, partner[..., None].expand(-1, -1, 2))
    in0 = move10(partners)
    distance = (_length(in1 - partners) + _length(in0 - places0)) / 2
    distance = (distance * paired).sum() / paired.sum().clamp(min=1)
    logits0, logits1 = logits.chunk(2)
    there = position_loss(logits1, in1.detach(), paired)
    return distance + (there + position_loss(logits0, in0.detach(), paired)) / 2


def score_loss(logits: Tensor, before: Tensor, seen: Tensor) -> Tensor:
    """How far the scores of places are from what they were: peaks may move, their ranks stay.

    Which keypoints are the best decides what descriptors are made of and matched; agreement says
    nothing of it.

    Arguments:
        logits: (V, S, S). before: (V, S, S), of the weights that training began with.
        seen: (V, S, S), 1 where a place counts.

    Returns:
        Scalar: the mean difference (smooth L1) of the largest logits within 2 pixels, over places
        that either takes for a keypoint's.
    """
    now, then = (F.max_pool2d(x[:, None], 5, stride=1, padding=2)[:, 0] for x in (logits, before))
    counted = seen * (torch.maximum(now.detach(), then) > _LEAST_LOGIT)
    apart = F.smooth_l1_loss(now, then, reduction="none")
    return (apart * counted).sum() / counted.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(-1).clamp(min=_NEAREST**2).sqrt()
