"""Keypoint labels by homographic adaptation: what a detector finds in most views of a photo.

Each photo is looked at through random homographies. A place's score is the share of the views that
show it in which the detector finds a keypoint there; so the scores of all detectors mean the same.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import SamfeatError
from ..feature.checkpoints import SHIPPED
from ..feature.detection import local_maximum, refine
from ..files import images, provenance
from ..files.h5store import Group, SegmentWriter
from ..files.image_folders import list_images
from ..files.provenance import file_sha256
from ..geometry.homographies import (
    homography_from_points,
    inverse,
    pixel_grid,
    transform,
    uniform,
    warp,
)
from ..parallel.devices import Work, all_devices, device_of, on_devices
from ..parallel.image_checks import refuse_broken
from ..progress import tqdm
from .corners import gaussian_blur
from .detectors import STRIDE, Detect, load_detector
from .keypoint_labels import KeypointLabels

logger = logging.getLogger(__name__)

_BATCH = 8  # views through the detector at once
_TOLERANCE = 1.0  # pixels, sigma: how near detections of different views have to be
_BORDER = 4.0  # pixels of the photo: there, its end looks like an edge
_LEAST_VIEWS = 0.2  # share of the views that have to show a place


@dataclass(frozen=True)
class LabelOptions:
    """How to label.

    detector: see :data:`.detectors.DETECTORS`. views: of each photo; the first is the photo itself.
    max_keypoints: the best so many. longest: longer side at which to detect, pixels. least: share
    of views below which a place is no keypoint. radius: no two keypoints closer than this, pixels.
    rotation: largest angle of a view, degrees. scale: largest ratio of a view's scale to the
    photo's, either way. perspective: how far a view's corner moves, as a share of its side.
    """

    detector: str = "corners"
    views: int = 48
    max_keypoints: int = 1024
    longest: int = 480
    least: float = 0.2
    radius: int = 3
    rotation: float = 60.0
    scale: float = 1.6
    perspective: float = 0.15


@dataclass(frozen=True)
class Job:
    """What a process needs to label photos."""

    image_dir: Path
    options: LabelOptions
    weights: Path | None

    def datasets(
        self, detect: Detect, device: str, names: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The output's datasets of some photos."""
        found = {}
        for name in names:
            pixels = images.read_image(self.image_dir / name)
            # Seeded by its name, a photo's labels do not depend on what was done before it.
            generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
            keypoints, scores = label_photo(pixels, detect, self.options, generator)
            found[name] = {
                "keypoints": keypoints,
                "keypoint_scores": scores,
                "image_size": np.array(pixels.shape[1::-1], dtype=np.int64),
            }
        return found


def main(
    image_dir: Path,
    output: Path,
    options: LabelOptions,
    *,
    weights: Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Label all photos of a folder; go on where an interrupted run left off.

    The output has hloc's layout for keypoints: a group a photo with ``keypoints`` (N, 2) float32 xy
    in stored pixels, ``keypoint_scores`` (N,) float32 and ``image_size`` (2,) width and height.

    Arguments:
        device: where to compute; None for all GPUs (a process each), or the processor.

    Raises:
        SamfeatError: no photos, one that is broken, no such detector, a checkpoint that is missing,
            an output created with other settings.
    """
    image_dir = Path(image_dir)
    names = list_images(image_dir, for_lists=False)
    job = Job(image_dir, options, weights)
    devices = all_devices() if device is None else [str(device_of(device))]
    first = _work(job, devices[0])
    if weights is None and options.detector == "samfeat":
        weights = SHIPPED
    digest = file_sha256(weights) if weights else None
    record = provenance.made_by("label", asdict(options), {}, digest)
    sources = {name: f"{(image_dir / name).stat().st_size} bytes" for name in names}
    with SegmentWriter(output, record, overwrite=overwrite, compare_inputs=False) as writer:
        if writer.is_finished(sources):
            return output
        left = [name for name in names if writer.done.get(name) != sources[name]]
        refuse_broken(image_dir, left)
        if len(left) < len(names):
            logger.info("label: %d of %d photos are done already", len(names) - len(left),
                        len(names))  # fmt: skip
        with (
            tqdm(total=len(left), desc=f"label ({options.detector})", unit="photo") as progress,
            on_devices(
                partial(_work, job), devices, [[name] for name in left],
                command="label", first=first,
            ) as results,
        ):  # fmt: skip
            for found in results:
                writer.add({n: Group(data, {}, sources[n]) for n, data in found.items()})
                progress.update(len(found))
        return writer.finish()


def _work(job: Job, device: str) -> Work[dict[str, dict[str, np.ndarray]]]:
    detect = load_detector(job.options.detector, job.weights, device, job.options.max_keypoints)
    return partial(job.datasets, detect, device)


def summary(path: Path) -> str:
    """How many labels there are, in a line."""
    labels = KeypointLabels(path)
    counts = [len(labels.read(name).keypoints) for name in labels.names]
    return f"{len(counts)} photos, {np.mean(counts):.0f} keypoints each (at least {min(counts)})"


@torch.inference_mode()
def label_photo(
    pixels: np.ndarray, detect: Detect, options: LabelOptions, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of a photo that a detector finds in many views of it.

    Arguments:
        pixels: RGB uint8 (H, W, 3).
        generator: on the device to compute on.

    Returns:
        keypoints (N, 2) float32 xy in pixels of the photo, and their scores (N,) float32 in (0, 1],
        best first.
    """
    height, width = pixels.shape[:2]
    shrink = min(1.0, options.longest / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if shrink < 1 else pixels
    device = generator.device
    photo = torch.from_numpy(np.ascontiguousarray(small)).to(device).permute(2, 0, 1)[None] / 255
    sizes = torch.tensor([size], device=device, dtype=torch.float32)
    side = -(-max(size) // STRIDE) * STRIDE
    to_photo = adaptation_views(sizes[0], side, options, generator)

    grid = pixel_grid(size[1], size[0], device=device)[None]
    votes = torch.zeros(size[1] * size[0], device=device)
    shown = torch.zeros_like(votes)
    for start in range(0, len(to_photo), _BATCH):
        matrices = to_photo[start : start + _BATCH]
        count = len(matrices)
        views, inside = warp(photo.expand(count, -1, -1, -1), sizes.expand(count, -1), matrices,
                             side)  # fmt: skip
        for points, matrix, on_photo in zip(detect(views), matrices, inside, strict=True):
            whole = points.round().long().clamp(0, side - 1)
            points = points[on_photo[whole[:, 1], whole[:, 0]] > 0]
            _vote(votes, transform(matrix[None], points[None])[0], size)
            there = transform(inverse(matrix)[None], grid)[0]
            shown += ((there >= _BORDER) & (there <= side - 1 - _BORDER)).all(-1)
    found = gaussian_blur(votes.view(1, 1, size[1], size[0]), _TOLERANCE)[0, 0]
    peak = 2 * torch.pi * _TOLERANCE**2  # of a blurred single vote
    shown = shown.view_as(found)
    share = (found * peak / shown.clamp(min=1)).clamp(max=1)
    share = torch.where(shown >= _LEAST_VIEWS * len(to_photo), share, torch.zeros_like(share))
    kept = (share >= local_maximum(share[None, None], options.radius)[0, 0]) & (
        share > options.least
    )
    values, order = share.masked_fill(~kept, 0).flatten().topk(
        min(options.max_keypoints, share.numel())
    )  # fmt: skip
    order, values = order[values > 0], values[values > 0]
    keypoints = refine(share, torch.stack([order % size[0], order // size[0]], dim=-1))
    scale = torch.tensor([width / size[0], height / size[1]], device=device)
    keypoints = (keypoints + 0.5) * scale - 0.5
    return keypoints.cpu().numpy().astype(np.float32), values.cpu().numpy().astype(np.float32)


def adaptation_views(
    size: Tensor, side: int, options: LabelOptions, generator: torch.Generator
) -> Tensor:
    """Matrices (V, 3, 3) from view pixels to photo pixels; the first view is the photo itself.

    Arguments:
        size: (2,) width and height of the photo. side: of the views, in pixels.
    """
    if options.views < 1 or options.scale < 1:
        raise SamfeatError(
            f"views {options.views}, scale {options.scale}", "both have to be at least 1"
        )
    count, device, half = options.views, generator.device, side / 2
    corners = half * torch.tensor([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]], device=device)
    turn = torch.deg2rad(uniform((count,), -options.rotation, options.rotation, generator))
    cos, sin = torch.cos(turn), torch.sin(turn)
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    scale = options.scale ** uniform((count, 1, 1), -1, 1, generator)
    jitter = uniform((count, 4, 2), -1, 1, generator) * options.perspective * half
    aside = uniform((count, 1, 2), -0.25, 0.25, generator) * size
    target = (corners + jitter) @ rotation * scale + aside
    target[0] = corners
    source = (corners + half - 0.5).expand(count, 4, 2)
    return homography_from_points(source, target + size / 2 - 0.5)


def _vote(votes: Tensor, points: Tensor, size: tuple[int, int]) -> None:
    """Add one vote for each point (N, 2), shared among its four pixels of the map (H * W,)."""
    width, height = size
    limit = points.new_tensor([width - 1 - _BORDER, height - 1 - _BORDER])
    points = points[((points >= _BORDER) & (points <= limit)).all(-1)]
    base = points.floor().long()
    fraction = points - base
    for dy in (0, 1):
        for dx in (0, 1):
            share = (fraction[:, 0] if dx else 1 - fraction[:, 0]) * (
                fraction[:, 1] if dy else 1 - fraction[:, 1]
            )
            votes.index_add_(0, (base[:, 1] + dy) * width + base[:, 0] + dx, share)
