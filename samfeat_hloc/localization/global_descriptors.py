"""Global descriptors for retrieval that need nothing but the feature file: VLAD.

The vocabulary is learned from the database's own descriptors. Each descriptor goes to its nearest
word; a word's residuals are summed and normalised on their own, so that repeated texture in one
word does not drown the rest; then the whole vector is normalised (Arandjelovic and Zisserman, "All
about VLAD", 2013).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ..errors import SamfeatError, some_of
from ..files import provenance
from ..files.feature_readers import read_descriptors
from ..files.h5arrays import group_names, open_hdf5
from ..files.h5store import Group, SegmentWriter
from ..progress import tqdm

logger = logging.getLogger(__name__)

_SEED = 0
_TRAIN_PER_CLUSTER = 1024
_ITERATIONS = 25


def main(
    features: Path,
    db_names: Sequence[str],
    query_names: Sequence[str],
    output: Path,
    *,
    clusters: int = 64,
    overwrite: bool = False,
) -> Path:
    """Describe every image by one vector of ``clusters * D`` float32 of unit length.

    A group an image with the dataset ``global_descriptor``, as hloc's retrieval reads it; the
    vocabulary (clusters, D) float32 is the root's attribute ``vocabulary``. An image without
    keypoints has the zero vector.

    Arguments:
        features: the feature file.
        db_names: images to learn the vocabulary from and to describe.
        query_names: images to describe only.
        clusters: size of the vocabulary.
        overwrite: describe all anew.

    Raises:
        SamfeatError: images without features, too few descriptors for the vocabulary, descriptors
            that are broken, an output that was created with other settings.
    """
    if not 1 <= clusters <= 4096:
        raise SamfeatError(
            "clusters", f"{clusters} is not possible", "give a number from 1 to 4096"
        )
    db_names = list(dict.fromkeys(db_names))
    names = list(dict.fromkeys([*db_names, *query_names]))
    made_by = provenance.made_by(
        "global_descriptors",
        {"method": "vlad", "clusters": clusters, "seed": _SEED},
        {"features": provenance.file_hash(features), "db": provenance.names_hash(db_names)},
    )
    with SegmentWriter(output, made_by, overwrite=overwrite) as writer:
        if writer.is_finished(dict.fromkeys(names, "")):
            return output
        with open_hdf5(features) as file:
            known = set(group_names(file, "descriptors"))
            missing = [name for name in names if name not in known]
            if missing:
                raise SamfeatError(
                    features, f"no features of {some_of(missing)}", "extract them first"
                )
            words = learn_vocabulary(sample(file, db_names, clusters, features), clusters, features)
            left = [name for name in names if name not in writer.done]
            for name in tqdm(left, desc="global descriptors", unit="image"):
                vector = vlad(_descriptors(file, name, features, words.shape[1]), words)
                writer.add({name: Group({"global_descriptor": vector})})
        return writer.finish(attributes={"vocabulary": words})


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


def learn_vocabulary(descriptors: np.ndarray, clusters: int, path: Path) -> np.ndarray:
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
    # Imported here: faiss tells on every import, through logging, which library it loads.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    import faiss

    kmeans = faiss.Kmeans(
        descriptors.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAIN_PER_CLUSTER,
    )
    kmeans.train(np.ascontiguousarray(descriptors))
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(clusters, -1)


def vlad(descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Descriptors (N, D) and words (K, D) to the unit vector (K * D,) float32; zero for N = 0."""
    if len(descriptors) == 0:
        return np.zeros(words.size, dtype=np.float32)
    nearest = np.argmax(descriptors @ words.T - (words**2).sum(1) / 2, axis=1)
    members = np.zeros((len(words), len(descriptors)), dtype=np.float32)
    members[nearest, np.arange(len(descriptors))] = 1
    residuals = members @ descriptors - members.sum(1, keepdims=True) * words
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    return (residuals / max(float(np.linalg.norm(residuals)), 1e-12)).astype(np.float32).ravel()


def _descriptors(file: h5py.File, name: str, path: Path, length: int | None) -> np.ndarray:
    """(N, D) float32."""
    rows = read_descriptors(file, name, path)
    if length is not None and rows.shape[1] != length:
        raise SamfeatError(
            path,
            f"descriptors of {name} have shape {rows.T.shape}",
            "extract all images with the same network",
        )
    return rows.astype(np.float32)
