"""Why photos are in no model: what COLMAP's database of verified matches has of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .database import unreadable
from .library import pycolmap
from .structure_from_motion import TO_REGISTER


@dataclass(frozen=True, eq=False)
class Unplaced:
    """A photo that is in no model.

    reason: in a sentence.
    partner: the photo with which it has most verified matches, one of a model before others; None
        where it has none.
    verified: (K, 2) int64, these matches: index of the keypoint in the photo, in the partner.
    """

    reason: str
    partner: str | None
    verified: np.ndarray


def names_in(database: Path) -> list[str]:
    """The names of all photos of a database, sorted.

    Raises:
        SamfeatError: it cannot be read.
    """
    try:
        with pycolmap.Database.open(str(database)) as opened:
            return sorted(image.name for image in opened.read_all_images())
    except Exception as error:  # pycolmap raises whatever its C++ does
        raise unreadable(database, error) from error


def unplaced(
    database: Path, placed: Collection[str], lookalikes: Collection[tuple[str, str]] = ()
) -> dict[str, Unplaced]:
    """The photos of a database that are in no model, each with the reason.

    Args:
        database: with verified matches, as `samfeat reconstruct` leaves it.
        placed: names of the photos that are in a model.
        lookalikes: verified pairs that were left out, see `lookalike_pairs`.

    Raises:
        SamfeatError: it cannot be read.
    """
    placed = set(placed)
    unused = {frozenset(pair) for pair in lookalikes}
    try:
        with pycolmap.Database.open(str(database)) as opened:
            names = {image.image_id: image.name for image in opened.read_all_images()}
            pairs, inliers = opened.read_two_view_geometry_num_inliers()
            best: dict[int, tuple[bool, bool, int, int]] = {}  # used, of a model, inliers, partner
            for pair, number in zip(pairs, inliers, strict=True):
                a, b = pycolmap.pair_id_to_image_pair(pair)
                for one, other in ((a, b), (b, a)):
                    used = not unused or frozenset((names[one], names[other])) not in unused
                    found = (used, names[other] in placed, int(number), other)
                    if number and names[one] not in placed:
                        best[one] = max(best.get(one, (False, False, 0, 0)), found)
            result = {}
            for number, name in sorted(names.items(), key=lambda item: item[1]):
                if name in placed:
                    continue
                if number not in best:
                    count = len(opened.read_keypoints(number))
                    result[name] = Unplaced(_alone(count), None, np.zeros((0, 2), dtype=np.int64))
                    continue
                used, in_model, count, other = best[number]
                geometry = opened.read_two_view_geometry(number, other)
                verified = np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
                told = _together(count, names[other], in_model) if used else _alike(names[other])
                result[name] = Unplaced(told, names[other], verified)
            return result
    except Exception as error:
        raise unreadable(database, error) from error


def _alone(keypoints: int) -> str:
    if not keypoints:
        return "no keypoints were found in it"
    return "no other photo shows the same: none has matches with it that fit one geometry"


def _together(count: int, partner: str, in_model: bool) -> str:
    matches = f"{count} verified match{'es' if count != 1 else ''}"
    if not in_model:
        return (
            f"it matches only photos that are in no model either ({matches} with {partner}), and "
            "COLMAP found no two of them to start a model with"
        )
    if count < TO_REGISTER:
        return (
            f"too little in common with the photos of the model: {matches} with {partner}, the "
            f"most; COLMAP wants {TO_REGISTER} with points of the model"
        )
    return (
        f"{matches} with {partner}, but too few of them are with points of the model, or they "
        "agree on no pose"
    )


def _alike(partner: str) -> str:
    return (
        f"its matches were left out, as they would join places that look alike; the most are with "
        f"{partner} (`--no-places` keeps them)"
    )
