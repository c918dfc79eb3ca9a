"""Pairs that need neither points nor descriptors: of near cameras, and of all images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..colmap.model import file_of, read_content
from ..colmap.nearby import MOST_ANGLE, nearest_views
from ..errors import SamfeatError
from ..files import provenance
from ..files.images import check_name
from ..files.outputs import Output
from .pairs import check_count, write_pairs

logger = logging.getLogger(__name__)


def from_poses(
    model: Path,
    output: Path,
    *,
    num_matched: int = 20,
    most_angle: float = MOST_ANGLE,
    overwrite: bool = False,
) -> Path:
    """Pair every image of a COLMAP model with those that stand nearest and look the same way.

    Arguments:
        model: folder of the model, binary or text; it needs no points.
        output: the pairs file to write.
        num_matched: at most so many pairs for each image.
        most_angle: between viewing directions, in degrees; images at it and above are no pair.

    Raises:
        SamfeatError: no model, a damaged one, or one of a single image; an output that was made
            differently.
    """
    check_count(num_matched)
    if not 0 < most_angle <= 180:
        raise SamfeatError("most_angle", f"{most_angle} is not possible", "give 0 to 180 degrees")
    made_by = provenance.made_by(
        "pairs",
        {"from": "poses", "num_matched": num_matched, "most_angle": most_angle},
        {"model": provenance.file_hash(file_of(model, "images"))},
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    found = nearest_views(read_content(model).poses, num_matched, most_angle)
    pairs = [(name, other) for name, others in found.items() for other in others]
    if not pairs:
        raise SamfeatError(
            model, f"no two cameras look the same way within {most_angle:g}°", "check its poses"
        )
    if alone := [name for name, others in found.items() if not others]:
        logger.warning(
            "pairs: %d of %d images look like no other, e.g. %s", len(alone), len(found), alone[0]
        )
    return write_pairs(result, pairs)


def exhaustive(
    names: Sequence[str],
    output: Path,
    *,
    others: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Pair every image with every other.

    Arguments:
        names: the images.
        output: the pairs file to write.
        others: pair with all of these instead, as queries with the database; an image is never
            paired with itself.

    Raises:
        SamfeatError: no pair, a name that no list can hold, or an output that was made
            differently.
    """
    first = [check_name(name) for name in dict.fromkeys(names)]
    second = None if others is None else [check_name(name) for name in dict.fromkeys(others)]
    inputs = {"images": provenance.names_hash(first)}
    if second is None:
        pairs = [(a, b) for number, a in enumerate(first) for b in first[number + 1 :]]
    else:
        inputs["others"] = provenance.names_hash(second)
        pairs = [(a, b) for a in first for b in second if a != b]
    if not pairs:
        raise SamfeatError(output, "there are no two images to pair", "check the lists")
    made_by = provenance.made_by("pairs", {"from": "exhaustive"}, inputs)
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    return write_pairs(result, pairs)
