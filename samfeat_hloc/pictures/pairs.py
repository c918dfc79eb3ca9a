"""Pictures of single images and pairs: what was found where, and which matches are right.

Right and wrong are told apart by colour (Okabe and Ito's, for colour-blind people too) and by line
style: right matches are solid, wrong ones dotted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..evaluation.matching import CachedFeatures, mutual_nearest, reprojection_errors
from ..evaluation.palette import BLUE, GREEN, ORANGE, VERMILION
from ..feature.extraction import resize_image
from ..feature.levels import STRIDE
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions

RIGHT, WRONG, UNKNOWN, POINT = BLUE, VERMILION, GREEN, ORANGE
RIGHT_WITHIN = 3.0  # pixels
MOST_LINES = 300  # more matches than that are a random part of them


def guidance_maps(
    model: SAMFeat, image: np.ndarray, options: ExtractOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Edge and attention map of an RGB uint8 image (H, W, 3).

    Returns:
        Two (h, w) float32, at a quarter of the size at which the image goes through the network:
        edges in (0, 1), attention positive.
    """
    resized = resize_image(image, options)
    height, width = resized.shape[:2]
    device = next(model.parameters()).device
    batch = torch.from_numpy(resized.astype(np.float32)).to(device)
    batch = batch.permute(2, 0, 1)[None] / 127.5 - 1
    batch = F.pad(batch, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    with torch.inference_mode():
        maps = model(batch)
    edges, attention = (
        found[0, 0, : -(-height // 4), : -(-width // 4)].float().cpu().numpy()
        for found in (maps.edges, maps.attention)
    )
    return edges, attention


def keypoints_figure(
    image: np.ndarray, keypoints: np.ndarray, edges: np.ndarray, attention: np.ndarray, title: str
) -> Figure:
    """Keypoints (N, 2) over the photo, over its edge map and over its attention map."""
    height, width = image.shape[:2]
    figure = Figure(figsize=(13.5, 1.0 + 4.4 * height / width), layout="constrained")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    panels = ((image, f"{len(keypoints)} keypoints"), (edges, "edge map"),
              (attention, "attention map"))  # fmt: skip
    for index, (picture, name) in enumerate(panels):
        axes = figure.add_subplot(1, 3, index + 1)
        top = None if picture.ndim == 3 else max(float(np.percentile(picture, 99.5)), 1e-6)
        bottom = None if picture.ndim == 3 else float(picture.min())
        axes.imshow(picture, extent=extent, cmap="gray", vmin=bottom, vmax=top)
        axes.scatter(keypoints[:, 0], keypoints[:, 1], s=2.5, c=POINT, linewidths=0)
        _frame(axes, extent, name)
    figure.suptitle(title, fontsize=10)
    return figure


def matches_figure(
    images: tuple[np.ndarray, np.ndarray],
    features: tuple[CachedFeatures, CachedFeatures],
    title: str,
    homography: np.ndarray | None = None,
    *,
    most: int = MOST_LINES,
) -> Figure:
    """Two images side by side and lines between their mutual nearest neighbours.

    Arguments:
        images: RGB uint8 (H, W, 3).
        homography: (3, 3) from image 0 to image 1; with it, matches within
            :data:`RIGHT_WITHIN` pixels are right and the others wrong.
        most: lines to draw at most, chosen at random (said in the legend).
    """
    matches = mutual_nearest(features[0].descriptors, features[1].descriptors)
    height = max(image.shape[0] for image in images)
    scales = [height / image.shape[0] for image in images]
    starts = [0.0, images[0].shape[1] * scales[0] + 0.02 * height]
    width = starts[1] + images[1].shape[1] * scales[1]
    figure = Figure(figsize=(12, 1.2 + 12 * height / width), layout="constrained")
    axes = figure.add_subplot()
    for image, scale, start in zip(images, scales, starts, strict=True):
        right = start + image.shape[1] * scale
        axes.imshow(image, extent=(start, right, height, 0), interpolation="antialiased")
    _frame(axes, (0, width, height, 0), "")

    ends = [
        (found.keypoints[matches[:, side]] + 0.5) * scales[side] + [starts[side], 0]
        for side, found in enumerate(features)
    ]
    chosen = np.arange(len(matches))
    if len(matches) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(matches), most, replace=False))
    legend = []
    for rows, colour, line, name in _groups(features, matches, homography):
        label = f"{len(rows)} {name}"
        drawn = np.intersect1d(rows, chosen)
        if len(drawn) < len(rows):
            label += f" ({len(drawn)} shown)"
        for row in drawn:
            x, y = zip(ends[0][row], ends[1][row], strict=True)
            marker = "." if line == "-" else "x"
            axes.plot(x, y, color=colour, linestyle=line, marker=marker, linewidth=0.7,
                      markersize=3, markeredgewidth=0.6, alpha=0.8)  # fmt: skip
        legend.append(Line2D([], [], color=colour, linestyle=line, linewidth=1.6, label=label))
    figure.legend(handles=legend, loc="outside lower center", ncols=2, handlelength=4,
                  fontsize=9, frameon=False)  # fmt: skip
    figure.suptitle(title, fontsize=10)
    return figure


def _groups(
    features: tuple[CachedFeatures, CachedFeatures],
    matches: np.ndarray,
    homography: np.ndarray | None,
) -> list[tuple[np.ndarray, str, str, str]]:
    """Rows, colour, line style and name of each kind of match; wrong ones are drawn first."""
    if homography is None:
        return [(np.arange(len(matches)), UNKNOWN, "-", "matches")]
    first, second = (found.keypoints for found in features)
    right = reprojection_errors(first, second, matches, homography) <= RIGHT_WITHIN
    return [
        (np.flatnonzero(~right), WRONG, ":", f"wrong, over {RIGHT_WITHIN:g} pixels"),
        (np.flatnonzero(right), RIGHT, "-", f"right, within {RIGHT_WITHIN:g} pixels"),
    ]


def _frame(axes: Any, extent: tuple[float, float, float, float], title: str) -> None:
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
