"""The teacher's cache: one HDF5 file with what a teacher saw on each photo.

Layout. The root's attributes: ``format`` (:data:`FORMAT`), ``teacher`` (its name),
``weights_sha256`` (of its weights; empty where it has none) and ``made_by`` (JSON, see
:mod:`samfeat_hloc.files.provenance`). A group for each photo, by its name relative to the
image folder ("a/b.jpg" nests), all arrays compressed with gzip:

``embedding``
    (k, h, w) int8, times ``scale``: the cells' coordinates on the photo's principal axes, for
    cells of unit length. Cosines between cells are the teacher's up to the attribute
    ``relation_error`` (mean absolute). In the raw form (C, h, w) float16, the teacher's own values.
``scale``
    (k,) float32; not in the raw form.
``basis``
    (r, C) int8, 127 times the first r principal axes; not in the raw form.
``groups``
    (H, W) int16 or int32, -1 where the photo belongs to no group.
``edges``
    (H, W) uint8, divided by its attribute ``levels``: edge strength in [0, 1].
``image_size``
    (2,) int64, width and height of the photo in pixels.

All three maps cover exactly the photo, in its stored orientation, at resolutions of their own: cell
(i, j) of an (h, w) map is the photo's area from j/w to (j+1)/w across and from i/h to (i+1)/h down.
The longer side of groups and edges has at most :data:`MAP_SIDE` pixels.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import SamfeatError
from ..files.h5arrays import group_names, open_hdf5, read_array, reading_hdf5
from ..files.h5store import Group
from ..files.shared_file import SharedFile
from .reduction import reduce_embedding

FORMAT = "samfeat_hloc teacher cache 1"
BUDGET = 150_000  # bytes a photo
MAP_SIDE = 480
_OVERHEAD = 4_000  # of HDF5 itself, for one group
_EDGE_BUDGET = 45_000
_LEAST_EMBEDDING = 10_000


@dataclass(frozen=True)
class Taught:
    """What a teacher says of one photo; all three cover exactly the photo.

    embedding: (C, h, w) float32. groups: (H, W) int32, -1 where none. edges: (H, W) float32 in
    [0, 1].
    """

    embedding: np.ndarray
    groups: np.ndarray
    edges: np.ndarray


def pack(taught: Taught, image_size: tuple[int, int], source: str, *, raw: bool = False) -> Group:
    """A photo's group in the cache's layout.

    Arguments:
        taught: groups and edges of any size; they are brought down to :data:`MAP_SIDE`.
        image_size: width and height of the photo.
        source: what stands for the photo, so that a changed one is taught anew.
        raw: keep the embedding as it is, in float16, whatever its size.

    Raises:
        SamfeatError: the embedding is not finite (broken weights).
    """
    if not np.isfinite(taught.embedding).all():
        raise SamfeatError(
            "teacher",
            "its embedding contains NaN",
            "use other weights",
        )
    groups, edges = _bring_down(taught.groups, taught.edges)
    groups = groups.astype(np.int16 if groups.max(initial=0) < 1 << 15 else np.int32)
    for levels in (255, 63, 15):
        stored_edges = np.round(np.clip(edges, 0, 1) * levels).astype(np.uint8)
        if _compressed(stored_edges) <= _EDGE_BUDGET:
            break
    datasets = {
        "groups": groups,
        "edges": stored_edges,
        "image_size": np.array(image_size, dtype=np.int64),
    }
    attributes: dict[str, dict[str, Any]] = {"edges": {"levels": levels}}
    if raw:
        datasets["embedding"] = taught.embedding.astype(np.float16)
        if not np.isfinite(datasets["embedding"]).all():
            raise SamfeatError("--raw", "the embedding exceeds float16's range", "leave --raw out")
    else:
        spent = _compressed(groups) + _compressed(stored_edges) + _OVERHEAD
        reduced = reduce_embedding(taught.embedding, max(BUDGET - spent, _LEAST_EMBEDDING))
        datasets |= {"embedding": reduced.values, "scale": reduced.scale, "basis": reduced.basis}
        attributes["embedding"] = {"relation_error": reduced.relation_error}
    return Group(datasets, attributes, source, compressed=True)


class TeacherCache:
    """Reads a cache. Threads may share one; a forked process opens the file anew.

    Raises:
        SamfeatError: no such file, or not a teacher's cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = SharedFile(self.path)
        with open_hdf5(self.path) as file, reading_hdf5(self.path):
            if str(file.attrs.get("format")) != FORMAT:
                raise SamfeatError(
                    path, "is not a teacher's cache", "make one with `samfeat teach`"
                )
            self.names: list[str] = group_names(file, "groups")
            self.teacher = str(file.attrs.get("teacher", "unknown"))
            self.weights_sha256 = str(file.attrs.get("weights_sha256", "")) or None
        self._known = frozenset(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def read(self, name: str, *, own_dimensions: bool = False) -> Taught:
        """What the teacher says of a photo.

        Arguments:
            own_dimensions: the embedding in the teacher's dimensions, the same for all photos (up
                to the axes that the cache keeps); else on the photo's own axes.

        Raises:
            SamfeatError: the teacher has not seen the photo, or the file cannot be read.
        """
        if name not in self._known:
            raise SamfeatError(self.path, f"has no {name}", "run `samfeat teach` on its folder")
        try:
            group = self._file()[name]
            embedding = read_array(group, "embedding", self.path).astype(np.float32)
            if "scale" in group:
                embedding *= read_array(group, "scale", self.path)[:, None, None]
                if own_dimensions:
                    basis = read_array(group, "basis", self.path).astype(np.float32) / 127
                    embedding = np.tensordot(basis.T, embedding[: len(basis)], axes=1)
            edges = group["edges"]
            strength = read_array(group, "edges", self.path).astype(np.float32)
            strength /= np.float32(edges.attrs["levels"])
            groups = read_array(group, "groups", self.path).astype(np.int32)
            if not (embedding.ndim == 3 and groups.ndim == strength.ndim == 2):
                raise ValueError("its maps have other dimensions")
            return Taught(embedding, groups, strength)
        except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise SamfeatError(
                self.path,
                f"{name} cannot be read ({' '.join(str(error).split())})",
                "copy it again, or run `samfeat teach --overwrite`",
            ) from None

    def image_size(self, name: str) -> tuple[int, int]:
        """Width and height of the photo that was taught."""
        width, height = self._file()[name]["image_size"][()]
        return int(width), int(height)

    def relation_error(self, name: str) -> float:
        """Mean absolute error of the photo's relation matrix; 0 in the raw form."""
        return float(self._file()[name]["embedding"].attrs.get("relation_error", 0.0))

    def bytes(self, name: str) -> int:
        """Bytes that the photo's arrays take in the file."""
        return sum(dataset.id.get_storage_size() for dataset in self._file()[name].values())


def _bring_down(groups: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = groups.shape
    scale = MAP_SIDE / max(height, width)
    groups = groups.astype(np.int32)
    if scale >= 1:
        return groups, edges
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rows = ((np.arange(size[1]) + 0.5) / size[1] * height).astype(int)
    columns = ((np.arange(size[0]) + 0.5) / size[0] * width).astype(int)
    edges = cv2.resize(edges.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return groups[rows[:, None], columns], edges


def _compressed(array: np.ndarray) -> int:
    return len(zlib.compress(array.tobytes(), 4))
