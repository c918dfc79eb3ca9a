"""Training pairs: two relit views, and what the losses need to know of them.

A source (photos under homographies, posed images with depth, synthetic scenes) makes two views and
says where a point of the first is in the second; :func:`complete_pairs` does the rest, the same for
all: labels, descriptor points, relighting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..feature.detection import local_maximum
from ..geometry.homographies import inverse, pixel_grid, transform, uniform
from ..geometry.photometric import relight_day, relight_night
from .corners import common_corners, corners_within, gaussian_blur, splat
from .reprojection import Reprojection

Move = Callable[[Tensor], Tensor]


@dataclass
class PairOptions:
    """What a pair looks like.

    crop: side of the views, pixels. night: share of second views relit as night. sensor: share of
    those with noise as a camera leaves it (raw, demosaicing, denoising, JPEG), not white. points:
    descriptor points a pair, half of them on keypoints. keypoints: labels a view at most.
    too_close: radius around a match within which nothing is a negative, pixels. taught_edges:
    where there is a teacher its edges are the edge map's target; false takes image gradients, as
    where there is none. unseen: so many keypoints of each view that the other cannot see are
    negatives of the matching loss, where it is known that it cannot (homographies of photos,
    generated scenes).
    """

    crop: int = 192
    night: float = 0.35
    sensor: float = 0.0
    points: int = 256
    keypoints: int = 224
    too_close: float = 8.0
    taught_edges: bool = True
    unseen: int = 0


@dataclass(frozen=True)
class PairBatch:
    """B pairs. Images are (B, 3, S, S) in [0, 1]; points are xy in pixels of their view.

    labels0, labels1: (B, S, S) keypoint labels. valid0, valid1: (B, S, S), where they hold.
    edges0, edges1: (B, S, S) in [0, 1]. points0, points1: (B, N, 2), row i of one is row i of the
    other. valid: (B, N). too_close: (B, N, N). matrix01: (B, 3, 3), view 0 to view 1,
    where a homography says it; else None. by_depth: from view 0 to view 1 and back, where depth
    says it; else None.
    corners0, corners1: (B, K, 2), the labels' sub-pixel places. present: (B, K), which are there.
    groups0, groups1: (B, N) int64, the teacher's semantic group at the points, -1 where none.
    teacher0, teacher1: (B, C, h, w), the teacher's embedding of the views; None without teacher.
    taught: (B,), 1 where the pair has a teacher (its edges, groups and embedding).
    unseen0, unseen1: (B, M, 3), keypoints xy of a view that the other does not show, and 1 where
    there is one; None where that is not known.
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
    too_close: Tensor
    corners0: Tensor
    corners1: Tensor
    present: Tensor
    groups0: Tensor
    groups1: Tensor
    taught: Tensor
    matrix01: Tensor | None = None
    teacher0: Tensor | None = None
    teacher1: Tensor | None = None
    unseen0: Tensor | None = None
    unseen1: Tensor | None = None
    by_depth: tuple[Reprojection, Reprojection] | None = None

    @property
    def network_input(self) -> Tensor:
        """(2B, 3, S, S) in [-1, 1]: view 0's images, then view 1's."""
        return torch.cat([self.image0, self.image1]) * 2 - 1

    @property
    def moves(self) -> tuple[Move, Move] | None:
        """What takes any points of view 0 to view 1, and back; None where nothing does."""
        if self.by_depth is not None:
            return self.by_depth
        if self.matrix01 is None:
            return None
        back = inverse(self.matrix01).to(self.matrix01.dtype)
        return partial(transform, self.matrix01), partial(transform, back)

    def select(self, keep: Tensor) -> PairBatch:
        """The pairs whose index is in ``keep``."""
        parts = ((f.name, getattr(self, f.name)) for f in fields(self))
        kept: dict[str, Any] = {name: _some(value, keep) for name, value in parts}
        return PairBatch(**kept)

    def tensors(self) -> dict[str, Tensor]:
        """All that it has, by name."""
        named = dict(vars(self))
        for way, move in zip(("there", "back"), named.pop("by_depth") or (), strict=False):
            named |= {f"{way}.{name}": part for name, part in vars(move).items()}
        return {name: part for name, part in named.items() if part is not None}


@dataclass(frozen=True)
class TeacherViews:
    """What a teacher says of B views of S x S pixels.

    embedding: (B, C, h, w) float32, any scale of the views. groups: (B, S, S) int64, -1 where none.
    edges: (B, S, S) in [0, 1]. known: (B,), 1 where the teacher has seen the image.
    """

    embedding: Tensor
    groups: Tensor
    edges: Tensor
    known: Tensor


class PairSource(Protocol):
    """Where pairs come from. num_pairs: how many make an epoch."""

    @property
    def num_pairs(self) -> int: ...

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; the same for the same random state."""
        ...


def complete_pairs(
    view0: Tensor, view1: Tensor, seen0: Tensor, seen1: Tensor, move01: Move,
    options: PairOptions, generator: torch.Generator, *,
    labelled: tuple[Tensor, Tensor] | None = None,
    taught: tuple[TeacherViews, TeacherViews] | None = None,
    matrix01: Tensor | None = None,
    shown: tuple[Tensor, Tensor] | None = None, lamplight: Tensor | None = None,
) -> PairBatch:  # fmt: skip
    """Everything the losses need, from two views and the correspondence between them.

    Arguments:
        view0, view1: (B, 3, S, S) in [0, 1], not yet relit.
        seen0, seen1: (B, S, S), 1 where a pixel's content is visible in the other view too.
        move01: takes points (B, N, 2) of view 0 to view 1.
        labelled: keypoints of view 0 (B, K, 2) and which are there (B, K); None takes the corners
            that both views show.
        taught: what a teacher says of the two views; None takes image gradients as edges.
        matrix01: (B, 3, 3), where ``move01`` is a homography.
        shown: (B, S, S) each, 1 where the view shows something; what is not seen of it is known not
            to be in the other view. None where that is not known.
        lamplight: (B, 3, S, S), linear, what lights view 1 at night, as a factor of its light; None
            for lamps anywhere.
    """
    side = view0.shape[-1]
    if labelled is None:
        corners0, present = common_corners(view0, view1, move01, seen0, limit=options.keypoints)
    else:
        corners0, present = labelled
    corners1 = move01(corners0)
    present = present * _at(seen0, corners0) * _within(corners1, side)
    points0 = _descriptor_points(corners0, present, seen0, options.points, generator)
    points1 = move01(points0)
    valid = _at(seen0, points0) * _within(points1, side)
    batch = finish_pairs(
        (view0, view1), (seen0, seen1), (corners0, corners1, present), (points0, points1, valid),
        options, generator, taught=taught, matrix01=matrix01, lamplight=lamplight,
    )  # fmt: skip
    if shown is None or not options.unseen:
        return batch
    unseen0, unseen1 = (
        corners_within(view, hidden_from(seen, there, options.too_close), options.unseen)
        for view, seen, there in zip((view0, view1), (seen0, seen1), shown, strict=True)
    )
    return replace(batch, unseen0=unseen0, unseen1=unseen1)


def hidden_from(seen: Tensor, shown: Tensor, apart: float) -> Tensor:
    """What a view shows (B, S, S) and the other does not: outside of it, or behind something there.

    Pixels ``apart`` or less from what both show are left out, as they look alike.
    """
    near = local_maximum(seen[:, None], math.ceil(apart))[:, 0]
    return shown * (1 - near)


def finish_pairs(
    views: tuple[Tensor, Tensor],
    seen: tuple[Tensor, Tensor],
    corners: tuple[Tensor, Tensor, Tensor],
    points: tuple[Tensor, Tensor, Tensor],
    options: PairOptions,
    generator: torch.Generator,
    *,
    taught: tuple[TeacherViews, TeacherViews] | None = None,
    matrix01: Tensor | None = None,
    lamplight: Tensor | None = None,
) -> PairBatch:
    """A batch of pairs whose labels and descriptor points are known: the rest of the batch.

    Arguments:
        views, seen, taught, matrix01, lamplight: as in :func:`complete_pairs`.
        corners: the labels' places in either view (B, K, 2), and which are there (B, K).
        points: descriptor points in either view (B, N, 2), and which count (B, N).
    """
    (view0, view1), (seen0, seen1) = views, seen
    corners0, corners1, present = corners
    points0, points1, valid = points
    count, side = len(view0), view0.shape[-1]
    near = torch.cdist(points1, points1) < options.too_close
    # Distances in view 0 count as well: after a zoom, close there may be far here.
    near |= torch.cdist(points0, points0) < options.too_close

    edges0, edges1 = gradient_edges(view0), gradient_edges(view1)
    groups0 = torch.full(valid.shape, -1, dtype=torch.long, device=valid.device)
    groups1, known = groups0.clone(), torch.zeros_like(valid[:, 0])
    if taught is not None:
        known = taught[0].known * taught[1].known
        if options.taught_edges:
            edges0, edges1 = (
                torch.where(known[:, None, None] > 0, t.edges, e)
                for t, e in zip(taught, (edges0, edges1), strict=True)
            )
        groups0, groups1 = (
            torch.where((known[:, None] > 0) & (valid > 0), _nearest(t.groups, points), groups0)
            for t, points in zip(taught, (points0, points1), strict=True)
        )

    night = uniform((count, 1, 1, 1), 0, 1, generator) < options.night
    image0 = relight_day(view0, generator)
    dark = relight_night(view1, generator, through_sensor=options.sensor, lamplight=lamplight)
    image1 = torch.where(night, dark, relight_day(view1, generator))
    return PairBatch(
        image0, image1,
        splat(corners0, present, side), splat(corners1, present, side), seen0, seen1,
        edges0, edges1, points0, points1, valid, near.float(),
        corners0, corners1, present, groups0, groups1, known, matrix01,
        taught[0].embedding if taught else None, taught[1].embedding if taught else None,
    )  # fmt: skip


def gradient_edges(views: Tensor) -> Tensor:
    """Edges of unlit views (B, S, S) in [0, 1], from the image gradient: no teacher needed."""
    grey = F.pad(gaussian_blur(views.mean(dim=1, keepdim=True), 1.0), (1,) * 4, mode="replicate")
    dx = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    dy = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    return 1 - torch.exp(-(dx.square() + dy.square())[:, 0] / 0.04**2)


def seen_by(inside_other: Tensor, move: Move) -> Tensor:
    """(B, S, S): 1 where a pixel moved by ``move`` falls on photo in the other view."""
    batch, side, _ = inside_other.shape
    there = move(
        pixel_grid(side, side, device=inside_other.device).to(inside_other).expand(batch, -1, 2)
    )
    return _at(inside_other, there).view(batch, side, side)


def drawn_seed(generator: torch.Generator) -> int:
    """A seed for other generators, drawn from this one on its device."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def _some(part: Any, keep: Tensor) -> Any:
    if isinstance(part, tuple):
        return tuple(move[keep] for move in part)
    return None if part is None else part[keep]


def _at(mask: Tensor, points: Tensor) -> Tensor:
    """The mask (B, S, S) at the pixels nearest to points (B, N, 2); 0 outside."""
    side = mask.shape[-1]
    return _nearest(mask, points) * _within(points, side)


def _nearest(maps: Tensor, points: Tensor) -> Tensor:
    """The maps (B, S, S) at the pixels nearest to points (B, N, 2)."""
    side = maps.shape[-1]
    near = points.round().long().clamp(0, side - 1)
    return maps.flatten(1).gather(1, near[..., 1] * side + near[..., 0])


def _within(points: Tensor, side: int) -> Tensor:
    """(B, N) of 0 and 1: which points (B, N, 2) lie in a view."""
    return ((points >= 0) & (points <= side - 1)).all(-1).float()


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
