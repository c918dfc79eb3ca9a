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

The SAMFeat release keeps the SAM files as ``.npy`` with a pickled dictionary. Loading one can run
code that is in it, so they are not read. Whoever trusts theirs turns them into ``.npz`` once::

    for path in pathlib.Path("merged_data").glob("*.npy"):
        said = np.load(path, allow_pickle=True).item()
        np.savez_compressed(sam / path.stem, **{k: np.asarray(v) for k, v in said.items()})
"""

from __future__ import annotations

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from ..errors import SamfeatError
from ..images import read_image
from .corners import splat
from .pairs import PairBatch, PairOptions, finish_pairs
from .posed_pairs import Maps, stacked, teacher_views
from .posed_views import CELL, sample_embedding

_TWICE = {
    "feature": ("SAM_feature", "SAM_feature_warped"),
    "edge": ("SAM_edge", "SAM_edge_warped"),
    "category": ("SAM_out_cat", "SAM_out_warped_cat"),
}


@dataclass(frozen=True, eq=False)
class _Pair:
    """A pair cut to the batch's side S; element k of each pair is of photo k.

    images: uint8 (S, S, 3). labels: (K, 2) xy. points: (N, 2) xy; valid: (N,). categories: (N,)
    int64. said: what SAM says of the view, None where its file is missing.
    """

    images: tuple[np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]
    points: tuple[np.ndarray, np.ndarray]
    valid: np.ndarray
    categories: tuple[np.ndarray, np.ndarray]
    said: tuple[Maps, Maps] | None


class MtldescSource:
    """Pairs of views of MTLDesc's release: correspondences are its descriptor points."""

    def __init__(self, root: Path, names: list[str], *, workers: int | None = None) -> None:
        self.root = root
        self.names = names
        self._taught = frozenset(path.stem for path in (root / "sam").glob("*.npz"))
        self._pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))

    @classmethod
    def open(cls, root: Path) -> MtldescSource:
        """Look for the files of every pair, and read those of the first.

        Raises:
            SamfeatError: no such folder, no pairs, a pair without its keypoint or descriptor
                points, a file of another format, SAM's files as pickled ``.npy`` only.
        """
        root = Path(root)
        for part in ("image", "keypoint", "despoint"):
            if not (root / part).is_dir():
                raise SamfeatError(
                    f"{root / part}: no such folder; give the folder that holds MTLDesc's image,"
                    " keypoint and despoint folders"
                )
        names = sorted(path.stem for path in (root / "image").glob("*.jpg"))
        if not names:
            raise SamfeatError(f"{root / 'image'}: no .jpg in it; unpack MTLDesc's data set there")
        for part in ("keypoint", "despoint"):
            there = {path.stem for path in (root / part).glob("*.npz")}
            missing = [name for name in names if name not in there]
            if missing:
                raise SamfeatError(
                    f"{root / part / missing[0]}.npz: no such file ({len(missing)} of {len(names)}"
                    " are missing); unpack the data set again"
                )
        sam = root / "sam"
        if sam.is_dir() and not any(sam.glob("*.npz")):
            raise SamfeatError(
                f"{sam}: no .npz in it; the release's pickled .npy files are not read, turn them"
                " into .npz as samfeat_hloc/training/mtldesc.py says, or remove the folder"
            )
        source = cls(root, names)
        source._read(names[0], 64, 8, np.random.default_rng(0))
        return source

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        device, side = generator.device, options.crop
        seed = int(torch.randint(2**62, (1,), generator=generator, device=device))

        def draw(index: int) -> _Pair:
            rng = np.random.default_rng((seed, index))
            name = self.names[rng.integers(len(self.names))]
            return self._read(name, side, options.points, rng)

        pairs = list(self._pool.map(draw, range(count)))
        photos, labels, points, corners = [], [], [], []
        numbers = [min(len(p.labels[0]), len(p.labels[1]), options.keypoints) for p in pairs]
        for k in (0, 1):
            photo = stacked([p.images[k] for p in pairs], device)
            photos.append(photo.permute(0, 3, 1, 2).float() / 255)
            points.append(stacked([p.points[k] for p in pairs], device))
            most = max(1, max(len(p.labels[k]) for p in pairs))
            there = np.array([np.arange(most) < len(p.labels[k]) for p in pairs])
            padded = stacked([_filled(p.labels[k], most) for p in pairs], device)
            labels.append(splat(padded, stacked(list(there), device), side))
            corners.append(
                stacked([_filled(p.labels[k][:n], options.keypoints)
                         for p, n in zip(pairs, numbers, strict=True)], device)
            )  # fmt: skip
        # The labels are whole pixels: there is no place within the pixel to be taught.
        whole = all((p.labels[k] % 1 == 0).all() for p in pairs for k in (0, 1))
        present = np.array([np.arange(options.keypoints) < (0 if whole else n) for n in numbers])
        taught = teacher_views(
            ([p.said[0] if p.said else None for p in pairs],
             [p.said[1] if p.said else None for p in pairs]), device,
        )  # fmt: skip
        everywhere = torch.ones_like(labels[0])
        batch = finish_pairs(
            (photos[0], photos[1]), (everywhere, everywhere),
            (corners[0], corners[1], stacked(list(present), device)),
            (points[0], points[1], stacked([p.valid for p in pairs], device)),
            options, generator, taught=taught,
        )  # fmt: skip
        groups = [stacked([p.categories[k] for p in pairs], device).long() for k in (0, 1)]
        return replace(
            batch, labels0=labels[0], labels1=labels[1], groups0=groups[0], groups1=groups[1]
        )

    def _read(self, name: str, side: int, count: int, rng: np.random.Generator) -> _Pair:
        both = read_image(self.root / "image" / f"{name}.jpg")
        width = both.shape[1] // 2
        size = np.array((width, both.shape[0]))
        keypoint = _arrays(self.root / "keypoint" / f"{name}.npz", ("points_0", "points_1"))
        despoint = _arrays(
            self.root / "despoint" / f"{name}.npz", ("desp_point1", "desp_point2", "valid_mask")
        )
        sam = self.root / "sam" / f"{name}.npz"
        said = _arrays(sam, sum(_TWICE.values(), ())) if name in self._taught else None
        try:
            points = [
                (despoint[f"desp_point{k}"].reshape(-1, 2) + 1) / 2 * (size - 1) for k in (1, 2)
            ]
            labels = [keypoint[f"points_{k}"].reshape(-1, 2)[:, ::-1] for k in (0, 1)]
            valid = despoint["valid_mask"].reshape(-1) > 0
            if not len(points[0]) == len(points[1]) == len(valid):
                raise ValueError("its arrays differ in length")
        except ValueError as error:
            raise SamfeatError(
                f"{self.root}: pair {name} is not in MTLDesc's format ({error}); fetch it again"
            ) from None
        # Smaller photos are enlarged to the view, larger ones cut around a common point.
        scale = max(1.0, side / size.min())
        middle = rng.choice(np.flatnonzero(valid)) if valid.any() else 0
        images, corners, cut = [], [], []
        for k in (0, 1):
            photo = both[:, k * width : (k + 1) * width]
            if scale > 1:
                photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            points[k] = (points[k] + 0.5) * scale - 0.5
            labels[k] = (labels[k] + 0.5) * scale - 0.5
            at = points[k][middle] if len(points[k]) else size / 2
            most = np.array(photo.shape[1::-1]) - side
            corner = np.clip(np.round(at - rng.uniform(0.25, 0.75, 2) * side), 0, most).astype(int)
            images.append(photo[corner[1] : corner[1] + side, corner[0] : corner[0] + side])
            points[k] = points[k] - corner
            label = labels[k] - corner
            inside = ((label > -0.5) & (label < side - 0.5)).all(1)
            corners.append(rng.permutation(label[inside]).clip(0, side - 1))
            valid = valid & ((points[k] >= 0) & (points[k] <= side - 1)).all(1)
            cut.append((corner, scale * size))
        # Points that count come first, in random order; the rest fills up.
        order = rng.permutation(len(valid))
        order = order[np.argsort(~valid[order], kind="stable")][:count]
        points = [np.where(valid[:, None], p, 0) for p in points]
        categories = [np.full(count, -1, np.int64) for _ in (0, 1)]
        if said:
            for k in (0, 1):
                category = said[_TWICE["category"][k]]
                category = category.reshape(-1, category.shape[-1])[:, -1]
                if len(category) != len(valid):
                    raise SamfeatError(
                        f"{sam}: {len(category)} categories of {len(valid)} descriptor points; make"
                        " the file again"
                    )
                categories[k][: len(order)] = np.where(valid, category, -1)[order]
        return _Pair(
            (images[0], images[1]), (corners[0], corners[1]),
            (_filled(points[0][order], count), _filled(points[1][order], count)),
            np.concatenate([valid[order], np.zeros(count - len(order), bool)]),
            (categories[0], categories[1]),
            (_said(said, 0, *cut[0], side), _said(said, 1, *cut[1], side)) if said else None,
        )  # fmt: skip


def _said(
    said: dict[str, np.ndarray], k: int, corner: np.ndarray, size: np.ndarray, side: int
) -> Maps:
    """SAM's embedding, (no) groups and edges of a view that begins at a corner of photo k."""
    cells = max(1, side // CELL)
    pixels = (np.arange(cells) + 0.5) * side / cells
    x, y = np.meshgrid(pixels, pixels)
    share = (np.stack([x, y], -1) + corner) / size
    feature = said[_TWICE["feature"][k]]
    embedding = sample_embedding(feature.reshape(feature.shape[-3:]), share)
    edge = said[_TWICE["edge"][k]]
    edge = edge.reshape(edge.shape[-2:]).astype(np.float32) / 255
    x, y = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    at = (np.stack([x, y], -1) + corner) / size * edge.shape[::-1] - 0.5
    edges = cv2.remap(
        edge, at[..., 0].astype(np.float32), at[..., 1].astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return embedding, np.full((side, side), -1, np.int64), edges


def _filled(points: np.ndarray, count: int) -> np.ndarray:
    """Points (n, 2) with rows of zeros behind them up to ``count``."""
    rows = np.zeros((count, 2), np.float32)
    rows[: len(points)] = points
    return rows


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of numbers of an ``.npz`` file; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
        if any(array.dtype.kind not in "fiub" or not array.ndim for array in arrays.values()):
            raise ValueError("an array is not of numbers")
        return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())
        raise SamfeatError(
            f"{path}: is not an .npz file with {', '.join(names)} ({why}); fetch it again"
        ) from None
