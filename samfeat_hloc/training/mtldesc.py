"""MegaDepth pairs as MTLDesc released them, with SAM's files as the SAMFeat release has them.

Below the data set's folder, for each pair (such as 0000012)::

    image/0000012.jpg       two square photos side by side
    keypoint/0000012.npz    points_0 (n, 2), points_1 (m, 2): keypoints y x, pixels of their photo
    despoint/0000012.npz    desp_point1, desp_point2 (N, 1, 2): x y from -1 to 1 (the centres of the
                            first and the last pixel), row i shows what row i shows;
                            valid_mask (N,): which rows do
    sam/0000012.npz         optional: SAM_feature (C, h, w), SAM_edge (H, W) from 0 to 255,
                            SAM_out_cat (N, 3): x, y, category of the descriptor points, -1 none;
                            and of the second photo SAM_feature_warped, SAM_edge_warped,
                            SAM_out_warped_cat

As in the release, half of the batches are such pairs, and half are photos under homographies.

The SAMFeat release keeps the SAM files as ``.npy`` with a pickled dictionary. Loading one can run
code that is in it, so they are not read. Whoever trusts theirs turns them into ``.npz`` once::

    for path in pathlib.Path("merged_data").glob("*.npy"):
        said = np.load(path, allow_pickle=True).item()
        np.savez_compressed(sam / path.stem, **{k: np.asarray(v) for k, v in said.items()})
"""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch

from ..errors import SamfeatError, in_one_line
from ..files.images import read_image
from ..geometry.homographies import HomographyOptions
from ..teachers.cache import Taught
from .corners import splat
from .depth_maps import array_of
from .homography_pairs import make_pairs
from .keypoint_labels import PhotoLabels
from .pairs import PairBatch, PairOptions, drawn_seed, finish_pairs
from .photos import PhotoSet
from .posed_pairs import stacked
from .taught import warp_taught

logger = logging.getLogger(__name__)

HOMOGRAPHIES = 0.5  # share of the batches
_SAM = {
    "SAM_feature": "SAM_feature_warped",
    "SAM_edge": "SAM_edge_warped",
    "SAM_out_cat": "SAM_out_warped_cat",
}


@dataclass(frozen=True, eq=False)
class _Photo:
    """One photo of a pair: image uint8 (H, W, 3), keypoints (n, 2) and descriptor points (N, 2) xy,
    what SAM says of it (its groups only at the descriptor points: categories (N,), -1 none)."""

    image: np.ndarray
    keypoints: np.ndarray
    points: np.ndarray
    taught: Taught | None
    categories: np.ndarray


@dataclass(frozen=True, eq=False)
class _Cut:
    """A view of S x S pixels that begins at a corner (x, y) of a photo of this size (w, h)."""

    image: np.ndarray
    corner: np.ndarray
    size: np.ndarray
    labels: np.ndarray
    points: np.ndarray
    taught: Taught | None
    categories: np.ndarray


class MtldescSource:
    """Pairs of views of MTLDesc's release."""

    def __init__(
        self, root: Path, names: list[str], *, homographies: float = HOMOGRAPHIES,
        workers: int | None = None,
    ) -> None:  # fmt: skip
        self.root = root
        self.names = names
        self._homographies = homographies
        self._taught = frozenset(path.stem for path in (root / "sam").glob("*.npz"))
        self._pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))

    @classmethod
    def open(cls, root: Path, *, homographies: float = HOMOGRAPHIES) -> MtldescSource:
        """Look for the files of every pair, and read those of the first.

        Arguments:
            root: the folder that holds image, keypoint, despoint and, where there are any, sam.
            homographies: share of the batches that are single photos under homographies, with the
                same labels and SAM's files (but no categories, which are known at points only).

        Raises:
            SamfeatError: no such folder, no pairs, a pair without its keypoint or descriptor
                points, a file of another format, SAM's files as pickled ``.npy`` only.
        """
        root = Path(root)
        for part in ("image", "keypoint", "despoint"):
            if not (root / part).is_dir():
                raise SamfeatError(
                    root / part,
                    "no such folder",
                    "give the folder that holds MTLDesc's image, keypoint and despoint folders",
                )
        names = sorted(path.stem for path in (root / "image").glob("*.jpg"))
        if not names:
            raise SamfeatError(root / "image", "no .jpg in it", "unpack MTLDesc's data set there")
        for part in ("keypoint", "despoint"):
            there = {path.stem for path in (root / part).glob("*.npz")}
            missing = [name for name in names if name not in there]
            if missing:
                raise SamfeatError(
                    f"{root / part / missing[0]}.npz",
                    f"no such file ({len(missing)} of {len(names)} are missing)",
                    "unpack the data set again",
                )
        sam = root / "sam"
        if sam.is_dir() and not any(sam.glob("*.npz")):
            raise SamfeatError(
                sam,
                "no .npz in it",
                (
                    "the release's pickled .npy files are not read, turn them into .npz as "
                    "samfeat_hloc/training/mtldesc.py says, or remove the folder"
                ),
            )
        source = cls(root, names, homographies=homographies)
        taught = sum(name in source._taught for name in names)
        if 0 < taught < len(names):
            logger.warning("%s: SAM's files of %d of %d pairs are there; the others are trained on "
                           "without a teacher", sam, taught, len(names))  # fmt: skip
        source._read(names[0])
        return source

    @property
    def num_pairs(self) -> int:
        """Those of the release."""
        return len(self.names)

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        device = generator.device
        seed = drawn_seed(generator)
        rng = np.random.default_rng(seed)
        if rng.random() < self._homographies:
            return self._under_homographies(count, options, generator, rng)

        def draw(index: int) -> tuple[tuple[_Cut, _Cut], np.ndarray]:
            rng = np.random.default_rng((seed, index))
            pair, valid = self._read(self.names[rng.integers(len(self.names))])
            return _cut(pair, valid, options, rng)

        drawn = list(self._pool.map(draw, range(count)))
        valid = stacked([v for _, v in drawn], device)
        photos, labels, corners, points, groups, taught = [], [], [], [], [], []
        rows = [min(len(a.labels), len(b.labels), options.keypoints) for (a, b), _ in drawn]
        for k in (0, 1):
            cuts = [pair[k] for pair, _ in drawn]
            photo = stacked([cut.image for cut in cuts], device)
            photos.append(photo.permute(0, 3, 1, 2).float() / 255)
            most = max(1, *(len(cut.labels) for cut in cuts))
            there = stacked([np.arange(most) < len(cut.labels) for cut in cuts], device)
            places = stacked([_filled(cut.labels, most) for cut in cuts], device)
            labels.append(splat(places, there, options.crop))
            kept = [
                _filled(c.labels[:n], options.keypoints) for c, n in zip(cuts, rows, strict=True)
            ]
            corners.append(stacked(kept, device))
            points.append(stacked([cut.points for cut in cuts], device))
            groups.append(stacked([cut.categories for cut in cuts], device).long())
            to_photo = torch.eye(3, device=device).repeat(count, 1, 1)
            to_photo[:, :2, 2] = stacked([cut.corner for cut in cuts], device)
            sizes = stacked([cut.size for cut in cuts], device)
            taught.append(warp_taught([c.taught for c in cuts], sizes, to_photo, options.crop))
        # Labels on whole pixels say nothing of the place within the pixel.
        whole = all((cut.labels % 1 == 0).all() for pair, _ in drawn for cut in pair)
        present = [np.arange(options.keypoints) < (0 if whole else n) for n in rows]
        seen = torch.ones_like(labels[0])
        known = any(cut.taught is not None for pair, _ in drawn for cut in pair)
        batch = finish_pairs(
            (photos[0], photos[1]), (seen, seen),
            (corners[0], corners[1], stacked(present, device)), (points[0], points[1], valid),
            options, generator, taught=(taught[0], taught[1]) if known else None,
        )  # fmt: skip
        return replace(
            batch, labels0=labels[0], labels1=labels[1], groups0=groups[0], groups1=groups[1]
        )

    def _under_homographies(
        self, count: int, options: PairOptions, generator: torch.Generator, rng: np.random.Generator
    ) -> PairBatch:
        """Pairs of views of one photo each, from ``count`` photos of different pairs."""
        names = [self.names[i] for i in rng.permutation(len(self.names))[:count]]
        sides = rng.integers(0, 2, len(names)).tolist()
        photos = [
            pair[k] for (pair, _), k in zip(self._pool.map(self._read, names), sides, strict=True)
        ]
        sizes = np.array([photo.image.shape[1::-1] for photo in photos])
        canvases = np.zeros((len(photos), *sizes.max(0)[::-1], 3), np.uint8)
        for canvas, photo in zip(canvases, photos, strict=True):
            canvas[: photo.image.shape[0], : photo.image.shape[1]] = photo.image
        kept = PhotoSet(
            torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.from_numpy(sizes), tuple(names)
        )
        labels = {
            name: PhotoLabels(
                p.keypoints.astype(np.float32), np.ones(len(p.keypoints), np.float32), size
            )
            for name, p, size in zip(names, photos, map(tuple, sizes.tolist()), strict=True)
        }
        taught = {n: p.taught for n, p in zip(names, photos, strict=True) if p.taught is not None}
        return make_pairs(
            kept, count, options, HomographyOptions(), generator,
            teacher=cast(Any, _Known(taught)) if taught else None, labels=cast(Any, _Known(labels)),
        )  # fmt: skip

    def _read(self, name: str) -> tuple[tuple[_Photo, _Photo], np.ndarray]:
        """The two photos, and which of their descriptor points show the same."""
        both = read_image(self.root / "image" / f"{name}.jpg")
        width = both.shape[1] // 2
        size = np.array((width, both.shape[0]))
        keypoint = _arrays(self.root / "keypoint" / f"{name}.npz", ("points_0", "points_1"))
        despoint = _arrays(
            self.root / "despoint" / f"{name}.npz", ("desp_point1", "desp_point2", "valid_mask")
        )
        path = self.root / "sam" / f"{name}.npz"
        sam = _arrays(path, (*_SAM, *_SAM.values())) if name in self._taught else None
        photos = []
        valid = despoint["valid_mask"].reshape(-1) > 0
        try:
            for k in (0, 1):
                taught, categories = _of_sam(sam, k) if sam else (None, np.full(len(valid), -1))
                points = (despoint[f"desp_point{k + 1}"].reshape(-1, 2) + 1) / 2 * (size - 1)
                if not len(points) == len(valid) == len(categories):
                    raise ValueError(f"{len(points)} points, {len(valid)} of them marked as valid"
                                     f" or not, {len(categories)} with a category")  # fmt: skip
                image = both[:, k * width : (k + 1) * width]
                keypoints = keypoint[f"points_{k}"].reshape(-1, 2)[:, ::-1]
                photos.append(_Photo(image, keypoints, points, taught, categories))
        except (ValueError, IndexError) as error:
            raise SamfeatError(
                self.root, f"pair {name} is not in the release's format ({error})", "fetch it again"
            ) from None
        return (photos[0], photos[1]), valid


class _Known(dict[str, Any]):
    """Entries by photo name, read as labels and teachers' caches are."""

    def read(self, name: str) -> Any:
        return self[name]


def _of_sam(sam: dict[str, np.ndarray], k: int) -> tuple[Taught, np.ndarray]:
    """SAM's embedding and edges of photo k, and the categories of its descriptor points."""
    feature, edge, category = (sam[(first, second)[k]] for first, second in _SAM.items())
    edges = edge.reshape(edge.shape[-2:]).astype(np.float32) / 255
    embedding = feature.reshape(feature.shape[-3:]).astype(np.float32)
    taught = Taught(embedding, np.full(edges.shape, -1, np.int32), edges)
    return taught, category.reshape(-1, category.shape[-1])[:, -1].astype(np.int64)


def _cut(
    pair: tuple[_Photo, _Photo], valid: np.ndarray, options: PairOptions, rng: np.random.Generator
) -> tuple[tuple[_Cut, _Cut], np.ndarray]:
    """Views of the batch's size around a common point; photos that are smaller are enlarged.

    Returns also which of the views' descriptor points count (options.points,).
    """
    side, count = options.crop, options.points
    middle = rng.choice(np.flatnonzero(valid)) if valid.any() else 0
    cuts = []
    for photo in pair:
        size = np.array(photo.image.shape[1::-1])
        scale = max(1.0, side / size.min())
        image = photo.image
        if scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        points, labels = ((at + 0.5) * scale - 0.5 for at in (photo.points, photo.keypoints))
        at = points[middle] if len(points) else size / 2
        most = np.array(image.shape[1::-1]) - side
        corner = np.clip(np.round(at - rng.uniform(0.25, 0.75, 2) * side), 0, most).astype(int)
        labels = labels - corner
        labels = labels[((labels > -0.5) & (labels < side - 0.5)).all(1)].clip(0, side - 1)
        points = points - corner
        valid = valid & ((points >= 0) & (points <= side - 1)).all(1)
        view = image[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
        cuts.append(_Cut(view, corner, scale * size, rng.permutation(labels), points, photo.taught,
                         photo.categories))  # fmt: skip
    # Points that count come first, in random order; the rest fills up.
    order = rng.permutation(len(valid))
    order = order[np.argsort(~valid[order], kind="stable")][:count]
    chosen = valid[order]
    for k, cut in enumerate(cuts):
        points = np.where(chosen[:, None], cut.points[order], 0)
        categories = np.full(count, -1)
        categories[: len(order)] = np.where(chosen, cut.categories[order], -1)
        cuts[k] = replace(cut, points=_filled(points, count), categories=categories)
    return (cuts[0], cuts[1]), np.concatenate([chosen, np.zeros(count - len(order), bool)])


def _filled(points: np.ndarray, count: int) -> np.ndarray:
    """Points (n, 2) with rows of zeros behind them up to ``count``."""
    rows = np.zeros((count, 2), np.float32)
    rows[: len(points)] = points
    return rows


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of numbers of an ``.npz`` file; nothing in it is unpickled."""
    try:
        with zipfile.ZipFile(path) as file:
            arrays = {name: array_of(file.read(f"{name}.npy")) for name in names}
        if any(array.dtype.kind not in "fiub" or not array.ndim for array in arrays.values()):
            raise ValueError("an array is not of numbers")
        return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = in_one_line(error)
        raise SamfeatError(
            path, f"is not an .npz file with {', '.join(names)} ({why})", "fetch it again"
        ) from None
