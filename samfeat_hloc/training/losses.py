"""The losses, each a pure function of tensors.

B pairs (or images), N descriptor points a pair, D descriptor dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..feature.detection import peak_neighbourhoods, soft_argmax

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
    x, y = whole.unbind(-1)
    counted = present * (whole >= radius).all(-1) * (x < width - radius) * (y < height - radius)
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
    too_close: Tensor,
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
        too_close: (B, N, N), 1 where point j of image 1 is too close to point i's match to be
            its negative (the diagonal included).
        temperature: T of the weights exp(attention0 / T), normalised over the image.

    Returns:
        Scalar.
    """
    between = distances(descriptors0 * attention0, descriptors1 * attention1)
    positive = torch.diagonal(between, dim1=1, dim2=2)
    hardest = (between + UNREACHABLE * too_close).amin(dim=2)
    weight = torch.exp(attention0.squeeze(-1) / temperature) * valid
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-5)
    return (torch.relu(margin + positive - hardest) * weight).sum(dim=1).mean()


def kept_loss(descriptors0: Tensor, descriptors1: Tensor, before0: Tensor, valid: Tensor) -> Tensor:
    """How far descriptors are from those that training began with, of the first view.

    The second view's are held to them too, as theirs is the same point: where it is a night, it is
    drawn to the day.

    Arguments:
        descriptors0, descriptors1: (B, N, D) of unit length; row i of one matches row i of the
            other.
        before0: (B, N, D) of unit length, of the first view, by the weights at the start.
        valid: (B, N), 1 where the pair of points counts.

    Returns:
        Scalar: one minus the mean cosine.
    """
    alike = (descriptors0 * before0).sum(-1) + (descriptors1 * before0).sum(-1)
    return ((1 - alike / 2) * valid).sum() / valid.sum().clamp(min=1)


def matching_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    valid: Tensor,
    too_close: Tensor,
    *,
    temperature: float = 0.05,
    unseen0: Tensor | None = None,
    unseen1: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the matches that mutual nearest neighbours would take (not in the paper).

    Every descriptor must be more similar to its match than to any other of the batch: the other
    images' points are negatives too. It looks at all negatives and at unit-length descriptors, as
    matching does, where the triplet loss looks at one and weights them by attention.

    Arguments: as in :func:`triplet_loss`; ``temperature`` divides the cosine similarities.
        unseen0, unseen1: (U, D) and (V, D), descriptors of unit length of keypoints of the first
        and the second images that have no match: further negatives of the others' points.

    Returns:
        Scalar: the mean over both directions and all valid points.
    """
    pairs, points, _ = descriptors0.shape
    similarity = descriptors0.flatten(0, 1) @ descriptors1.flatten(0, 1).t() / temperature
    same = torch.eye(points, device=valid.device, dtype=torch.bool)
    blocked = torch.block_diag(*((too_close > 0) & ~same).unbind(0))
    blocked = blocked | ~(valid.flatten() > 0)[None]
    blocked = blocked & ~torch.eye(pairs * points, device=valid.device, dtype=torch.bool)
    similarity = similarity.masked_fill(blocked, -torch.inf)
    target = torch.arange(pairs * points, device=valid.device)
    forward = F.cross_entropy(
        _beside(similarity, descriptors0, unseen1, temperature), target, reduction="none"
    )
    # Columns are the same problem seen from the other image; blocked entries stay blocked.
    similarity = similarity.masked_fill(~(valid.flatten() > 0)[:, None], -torch.inf)
    similarity = torch.where(
        torch.eye(pairs * points, device=valid.device, dtype=torch.bool),
        torch.nan_to_num(similarity, neginf=0.0),
        similarity,
    )
    backward = F.cross_entropy(
        _beside(similarity.t(), descriptors1, unseen0, temperature), target, reduction="none"
    )
    counted = valid.flatten()
    return ((forward + backward) * counted).sum() / (2 * counted.sum()).clamp(min=1)


def _beside(
    similarity: Tensor, descriptors: Tensor, unseen: Tensor | None, temperature: float
) -> Tensor:
    """Similarities (R, C) of descriptors (B, N, D), R in all, with those to unseen ones beside."""
    if unseen is None:
        return similarity
    return torch.cat([similarity, descriptors.flatten(0, 1) @ unseen.t() / temperature], dim=1)


def relations(maps: Tensor) -> Tensor:
    """Cosine similarities of all places of maps (B, C, h, w) with each other, (B, h*w, h*w)."""
    vectors = F.normalize(maps.float().flatten(2), dim=1, eps=1e-7)
    return vectors.transpose(1, 2) @ vectors


def psrd_loss(student: Tensor, teacher: Tensor, known: Tensor | None = None) -> Tensor:
    """Pixel semantic relation distillation (the paper's first version).

    Mean absolute difference of the student's and the teacher's relation matrices. The release's
    ASRD is this as well: it multiplies both maps by the attention before the cosine, which divides
    by the length again, so the attention falls out.

    Arguments:
        student: (B, C, h, w), the network's distillation map. teacher: (B, D, H, W), resized to
        the student's (h, w). known: (B,), 1 where there is a teacher; None means everywhere.

    Returns:
        Scalar.
    """
    return _relation_loss(student, teacher, None, known)


def asrd_loss(
    student: Tensor, teacher: Tensor, attention: Tensor, known: Tensor | None = None
) -> Tensor:
    """Attention-weighted semantic relation distillation (the paper's L_dis).

    The mean absolute difference of the two relation matrices, each relation weighted by the
    attention at both of its places, which are normalised to a mean of 1 in every image. No gradient
    flows into the attention: it could lower the loss by looking away.

    Arguments:
        student, teacher, known: as in :func:`psrd_loss`. attention: (B, 1, H, W), positive.

    Returns:
        Scalar.
    """
    attention = F.interpolate(
        attention.detach().float(), student.shape[-2:], mode="bilinear", align_corners=False
    ).flatten(1)
    weight = attention / attention.mean(dim=1, keepdim=True).clamp(min=1e-7)
    return _relation_loss(student, teacher, weight, known)


def _relation_loss(
    student: Tensor, teacher: Tensor, weight: Tensor | None, known: Tensor | None
) -> Tensor:
    teacher = F.interpolate(
        teacher.float(), student.shape[-2:], mode="bilinear", align_corners=False
    )
    difference = (relations(student) - relations(teacher)).abs()
    if weight is not None:
        difference = difference * weight[:, :, None] * weight[:, None]
    return _mean_over(difference.mean(dim=(1, 2)), known)


def _mean_over(values: Tensor, known: Tensor | None) -> Tensor:
    """Mean of values (B,) over the images that a teacher knows; 0 where it knows none."""
    known = torch.ones_like(values) if known is None else known.to(values)
    return (values * known).sum() / known.sum().clamp(min=1)


def wsc_loss(
    descriptors: Tensor, attention: Tensor, groups: Tensor, too_close: Tensor, *,
    margin: float = 0.07, temperature: float = 5.0,
) -> Tensor:  # fmt: skip
    """Weakly supervised contrast by semantic groups, the release's InfoNCE form (L_wsc).

    Points of one group of an image are positives, points of other groups negatives; distances of
    positives count from ``margin``, so that a group keeps its variety. As in the release, entries
    that are neither contribute exp(0) to both sums.

    Arguments:
        descriptors: (B, N, D) of unit length. attention: (B, N, 1).
        groups: (B, N), -1 where no group. too_close: (B, N, N), 1 where two points are too close.

    Returns:
        Scalar, of one side of the pairs; the release averages both.
    """
    distance, positive, negative = _grouped(descriptors, attention, groups, too_close)
    near = torch.exp(-torch.maximum(margin * positive, distance * positive) / temperature)
    far = torch.exp(-distance * negative / temperature)
    return -torch.log(near.sum(1) / (near.sum(1) + far.sum(1))).mean()


def wsc_margin_loss(
    descriptors: Tensor, attention: Tensor, groups: Tensor, too_close: Tensor, *,
    margin: float = 0.07, temperature: float = 5.0,
) -> Tensor:  # fmt: skip
    """Weakly supervised contrast, the paper's margin form with M and T.

    A point's mean distance D_pos to its own group, at least M, against that to the others, D_neg:
    ``-log(exp(-max(D_pos, M) / T) / (exp(-max(D_pos, M) / T) + exp(-D_neg / T)))``, averaged over
    the points that have both. Points within the not-search radius play no part.

    Arguments and return value: as in :func:`wsc_loss`.
    """
    distance, positive, negative = _grouped(descriptors, attention, groups, too_close)
    apart = 1 - too_close
    positive, negative = positive * apart, negative * apart
    counts = positive.sum(2), negative.sum(2)
    own = ((distance * positive).sum(2) / counts[0].clamp(min=1)).clamp(min=margin)
    others = (distance * negative).sum(2) / counts[1].clamp(min=1)
    both = ((counts[0] > 0) & (counts[1] > 0)).to(distance.dtype)
    return (F.softplus((own - others) / temperature) * both).sum() / both.sum().clamp(min=1)


def _grouped(
    descriptors: Tensor, attention: Tensor, groups: Tensor, too_close: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances within an image (B, N, N), which of them are in a group, and which between two."""
    weighted = descriptors * attention
    distance = distances(weighted, weighted) + UNREACHABLE * too_close
    known = (groups >= 0)[:, :, None] & (groups >= 0)[:, None]
    same = groups[:, :, None] == groups[:, None]
    return distance, (known & same).to(distance), (known & ~same).to(distance)


def edge_loss(edges: Tensor, target: Tensor, *, kind: str = "mse") -> Tensor:
    """The edge map against the teacher's (the paper's L_edge).

    Arguments:
        edges: (B, 1, h, w) in (0, 1); target: (B, H, W) in [0, 1], any larger size.
        kind: "mse", mean squared error, as published; "bce", binary cross entropy.
    """
    target = F.interpolate(target[:, None], edges.shape[-2:], mode="bilinear", align_corners=False)
    if kind == "bce":
        # In float32: half precision rounds a sure 1 - 1e-4 to 1, whose loss is infinite.
        return F.binary_cross_entropy(edges.float().clamp(1e-4, 1 - 1e-4), target)
    return F.mse_loss(edges.float(), target)
