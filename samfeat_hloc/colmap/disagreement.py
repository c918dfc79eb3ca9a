"""Verified pairs that a finished model contradicts, although their photos share much.

In a right model hardly any does. In one that joins places which look alike, photos have been put
where some of their neighbours are not, and the pairs with these no longer fit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ..errors import SamfeatError, in_one_line
from .epipolar import epipolar_errors
from .library import pycolmap
from .lookalikes import Pairs, weak

SUSPICIOUS = 3  # such pairs; measured, a right model has one at most
_FITS = 0.3  # of a pair's inliers fit the poses, at the least
_MUCH = 0.5  # times the share of inliers of the best pair of both photos
_MAX_ERROR = 4.0  # pixels, as COLMAP verifies


def disagreeing(
    names: Sequence[str], pairs: Pairs, model: Path, left_out: Collection[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """The pairs of a model's images that share much, and hardly fit the model's poses.

    Args:
        names, pairs: the images and verified pairs of a database, see `lookalike_pairs.read`.
        model: folder of a COLMAP model of it.
        left_out: pairs that the model was made without.

    Raises:
        SamfeatError: the model cannot be read.
    """
    try:
        opened = pycolmap.Reconstruction(str(model))
    except Exception as error:  # pycolmap raises whatever its C++ does
        raise SamfeatError(model, f"cannot be read ({in_one_line(error)})") from error
    poses, cameras = {}, {}
    for image in opened.images.values():
        if image.has_pose:
            poses[image.name] = image.cam_from_world()
            cameras[image.name] = opened.cameras[image.camera_id]
    shares = np.array([len(found) for found in pairs.inliers]) / np.maximum(pairs.num_matches, 1)
    much = ~weak(pairs.images, shares, len(names), _MUCH)
    unused = {frozenset(pair) for pair in left_out}
    found = []
    for number in map(int, np.flatnonzero(much)):
        one, other = (names[i] for i in pairs.images[number])
        if one not in poses or other not in poses or frozenset((one, other)) in unused:
            continue
        ends = zip((one, other), pairs.images[number], pairs.inliers[number].T, strict=True)
        rays = [
            np.asarray(cameras[name].cam_from_img(pairs.keypoints[i][rows]), dtype=float)
            for name, i, rows in ends
        ]
        errors0, errors1 = epipolar_errors(
            (poses[other] * poses[one].inverse()).matrix(), rays[0], rays[1]
        )
        limit0, limit1 = (cameras[n].cam_from_img_threshold(_MAX_ERROR) for n in (one, other))
        # not (... > ...): photos from one spot have no epipolar geometry to contradict
        fits = ~(errors0 > limit0) & ~(errors1 > limit1)
        if fits.mean() < _FITS:
            found.append((one, other))
    return found
