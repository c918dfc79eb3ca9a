"""Pairs of images that come one after the other: frames of a video, photos of a walk or a drive.

Each image is paired with those that follow it soon, and with those that look alike from another
time: where the way comes back to a place, these close the loop. Every folder is a sequence of its
own, in the natural order of its names: ``2.jpg`` before ``10.jpg``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SamfeatError
from ..files import provenance
from ..files.images import check_name
from ..files.outputs import Output
from ..files.pair_lists import pairs_text
from .pairs import most_similar

logger = logging.getLogger(__name__)

OVERLAP = 10  # as in COLMAP
_NUMBER = re.compile(r"(\d+)")


def main(
    names: Sequence[str],
    output: Path,
    *,
    overlap: int = OVERLAP,
    descriptors: Path | None = None,
    num_retrieved: int = 20,
    overwrite: bool = False,
) -> Path:
    """Pair images of sequences.

    Arguments:
        names: the images; the folder in a name is its sequence.
        output: the pairs file to write.
        overlap: see :func:`neighbours`.
        descriptors: file with a ``global_descriptor`` for each image; None closes no loops.
        num_retrieved: at most so many of the most similar images are paired with each, of those
            that are more than 2 ``overlap`` images away or in another sequence.

    Raises:
        SamfeatError: fewer than two images, a name that no list can hold, a descriptor that is
            missing or broken, or an output that was made differently.
    """
    for option, number in (("overlap", overlap), ("num_retrieved", num_retrieved)):
        if number < 1:
            raise SamfeatError(option, f"{number} is not possible", "give a number from 1")
    images = [check_name(name) for name in dict.fromkeys(names)]
    if len(images) < 2:
        raise SamfeatError(output, "there are no two images to pair", "check the images")
    config: dict[str, object] = {"from": "sequence", "overlap": overlap}
    inputs = {"images": provenance.names_hash(images)}
    if descriptors is not None:
        config["num_retrieved"] = num_retrieved
        inputs["descriptors"] = provenance.file_hash(descriptors)
    result = Output(output, provenance.made_by("pairs", config, inputs), overwrite=overwrite)
    if result.is_there():
        return output
    sequences = in_sequences(images)
    pairs = [pair for sequence in sequences for pair in neighbours(sequence, overlap)]
    loops: list[tuple[str, str]] = []
    if descriptors is not None:
        loops = _loops(sequences, descriptors, num_retrieved, 2 * overlap, set(pairs))
    if not pairs and not loops:
        raise SamfeatError(
            output, "every image is in a folder of its own", "give a folder to each sequence"
        )
    logger.info(
        "pairs: %s, %d of neighbours in %d sequences, %d that look alike",
        output, len(pairs), len(sequences), len(loops),
    )  # fmt: skip
    return result.write_text(pairs_text([*pairs, *loops]))


def natural_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the numbers in them: ``frame2`` before ``frame10``."""

    def key(name: str) -> tuple[list[tuple[int, str, int]], str]:
        parts = [
            (0, "", int(part)) if part.isdecimal() else (1, part, 0)
            for part in _NUMBER.split(name)
            if part
        ]
        return parts, name

    return sorted(names, key=key)


def in_sequences(names: Iterable[str]) -> list[list[str]]:
    """The images of each folder, in natural order; the folders too."""
    found: dict[str, list[str]] = {}
    for name in natural_order(names):
        found.setdefault(name.rpartition("/")[0], []).append(name)
    return list(found.values())


def neighbours(sequence: Sequence[str], overlap: int = OVERLAP) -> list[tuple[str, str]]:
    """Pairs of a sequence with quadratic overlap, as COLMAP makes them.

    Each image is paired with the ``overlap`` that follow it, and with those that follow it by a
    power of two, 1, 2, 4 to 2^(overlap - 1).
    """
    steps = {*range(1, overlap + 1)}
    steps |= {1 << k for k in range(overlap) if 1 << k < len(sequence)}
    return [
        (name, sequence[number + step])
        for number, name in enumerate(sequence)
        for step in sorted(steps)
        if number + step < len(sequence)
    ]


def _loops(
    sequences: Sequence[Sequence[str]],
    descriptors: Path,
    count: int,
    away: int,
    known: set[tuple[str, str]],
) -> list[tuple[str, str]]:
    """Pairs of images that look alike and are no neighbours; each pair once."""
    places = {
        name: (which, number)
        for which, names in enumerate(sequences)
        for number, name in enumerate(names)
    }
    found: dict[str, list[str]] = {}
    # the neighbours are alike most of all
    for name, other in most_similar(descriptors, list(places), count + 2 * away):
        (sequence, number), (another, place) = places[name], places[other]
        if sequence != another or abs(number - place) > away:
            found.setdefault(name, []).append(other)
    taken = set(known)
    pairs: list[tuple[str, str]] = []
    for name, alike in found.items():
        for other in alike[:count]:
            if (name, other) not in taken and (other, name) not in taken:
                taken.add((name, other))
                pairs.append((name, other))
    return pairs
