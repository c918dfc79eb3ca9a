"""Global descriptors for retrieval that need nothing but the feature file: VLAD.

The vocabulary is learned from the database's own descriptors. Each descriptor goes to its nearest
word; a word's residuals are summed and normalised on their own, so that repeated texture in one
word does not drown the rest; then the whole vector is normalised (Arandjelovic and Zisserman, "All
about VLAD", 2013).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from ..errors import SamfeatError, require_known
from ..feature.halves import as_floats
from ..files import provenance
from ..files.feature_readers import read_descriptors
from ..files.h5arrays import group_names, open_hdf5
from ..files.h5store import Group, SegmentWriter
from ..parallel.devices import device_of, to_device
from ..progress import tqdm
from . import vocabulary

logger = logging.getLogger(__name__)

VOCABULARY = "vocabulary"  # the attribute of the output's root
_SEED = 0
_TRAIN_PER_CLUSTER = 1024


def main(
    features: Path,
    db_names: Sequence[str],
    query_names: Sequence[str],
    output: Path,
    *,
    clusters: int = 64,
    device: str | torch.device | None = None,
    overwrite: bool = False,
) -> Path:
    """Describe every image by one vector of ``clusters * D`` float32 of unit length.

    A group an image with the dataset ``global_descriptor``, as hloc's retrieval reads it; the
    vocabulary (clusters, D) float32 is the root's attribute ``vocabulary``. An image without
    keypoints has the zero vector.

    The vocabulary is the same whenever it is learned from the same descriptors on the same device;
    an image that was described with another one is described anew.

    Arguments:
        features: the feature file.
        db_names: images to learn the vocabulary from and to describe.
        query_names: images to describe only.
        clusters: size of the vocabulary.
        device: where to compute; see :func:`samfeat_hloc.parallel.devices.device_of`.
        overwrite: describe all anew.

    Raises:
        SamfeatError: images without features, too few descriptors for the vocabulary, descriptors
            that are broken, an output that was created with other settings.
    """
    if not 1 <= clusters <= 4096:
        raise SamfeatError(
            "clusters", f"{clusters} is not possible", "give a number from 1 to 4096"
        )
    chosen = device_of(device)
    db_names = list(dict.fromkeys(db_names))
    names = list(dict.fromkeys([*db_names, *query_names]))
    made_by = provenance.made_by(
        "global_descriptors",
        {"method": "vlad", "kmeans": "lloyd", "clusters": clusters, "seed": _SEED},
        {"features": provenance.file_hash(features), "db": provenance.names_hash(db_names)},
    )
    with SegmentWriter(output, made_by, overwrite=overwrite) as writer:
        described_with = {writer.done.get(name, "") for name in names}
        if len(described_with) == 1 and writer.is_finished(
            dict.fromkeys(names, described_with.pop())
        ):
            return output
        with open_hdf5(features) as file:
            known = set(group_names(file, "descriptors"))
            require_known(names, known, features, "no features of", "extract them first")
            drawn = sample(file, db_names, clusters, features)
            words = learn_vocabulary(drawn, clusters, features, device=chosen)
            _describe(writer, file, features, names, words, chosen)
        return writer.finish(attributes={VOCABULARY: words})


def with_vocabulary(
    features: Path,
    names: Sequence[str],
    output: Path,
    words: np.ndarray,
    *,
    device: str | torch.device | None = None,
    overwrite: bool = False,
) -> Path:
    """As :func:`main`, with a vocabulary that is there: images can be added to an output later.

    Arguments:
        features: the feature file.
        names: images to describe; others that the output has stay in it.
        words: the vocabulary (K, D) float32.

    Raises:
        SamfeatError: images without features, an output of another vocabulary.
    """
    made_by = provenance.made_by(
        "global_descriptors", {"method": "vlad"}, {"vocabulary": _hash(words)}
    )
    with SegmentWriter(output, made_by, overwrite=overwrite) as writer:
        if writer.is_finished(dict.fromkeys(names, _hash(words))):
            return output
        with open_hdf5(features) as file:
            _describe(writer, file, features, names, words, device_of(device))
        return writer.finish(attributes={VOCABULARY: words})


def read_vocabulary(path: Path) -> np.ndarray | None:
    """The vocabulary (K, D) float32 of a file of global descriptors; None where it has none."""
    with open_hdf5(path) as file:
        words = file.attrs.get(VOCABULARY)
    return None if words is None else np.asarray(words)


def vocabulary_of(
    features: Path, names: Sequence[str], *, clusters: int, device: str | torch.device | None = None
) -> np.ndarray:
    """The vocabulary (clusters, D) float32 that :func:`main` learns from images of a feature file.

    Raises:
        SamfeatError: images without features, or too few of them.
    """
    with open_hdf5(features) as file:
        drawn = sample(file, names, clusters, features)
    return learn_vocabulary(drawn, clusters, features, device=device_of(device))


def _describe(
    writer: SegmentWriter,
    file: h5py.File,
    features: Path,
    names: Sequence[str],
    words: np.ndarray,
    device: torch.device,
) -> None:
    there, source = to_device(torch.from_numpy(words), device), _hash(words)
    left = [name for name in names if writer.done.get(name) != source]
    for name in tqdm(left, desc="global descriptors", unit="image"):
        rows = torch.from_numpy(_descriptors(file, name, features, words.shape[1]))
        vector = vocabulary.vlad(to_device(rows, device), there).cpu().numpy()
        writer.add({name: Group({"global_descriptor": vector}, source=source)})


def sample(file: h5py.File, names: Sequence[str], clusters: int, path: Path) -> np.ndarray:
    """A bounded number of descriptors (M, D) float32, drawn evenly from the images."""
    total = clusters * _TRAIN_PER_CLUSTER
    random = np.random.default_rng(_SEED)
    if len(names) > total:
        names = [names[i] for i in sorted(random.choice(len(names), total, replace=False))]
    each = -(-total // max(1, len(names)))
    drawn: list[np.ndarray] = []
    for name in tqdm(names, desc="vocabulary", delay=2, leave=False):
        rows = _descriptors(file, name, path, drawn[0].shape[1] if drawn else None)
        if len(rows):
            drawn.append(rows[random.permutation(len(rows))[:each]])
    return np.concatenate(drawn)[:total] if drawn else np.zeros((0, 1), dtype=np.float32)


def learn_vocabulary(
    descriptors: np.ndarray, clusters: int, path: Path, *, device: torch.device
) -> np.ndarray:
    """Cluster centres (clusters, D) float32 of descriptors (M, D), by k-means."""
    if len(descriptors) < clusters:
        raise SamfeatError(
            path,
            (
                f"the database images have {len(descriptors)} descriptors, too few for "
                f"{clusters} clusters"
            ),
            "lower --clusters, or check the images",
        )
    points = to_device(torch.from_numpy(np.ascontiguousarray(descriptors)), device)
    return vocabulary.kmeans(points, clusters, seed=_SEED).cpu().numpy()


def vlad(descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Descriptors (N, D) and words (K, D) to the unit vector (K * D,) float32; zero for N = 0."""
    return vocabulary.vlad(torch.from_numpy(descriptors), torch.tensor(words)).numpy()


def _hash(words: np.ndarray) -> str:
    return hashlib.sha256(words.tobytes()).hexdigest()


def _descriptors(file: h5py.File, name: str, path: Path, length: int | None) -> np.ndarray:
    """(N, D) float32."""
    rows = read_descriptors(file, name, path)
    if length is not None and rows.shape[1] != length:
        raise SamfeatError(
            path,
            f"descriptors of {name} have shape {rows.T.shape}",
            "extract all images with the same network",
        )
    return as_floats(rows)
