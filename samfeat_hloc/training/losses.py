"""The losses, each a pure function of tensors.

B pairs (or images), N descriptor points a pair, D descriptor dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detection import peak_neighbourhoods, soft_argmax

UNREACHABLE = 10.0  # added to a distance that must not be the hardest negative


def detection_loss(
    logits: Tensor, labels: Tensor, valid: Tensor, *, positive_weight: float = 200.0
) -> Tensor:
    """Weighted binary cross entropy on keypoint labels (the paper's L_det).

    Arguments:
        logits: (B, H, W); labels: (B, H, W) in [0, 1]; valid: (B, H, W) of 0 and 1.
        positive_weight: how much a labelled pixel counts against one without a label.

    Returns:
        Scalar: the mean over images of the mean over their valid pixels.
    """
    probability = torch.sigmoid(logits.float())
    # 1e-4 bounds the loss of a pixel that is certain and wrong, as in the release.
    entropy = -(
        positive_weight * labels * torch.log(probability + 1e-4)
        + (1 - labels) * torch.log(1 - probability + 1e-4)
    )
    counted = (entropy * valid).sum(dim=(1, 2)) / (valid.sum(dim=(1, 2)) + 1)
    return counted.mean()


def position_loss(logits: Tensor, points: Tensor, present: Tensor, *, radius: int = 2) -> Tensor:
    """How far the heatmap's peaks are from the labels' true sub-pixel places (not in the paper).

    Detection asks which pixels are keypoints; this asks where in its neighbourhood a keypoint is.
    The softmax over the neighbourhood is compared with the place shared among its four pixels
    (cross entropy), and its mean, which is what extraction takes as the position, with the place.

    Arguments:
        logits: (B, H, W); points: (B, N, 2) xy in pixels; present: (B, N) of 0 and 1.
        radius: of the neighbourhood, in pixels.

    Returns:
        Scalar: cross entropy plus distance in pixels, averaged over the keypoints.
    """
    height, width = logits.shape[-2:]
    whole = points.round().long()
    inside = (whole >= radius) & (whole < whole.new_tensor([width, height]) - radius)
    counted = present * inside.all(-1)
    offset = points - whole
    logits = peak_neighbourhoods(logits, whole, radius).float()
    mean = soft_argmax(logits, radius)
    distance = (mean - offset).square().sum(-1).clamp(min=1e-6).sqrt()
    reach = torch.arange(-radius, radius + 1, device=logits.device)
    share_x = (1 - (offset[..., 0:1] - reach).abs()).clamp(min=0)
    share_y = (1 - (offset[..., 1:2] - reach).abs()).clamp(min=0)
    target = (share_y[..., :, None] * share_x[..., None, :]).flatten(-2)
    entropy = -(target * torch.log_softmax(logits, dim=-1)).sum(-1)
    return ((entropy + distance) * counted).sum() / counted.sum().clamp(min=1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (B, N, M) of points (B, N, D) and (B, M, D), at least sqrt(1e-5)."""
    squared = (
        x.square().sum(-1)[:, :, None] - 2 * x @ y.transpose(1, 2) + y.square().sum(-1)[:, None]
    )
    return squared.clamp(min=1e-5).sqrt()


def triplet_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    attention0: Tensor,
    attention1: Tensor,
    valid: Tensor,
    not_search: Tensor,
    *,
    temperature: float = 14.0,
    margin: float = 1.0,
) -> Tensor:
    """Attention-weighted triplet loss with the hardest negative of the image (the paper's L_des).

    Arguments:
        descriptors0, descriptors1: (B, N, D) of unit length; row i of one matches row i of the
            other.
        attention0, attention1: (B, N, 1) attention weights.
        valid: (B, N), 1 where the pair of points counts.
        not_search: (B, N, N), 1 where point j of image 1 is too close to point i's match to be
            its negative (the diagonal included).
        temperature: T of the weights exp(attention0 / T), normalised over the image.

    Returns:
        Scalar.
    """
    between = distances(descriptors0 * attention0, descriptors1 * attention1)
    positive = torch.diagonal(between, dim1=1, dim2=2)
    hardest = (between + UNREACHABLE * not_search).amin(dim=2)
    weight = torch.exp(attention0.squeeze(-1) / temperature) * valid
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-5)
    return (torch.relu(margin + positive - hardest) * weight).sum(dim=1).mean()


def matching_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    valid: Tensor,
    not_search: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """Cross entropy of the matches that mutual nearest neighbours would take (not in the paper).

    Every descriptor must be more similar to its match than to any other of the batch: the other
    images' points are negatives too. It looks at all negatives and at unit-length descriptors, as
    matching does, where the triplet loss looks at one and weights them by attention.

    Arguments: as in :func:`triplet_loss`; ``temperature`` divides the cosine similarities.

    Returns:
        Scalar: the mean over both directions and all valid points.
    """
    pairs, points, _ = descriptors0.shape
    similarity = descriptors0.flatten(0, 1) @ descriptors1.flatten(0, 1).t() / temperature
    same = torch.eye(points, device=valid.device, dtype=torch.bool)
    blocked = torch.block_diag(*((not_search > 0) & ~same).unbind(0))
    blocked = blocked | ~(valid.flatten() > 0)[None]
    blocked = blocked & ~torch.eye(pairs * points, device=valid.device, dtype=torch.bool)
    similarity = similarity.masked_fill(blocked, -torch.inf)
    target = torch.arange(pairs * points, device=valid.device)
    forward = F.cross_entropy(similarity, target, reduction="none")
    # Columns are the same problem seen from the other image; blocked entries stay blocked.
    similarity = similarity.masked_fill(~(valid.flatten() > 0)[:, None], -torch.inf)
    similarity = torch.where(
        torch.eye(pairs * points, device=valid.device, dtype=torch.bool),
        torch.nan_to_num(similarity, neginf=0.0),
        similarity,
    )
    backward = F.cross_entropy(similarity.t(), target, reduction="none")
    counted = valid.flatten()
    return ((forward + backward) * counted).sum() / (2 * counted.sum()).clamp(min=1)


def edge_loss(edges: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the edge map against the teacher's (the paper's L_edge).

    Arguments:
        edges: (B, 1, h, w) in (0, 1); target: (B, H, W) in [0, 1], any larger size.
    """
    target = F.interpolate(target[:, None], edges.shape[-2:], mode="bilinear", align_corners=False)
    return F.mse_loss(edges.float(), target)
