"""Which images to match: pairs from covisibility in a reference model and from retrieval."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from ..colmap.covisibility import most_covisible
from ..colmap.model import file_of, read_model
from ..errors import SamfeatError, require_known, some_of
from ..feature.matching_tiles import similarities
from ..files import provenance
from ..files.h5arrays import group_names, open_hdf5, read_array
from ..files.images import check_name
from ..files.outputs import Output
from ..files.pair_lists import pairs_text
from ..progress import tqdm

logger = logging.getLogger(__name__)

_BLOCK_VALUES = 1 << 23  # of descriptors in memory, of queries and of the database


def from_covisibility(
    model: Path, output: Path, *, num_matched: int = 20, overwrite: bool = False
) -> Path:
    """Pair every image of a COLMAP model with those that see most of its points.

    Arguments:
        model: folder of the model, binary or text.
        output: the pairs file to write.
        num_matched: at most so many pairs for each image.

    Raises:
        SamfeatError: no model, a damaged one, or one without points; an output that was made
            differently.
    """
    check_count(num_matched)
    made_by = provenance.made_by(
        "pairs",
        {"from": "covisibility", "num_matched": num_matched},
        {"model": provenance.file_hash(file_of(model, "images"))},
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    names, seen = _observations(model)
    pairs = []
    alone = []
    for name, neighbours in tqdm(
        most_covisible(seen, num_matched), total=len(names), desc="covisibility", delay=2
    ):
        pairs += [(names[name], names[other]) for other in neighbours]
        if len(neighbours) == 0:
            alone.append(names[name])
    if not pairs:
        raise SamfeatError(model, "no two images see a common point", "take a triangulated model")
    if alone:
        logger.warning("%s share no point with another image: %s", len(alone), some_of(alone))
    return write_pairs(result, pairs)


def from_retrieval(
    descriptors: Path,
    query_names: Sequence[str],
    db_names: Sequence[str],
    output: Path,
    *,
    num_matched: int = 50,
    overwrite: bool = False,
) -> Path:
    """Pair every query with the database images of most similar global descriptors.

    As in hloc, similarity is the dot product, an image is not paired with itself, and negative
    similarities do not count. Of equal similarities the earlier in ``db_names`` comes first.

    Arguments:
        descriptors: file with a ``global_descriptor`` for each image.
        query_names, db_names: the images to pair; names may be in both.
        output: the pairs file to write.
        num_matched: so many pairs for each query; fewer where the database is smaller.

    Raises:
        SamfeatError: names without a descriptor, descriptors of different length or with NaN, a
            query with no similar image; an output that was created with other settings.
    """
    check_count(num_matched)
    for what, names in (("query", query_names), ("database image", db_names)):
        if not names:
            raise SamfeatError(output, f"there is no {what} to pair", "check the lists")
    made_by = provenance.made_by(
        "pairs",
        {"from": "retrieval", "num_matched": num_matched},
        {
            "descriptors": provenance.file_hash(descriptors),
            "queries": provenance.names_hash(query_names),
            "db": provenance.names_hash(db_names),
        },
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    queries, database = list(dict.fromkeys(query_names)), list(dict.fromkeys(db_names))
    pairs = _most_similar(descriptors, queries, database, num_matched)
    found = {query for query, _ in pairs}
    without = [query for query in queries if query not in found]
    if without:
        raise SamfeatError(
            descriptors,
            f"no database image is similar to {some_of(without)}",
            "look at these images, or leave them out of the query lists",
        )
    return write_pairs(result, pairs)


def most_similar(descriptors: Path, names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """With each image the others of most similar global descriptors, as `from_retrieval`.

    Raises:
        SamfeatError: a name without a descriptor, descriptors of different length or with NaN.
    """
    images = list(dict.fromkeys(names))
    return _most_similar(descriptors, images, images, count)


def _most_similar(
    descriptors: Path, queries: list[str], database: list[str], count: int
) -> list[tuple[str, str]]:
    with open_hdf5(descriptors) as file:
        known = set(group_names(file, "global_descriptor"))
        require_known(
            queries + database, known, descriptors, "no global descriptor of",
            "extract those of all images first",
        )  # fmt: skip
        return _retrieve(file, queries, database, count, descriptors)


def _observations(model: Path) -> tuple[list[str], list[np.ndarray]]:
    """Image names, and the rows of the points that each one sees, in the order of image ids."""
    content = read_model(model)
    if len(content.point_ids) == 0:
        raise SamfeatError(
            model,
            "the model has no points",
            "pair its images by their poses with `samfeat pairs poses`",
        )
    for name in content.images:
        try:
            check_name(name)
        except SamfeatError as error:
            raise SamfeatError(model, error) from None
    images = sorted(content.images.values(), key=lambda image: image.image_id)
    return [i.name for i in images], [i.points[i.points >= 0] for i in images]


def _retrieve(
    file: h5py.File, queries: list[str], database: list[str], count: int, path: Path
) -> list[tuple[str, str]]:
    """The best ``count`` of the database for each query.

    Every descriptor is read from the file once: the queries' go to a plain file, a block of which
    is back in memory at once, and the database is streamed beside it.
    """
    best = np.full((len(queries), count), -np.inf, dtype=np.float32)
    index = np.zeros((len(queries), count), dtype=np.int64)
    number = {name: i for i, name in enumerate(queries)}
    length = _descriptors(file, queries[:1], path).shape[1]
    block_size = max(1, _BLOCK_VALUES // max(1, length))
    with tempfile.TemporaryFile() as plain:
        for start in range(0, len(queries), block_size):
            wanted = _descriptors(file, queries[start : start + block_size], path)
            _check_length(wanted, length, path)
            plain.write(wanted.tobytes())
        for start in tqdm(range(0, len(database), block_size), desc="retrieval", delay=2):
            names = database[start : start + block_size]
            block = torch.from_numpy(_descriptors(file, names, path))
            _check_length(block, length, path)
            selves = [(number[name], i) for i, name in enumerate(names) if name in number]
            plain.seek(0)
            for first in range(0, len(queries), block_size):
                size = min(block_size, len(queries) - first)
                rows = np.frombuffer(plain.read(size * length * 4), np.float32).reshape(size, -1)
                similarity = similarities(torch.from_numpy(rows.copy()), block).numpy()
                for query, itself in selves:
                    if first <= query < first + size:
                        similarity[query - first, itself] = -np.inf
                part = slice(first, first + size)
                _keep_best(best[part], index[part], similarity, start)
    return [
        (query, database[j])
        for query, scores, found in zip(queries, best, index, strict=True)
        for score, j in zip(scores, found, strict=True)
        if np.isfinite(score)
    ]


def _keep_best(best: np.ndarray, index: np.ndarray, similarity: np.ndarray, offset: int) -> None:
    """Put the better ones of (N, M) similarities, of the database from ``offset`` on, among the
    best so far (N, count), which are in order; of equal ones the earlier stay. Negative ones do
    not count."""
    count = best.shape[1]
    least = np.maximum(np.nextafter(best[:, -1], np.float32(np.inf)), 0)
    better = similarity >= least[:, None]
    crowded = np.flatnonzero(np.count_nonzero(better, axis=1) > count)
    if len(crowded):  # the best few of this block are enough
        rows = similarity[crowded]
        better[crowded] &= rows >= np.partition(rows, -count, axis=1)[:, -count, None]
    in_row = np.count_nonzero(better, axis=1)
    touched = np.flatnonzero(in_row)
    if not len(touched):
        return
    row, column = np.nonzero(better)
    place = np.arange(len(row)) - (np.cumsum(in_row) - in_row)[row]  # within the row
    row = np.searchsorted(touched, row)
    added = np.full((len(touched), in_row.max()), -np.inf, dtype=best.dtype)
    numbers = np.zeros(added.shape, dtype=index.dtype)
    added[row, place] = similarity[touched[row], column]
    numbers[row, place] = column + offset
    scores = np.concatenate([best[touched], added], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    numbers = np.concatenate([index[touched], numbers], axis=1)
    best[touched] = np.take_along_axis(scores, order, axis=1)
    index[touched] = np.take_along_axis(numbers, order, axis=1)


def _check_length(rows: np.ndarray | torch.Tensor, length: int, path: Path) -> None:
    if rows.shape[1] != length:
        raise SamfeatError(
            path,
            f"descriptors of {rows.shape[1]} and of {length} values",
            "extract all images with the same network",
        )


def _descriptors(file: h5py.File, names: list[str], path: Path) -> np.ndarray:
    """(N, D) float32."""
    rows: list[np.ndarray] = []
    for name in names:
        stored = read_array(file[name], "global_descriptor", path)
        if stored.ndim != 1 or (rows and stored.shape != rows[0].shape):
            raise SamfeatError(
                path,
                f"the global descriptor of {name} has shape {stored.shape}",
                "extract all images with the same network",
            )
        rows.append(stored.astype(np.float32))
    stacked = np.stack(rows)
    if not np.isfinite(stacked).all():
        bad = names[int(np.flatnonzero(~np.isfinite(stacked).all(axis=1))[0])]
        raise SamfeatError(
            path, f"the global descriptor of {bad} is not finite", "extract it again"
        )
    return stacked


def check_count(num_matched: int) -> None:
    """Refuse to pair each image with none."""
    if num_matched < 1:
        raise SamfeatError("num_matched", f"{num_matched} is not possible", "give a number from 1")


def write_pairs(result: Output, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write the list, and say how many they are."""
    path = result.write_text(pairs_text(pairs))
    logger.info("pairs: %s, %d pairs", path, len(pairs))
    return path
