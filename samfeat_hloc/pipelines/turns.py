"""By how many quarters photos stand turned that say nothing of it: each against those like it.

Features match up to some 60 degrees of roll. Each photo is therefore extracted small, four times,
turned by 0, 90, 180 and 270 degrees. A photo as it is and another at its four turns match well at
one of them: that is how the two stand to each other. Turns go from photo to photo along the pairs
that match best, and the turn that most photos of such a group have counts as none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..errors import SamfeatError
from ..feature.presets import PRESETS
from ..files import provenance
from ..files.feature_readers import FeatureReader
from ..files.masks import Masks
from ..files.outputs import Output
from ..files.textlines import data_lines
from ..localization import features, global_descriptors
from ..localization.decoded_photos import source_of
from ..localization.features import Extract
from ..localization.matches import match_many
from ..parallel.devices import device_of, to_device
from ..progress import tqdm
from . import methods

logger = logging.getLogger(__name__)

_PRESET = "samfeat_fast"
_NEIGHBOURS = 5  # most similar photos, at their most similar turn, that each is matched with
_CLUSTERS = 32
_LEAST = 20  # inliers of the best turn, and how many times those of the second best
_CLEAR = 2.0
_MAX_ERROR = 3.0  # pixels of the photo as extracted

Edge = tuple[int, str, str, int]
"""Inliers, a photo, another, and the quarters by which the other is to be turned to stand as it."""


def main(
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    *,
    model: Any,
    extract: Extract,
    workers: int = 2,
    device: str | None = None,
    masks: Masks | None = None,
    overwrite: bool = False,
) -> dict[str, int]:
    """Find the turns of photos.

    Arguments:
        output: the list to write, ``name degrees`` a line.
        model, extract: of the features, see `features.main`.
        masks: of the photos.

    Returns:
        By photo name the quarters, clockwise, by which it has to be turned from how its EXIF has it
        to stand as the others; those that stand as they are are not in it.

    Raises:
        SamfeatError: as `features.main`, or an output of other photos.
    """
    sources = [f"{name} {source_of(image_dir, name, masks)}" for name in names]
    made_by = provenance.made_by(
        "turns",
        {"preset": _PRESET, "neighbours": _NEIGHBOURS, "least": _LEAST, "clear": _CLEAR},
        {"images": provenance.names_hash(sources)},
        model.weights_sha256,
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return _read(output)
    with result.making() as work:
        files = [
            features.main(
                image_dir, names, work / f"{90 * quarters}.h5", model=model,
                options=PRESETS[_PRESET], workers=workers, extract=extract, masks=masks,
                turns=dict.fromkeys(names, quarters),
            )
            for quarters in range(4)
        ]  # fmt: skip
        found = propagated(names, list(_edges(names, files, device)))
        lines = [f"{name} {90 * quarters}\n" for name, quarters in found.items()]
        result.write_text("".join(lines))
    return found


def propagated(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Turns of photos, in quarters, from how pairs of them stand to each other.

    Pairs with the most inliers first, those that close a circle are left out (a maximum spanning
    tree). In each group that is joined the turn that most photos have is none; of equally many
    that of its first photo.

    Returns:
        As `main`.
    """
    group = {name: {name: 0} for name in names}  # turns relative to each other
    for _, a, b, quarters in sorted(edges, key=lambda edge: (-edge[0], *edge[1:])):
        if group[a] is group[b]:
            continue
        shift = group[a][a] + quarters - group[b][b]
        for name, turn in group[b].items():
            group[a][name] = (turn + shift) % 4
        for name in group[b]:
            group[name] = group[a]
    found: dict[str, int] = {}
    for name in names:
        turns = group[name]
        counts = np.bincount(list(turns.values()), minlength=4)
        first = next(n for n in names if n in turns)
        usual = max(range(4), key=lambda q: (counts[q], q == turns[first]))
        if (turns[name] - usual) % 4:
            found[name] = int((turns[name] - usual) % 4)
    return found


def _edges(names: Sequence[str], files: Sequence[Path], device: str | None) -> Iterator[Edge]:
    """How the pairs of photos stand to each other that match clearly best at one turn."""
    chosen = device_of(device)
    config = methods.match_config("samfeat")
    readers = [FeatureReader(path) for path in files]
    with readers[0], readers[1], readers[2], readers[3]:
        descriptors = {
            (q, name): reader.descriptors(name)
            for q, reader in enumerate(readers)
            for name in names
        }

        def on_device(key: tuple[int, str]) -> torch.Tensor:
            return to_device(torch.from_numpy(descriptors[key]), chosen).float().t()

        pairs = _candidates(names, descriptors, files[0], chosen)
        for a, b in tqdm(pairs, desc="turns", unit="pair", delay=2):
            both = [(on_device((0, a)), on_device((q, b))) for q in range(4)]
            inliers = []
            for q, matched in enumerate(match_many(both, config, workers=1)):
                matches0 = matched.datasets["matches0"].astype(np.int64)
                index = np.flatnonzero(matches0 >= 0)
                places = readers[0].keypoints(a)[index], readers[q].keypoints(b)[matches0[index]]
                error = _MAX_ERROR * max(readers[0].uncertainty(a), readers[q].uncertainty(b))
                inliers.append(_inliers(*places, error))
            best, second = (int(np.argsort(inliers)[place]) for place in (-1, -2))
            if inliers[best] >= max(_LEAST, _CLEAR * inliers[second]):
                yield inliers[best], a, b, best


def _candidates(
    names: Sequence[str],
    descriptors: dict[tuple[int, str], np.ndarray],
    path: Path,
    device: torch.device,
) -> list[tuple[str, str]]:
    """Each photo with those most similar to it at any turn."""
    each = -(-_CLUSTERS * 1024 // len(names))  # of the best
    drawn = np.concatenate([descriptors[0, name][:each] for name in names]).astype(np.float32)
    if len(drawn) < _CLUSTERS:
        return []
    words = global_descriptors.learn_vocabulary(drawn, _CLUSTERS, path, device=device)
    vectors = np.array(
        [
            [global_descriptors.vlad(descriptors[q, n].astype(np.float32), words) for n in names]
            for q in range(4)
        ]
    )
    similarity = np.max(vectors[0] @ vectors.transpose(0, 2, 1), axis=0)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(_NEIGHBOURS, len(names) - 1)]
    pairs = {(min(a, int(b)), max(a, int(b))) for a, row in enumerate(nearest) for b in row}
    return [(names[a], names[b]) for a, b in sorted(pairs)]


def _inliers(keypoints0: np.ndarray, keypoints1: np.ndarray, max_error: float) -> int:
    """How many matches (K, 2), (K, 2) fit one epipolar geometry."""
    if len(keypoints0) < 8:
        return 0
    cv2.setRNGSeed(0)
    _, inliers = cv2.findFundamentalMat(
        keypoints0, keypoints1, cv2.USAC_MAGSAC, max_error, 0.999, 2000
    )
    return 0 if inliers is None else int(inliers.sum())


def _read(path: Path) -> dict[str, int]:
    try:
        return {name: int(degrees) // 90 for _, (name, degrees) in data_lines(path)}
    except ValueError:
        raise SamfeatError(path, "not a list of turns", "make it again with --overwrite") from None
