"""The list of the verified pairs of a database that are left out as those of lookalike places."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..files import provenance
from ..files.outputs import Output
from ..files.pair_lists import pairs_text, read_pairs
from . import lookalikes
from .database import unreadable
from .library import pycolmap

logger = logging.getLogger(__name__)

FILE = "pairs-lookalike.txt"
"""The list's name among the outputs of a reconstruction."""


def main(database: Path, output: Path, *, overwrite: bool = False) -> Path:
    """Write the verified pairs that join places which contradict each other, see `lookalikes`.

    Args:
        database: verified matches, see `photo_database`.
        output: the list to write, ``name0 name1`` a line; empty where no pair is left out.
        overwrite: replace a list that was made with other settings.

    Raises:
        SamfeatError: the database cannot be read, or `output` was made differently.
    """
    made_by = provenance.made_by(
        "lookalike_pairs",
        {
            "neighbours": [lookalikes.NEIGHBOURS, lookalikes.MOVES_WITH, lookalikes.STEADY],
            "deviation": [lookalikes.DEVIATION, lookalikes.PRECISION],
            "weak": lookalikes.WEAK,
            "confirmed": [lookalikes.CONFIRMED, lookalikes.LEAST_CONFIRMED],
            "unconfirmed": lookalikes.UNCONFIRMED,
            "contradict": lookalikes.CONTRADICT,
        },
        {"database": provenance.file_hash(provenance.sidecar(database))},
    )
    result = Output(output, made_by, overwrite=overwrite)
    if not result.is_there():
        with result.making():
            names, pairs = read(database)
            left_out = pairs.images[lookalikes.lookalikes(pairs)]
            if len(left_out):
                logger.warning(
                    "lookalikes: %d of %d verified pairs left out: they would join places that "
                    "look alike (--no-places keeps them)",
                    len(left_out), len(pairs.images),
                )  # fmt: skip
            result.write_text(pairs_text((names[a], names[b]) for a, b in left_out))
    return output


def left_out_by(listed: Path | None) -> list[tuple[str, str]]:
    """The pairs of such a list; none where it is empty, not there or None."""
    if listed is None or not listed.is_file() or not listed.stat().st_size:
        return []
    return read_pairs(listed)


def read(database: Path) -> tuple[list[str], lookalikes.Pairs]:
    """The names of a database's images, and its verified pairs.

    Raises:
        SamfeatError: it cannot be read.
    """
    try:
        with pycolmap.Database.open(str(database)) as opened:
            images = sorted(opened.read_all_images(), key=lambda image: image.image_id)
            index = {image.image_id: i for i, image in enumerate(images)}
            keypoints = [
                np.asarray(opened.read_keypoints(image.image_id), dtype=float).reshape(
                    opened.num_keypoints_for_image(image.image_id), -1
                )[:, :2]
                for image in images
            ]
            apart = np.zeros((len(images), len(images)), dtype=bool)
            matches = dict(zip(*opened.read_num_matches(), strict=True))
            for pair in matches:
                one, other = (index[i] for i in pycolmap.pair_id_to_image_pair(pair))
                apart[one, other] = apart[other, one] = True
            members, inliers, num_matches = [], [], []
            for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True):
                found = np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
                if len(found):
                    members.append([index[i] for i in pycolmap.pair_id_to_image_pair(pair)])
                    inliers.append(found)
                    num_matches.append(matches[pair])
    except Exception as error:  # pycolmap raises whatever its C++ does
        raise unreadable(database, error) from error
    return [image.name for image in images], lookalikes.Pairs(
        keypoints,
        np.array(members, dtype=np.int64).reshape(-1, 2),
        inliers,
        np.array(num_matches, dtype=np.int64),
        apart,
    )
