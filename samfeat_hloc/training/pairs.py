"""Training pairs: two relit views of a photo, with what the losses need to know of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..errors import SamfeatError
from ..images import list_images, read_image
from .corners import common_corners, gaussian_blur, splat
from .homographies import HomographyOptions, pixel_grid, sample_views, transform, uniform, warp
from .photometric import relight_day, relight_night

HELD_BACK_EVERY = 25  # each 25th photo is for validation


@dataclass(frozen=True)
class PhotoSet:
    """Photos in memory, each in the top-left corner of an equally large canvas.

    canvases: (P, 3, S, S) uint8; sizes: (P, 2) int64 width and height.
    """

    canvases: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.sizes)

    def split(self) -> tuple[PhotoSet, PhotoSet]:
        """Photos to train on, and those held back for validation."""
        held_back = torch.arange(len(self)) % HELD_BACK_EVERY == HELD_BACK_EVERY - 1
        return (
            PhotoSet(self.canvases[~held_back], self.sizes[~held_back]),
            PhotoSet(self.canvases[held_back], self.sizes[held_back]),
        )


def load_photos(folder: Path, longest: int = 480) -> PhotoSet:
    """Read a folder of photos into memory, the longer side at most ``longest`` pixels.

    Raises:
        SamfeatError: no photos there, fewer than two validation folds, or one cannot be read.
    """
    names = list_images(folder)
    if len(names) < HELD_BACK_EVERY:
        raise SamfeatError(
            f"{folder}: holds {len(names)} photos; give a folder with at least {HELD_BACK_EVERY}"
        )
    canvases = np.zeros((len(names), longest, longest, 3), np.uint8)
    sizes = np.zeros((len(names), 2), np.int64)
    for index, name in enumerate(tqdm(names, desc="photos", unit="photo")):
        image = read_image(folder / name)
        scale = min(1.0, longest / max(image.shape[:2]))
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        canvases[index, : image.shape[0], : image.shape[1]] = image
        sizes[index] = image.shape[1::-1]
    return PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.from_numpy(sizes))


@dataclass
class PairOptions:
    """What a pair looks like.

    crop: side of the views, pixels. night: share of second views relit as night. points:
    descriptor points a pair, half of them on keypoints. keypoints: labels a view at most.
    not_search: radius around a match within which nothing is a negative, pixels.
    """

    crop: int = 192
    night: float = 0.35
    points: int = 256
    keypoints: int = 224
    not_search: float = 8.0


@dataclass(frozen=True)
class PairBatch:
    """B pairs. Images are (B, 3, S, S) in [0, 1]; points are xy in pixels of their view.

    labels0, labels1: (B, S, S) keypoint labels. valid0, valid1: (B, S, S), where they hold.
    edges0, edges1: (B, S, S) in [0, 1]. points0, points1: (B, N, 2), row i of one is row i of the
    other. valid: (B, N). not_search: (B, N, N). matrix01: (B, 3, 3), view 0 to view 1.
    corners0, corners1: (B, K, 2), the labels' sub-pixel places. present: (B, K), which are there.
    """

    image0: Tensor
    image1: Tensor
    labels0: Tensor
    labels1: Tensor
    valid0: Tensor
    valid1: Tensor
    edges0: Tensor
    edges1: Tensor
    points0: Tensor
    points1: Tensor
    valid: Tensor
    not_search: Tensor
    matrix01: Tensor
    corners0: Tensor
    corners1: Tensor
    present: Tensor

    def select(self, keep: Tensor) -> PairBatch:
        """The pairs whose index is in ``keep``."""
        return PairBatch(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


def make_pairs(
    photos: PhotoSet,
    count: int,
    options: PairOptions,
    homographies: HomographyOptions,
    generator: torch.Generator,
) -> PairBatch:
    """A batch of ``count`` random pairs, computed on the generator's device."""
    device = generator.device
    side = options.crop
    chosen = torch.randint(len(photos), (count,), generator=generator, device=device).cpu()
    canvases = photos.canvases[chosen].to(device).float() / 255
    sizes = photos.sizes[chosen].to(device).float()

    to_photo0, to_photo1 = sample_views(sizes, side, homographies, generator)
    view0, inside0 = warp(canvases, sizes, to_photo0, side)
    view1, inside1 = warp(canvases, sizes, to_photo1, side)
    matrix01 = torch.linalg.solve(to_photo1.double(), to_photo0.double()).float()
    matrix10 = torch.linalg.inv(matrix01.double()).float()
    seen0 = inside0 * _seen_by(inside1, matrix01)
    seen1 = inside1 * _seen_by(inside0, matrix10)

    corners0, corners1, present = common_corners(
        view0, view1, matrix01, seen0, limit=options.keypoints
    )
    points0 = _descriptor_points(corners0, present, seen0, options.points, generator)
    points1 = transform(matrix01, points0)
    valid = _at(seen0, points0) * ((points1 >= 0) & (points1 <= side - 1)).all(-1)
    near = torch.cdist(points1, points1) < options.not_search
    # Distances in view 0 count as well: after a zoom, close there may be far here.
    near |= torch.cdist(points0, points0) < options.not_search

    night = uniform((count, 1, 1, 1), 0, 1, generator) < options.night
    image0 = relight_day(view0, generator)
    image1 = torch.where(night, relight_night(view1, generator), relight_day(view1, generator))
    return PairBatch(
        image0, image1,
        splat(corners0, present, side), splat(corners1, present, side), seen0, seen1,
        gradient_edges(view0), gradient_edges(view1),
        points0, points1, valid, near.float(), matrix01, corners0, corners1, present,
    )  # fmt: skip


def gradient_edges(views: Tensor) -> Tensor:
    """Edges of unlit views (B, S, S) in [0, 1], from the image gradient: no teacher needed."""
    grey = F.pad(gaussian_blur(views.mean(dim=1, keepdim=True), 1.0), (1,) * 4, mode="replicate")
    dx = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    dy = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    return 1 - torch.exp(-(dx.square() + dy.square())[:, 0] / 0.04**2)


def _seen_by(inside_other: Tensor, matrix: Tensor) -> Tensor:
    """(B, S, S): 1 where a pixel moved by ``matrix`` falls on photo in the other view."""
    batch, side, _ = inside_other.shape
    there = transform(matrix, pixel_grid(side, side).to(matrix).expand(batch, -1, 2))
    return _at(inside_other, there).view(batch, side, side)


def _at(mask: Tensor, points: Tensor) -> Tensor:
    """The mask (B, S, S) at the pixels nearest to points (B, N, 2); 0 outside."""
    side = mask.shape[-1]
    near = points.round().long()
    inside = ((near >= 0) & (near < side)).all(-1)
    near = near.clamp(0, side - 1)
    return mask.flatten(1).gather(1, near[..., 1] * side + near[..., 0]) * inside


def _descriptor_points(
    corners: Tensor, present: Tensor, seen: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """``count`` points a pair: a random half of the corners, and random places that are seen."""
    side = seen.shape[-1]
    weight = present * uniform(tuple(present.shape), 0.01, 1, generator)
    order = weight.topk(min(count // 2, weight.shape[1]), dim=1).indices
    on_corners = corners.gather(1, order[..., None].expand(-1, -1, 2))
    there = present.gather(1, order)
    pixels = torch.multinomial(seen.flatten(1) + 1e-9, count, generator=generator)
    anywhere = torch.stack([pixels % side, pixels // side], dim=-1).float()
    anywhere = anywhere + uniform(tuple(anywhere.shape), -0.5, 0.5, generator)
    first = torch.where(there[..., None] > 0, on_corners, anywhere[:, : order.shape[1]])
    return torch.cat([first, anywhere[:, order.shape[1] :]], dim=1)
