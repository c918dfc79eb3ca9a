"""What several label maps of one photo say together: how far they agree.

Several people, or several runs of any segmenter, divide a photo into segments whose numbers mean
nothing beyond their map. Edges are the share of the maps that have a border there, the relation of
two places is the share of the maps that have both in one segment, and groups are those of the
finest map that most of the others agree with.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .cache import Taught
from .maps import borders, cells_of, soft_edges

TOLERANCE = 3  # pixels: how far apart two people draw the same border
MAJORITY = 0.5


def taught_by_several(maps: Sequence[np.ndarray], cell: int) -> Taught:
    """What label maps (H, W) of one photo, all of one size, say together.

    The embedding is a factor of the relation matrix. For each of the K maps and each of its
    segments it has one dimension: the share of the cell that lies in the segment, over sqrt(K). So
    the product of two cells is the probability that a map drawn at random has a pixel of one and
    a pixel of the other in the same segment. Its cosines, which the losses compare, are the shares
    themselves where cells lie in one segment of every map, and rise to 1 on the diagonal.

    Arguments:
        maps: label numbers, -1 where there is none: such a place is related to no other in this
            map.
        cell: pixels to a cell of the embedding.
    """
    shares = []
    for labels in maps:
        for number in np.unique(labels[labels >= 0]):
            shares.append((labels == number).astype(np.float32))
    if not shares:
        shares = [np.zeros(maps[0].shape, np.float32)]
    embedding = np.concatenate([cells_of(share[..., None], cell) for share in shares])
    strength, agreed = border_shares(maps)
    return Taught(
        embedding / np.float32(np.sqrt(len(maps))), finest(maps, agreed), soft_edges(strength)
    )


def border_shares(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """How strong the borders of several maps (H, W) are.

    Two borders are the same where they are at most :data:`TOLERANCE` pixels apart: nobody draws
    more exactly.

    Returns:
        On each map's borders the share of the maps that have a border there, and 0 elsewhere,
        (H, W) float32; and for each map the mean share of the other maps along its borders, 1
        for the only map and for one without borders.
    """
    drawn = [borders(labels) for labels in maps]
    side = 2 * TOLERANCE + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    near = [cv2.dilate(lines, disc) for lines in drawn]
    count = np.sum(near, axis=0)
    strength = np.max(drawn, axis=0) * count / len(maps)
    agreed = [
        float((count[lines > 0] - 1).mean()) / (len(maps) - 1)
        if len(maps) > 1 and lines.any() else 1.0
        for lines in drawn
    ]  # fmt: skip
    return strength.astype(np.float32), agreed


def finest(maps: Sequence[np.ndarray], agreed: Sequence[float]) -> np.ndarray:
    """The map (H, W) with the most segments among those whose borders most others have too.

    Arguments:
        agreed: see :func:`border_shares`. Where no map reaches :data:`MAJORITY`, the one with the
            most agreement is taken.
    """
    segments = [len(np.unique(labels[labels >= 0])) for labels in maps]
    most = [index for index, share in enumerate(agreed) if share > MAJORITY]
    if not most:
        return maps[int(np.argmax(agreed))].astype(np.int32)
    return maps[max(most, key=lambda index: (segments[index], agreed[index]))].astype(np.int32)
