"""Pictures of a run: matches of a query, keypoints and edges, the map with its cameras.

Colours are those of Okabe and Ito, told apart by colour-blind people too, and never the only
mark: outliers are thin, true cameras are rings, estimated ones crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..colmap.model import Model, read_model
from ..colmap.poses import Pose
from ..evaluation.palette import BLUE, GREEN, GREY, ORANGE
from ..feature.extraction import resize_image
from ..feature.levels import STRIDE
from ..feature.network import SAMFeat
from ..feature.presets import PRESETS
from ..files.atomic import making_file
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.images import read_image
from ..localization.result import LocalizationResult, QueryResult
from ..pipelines.run import Run

CONDITION_COLOURS = {"day": BLUE, "night": ORANGE}
_DPI = 110
_WIDTH = 11.0  # inches
_MOST_LINES = 150  # more matches than that are a random part of them


@dataclass(frozen=True)
class QueryMatches:
    """A query and the database image with most of its matches, in pixels of both (centre origin).

    query_keypoints, db_keypoints: (K, 2); inliers: (K,) bool, whether the pose agrees.
    """

    query: QueryResult
    db_name: str
    query_keypoints: np.ndarray
    db_keypoints: np.ndarray
    inliers: np.ndarray


def query_matches(
    query: QueryResult, map_model: Model, features: FeatureReader, matches: MatchReader
) -> QueryMatches:
    """The matches of a query with the retrieved image that has most inliers.

    A match is an inlier when the pose's inliers have its keypoint with its point; matches with
    keypoints that have no point of the map are outliers.
    """
    inliers = set(zip(query.inlier_keypoints.tolist(), query.inlier_points.tolist(), strict=True))

    def of(db_name: str) -> tuple[np.ndarray, np.ndarray]:
        pair = matches.matches(query.name, db_name)
        rows = map_model.images[db_name].points[pair[:, 1]]
        ids = np.where(rows >= 0, map_model.point_ids[np.maximum(rows, 0)], -1)
        agree = [key in inliers for key in zip(pair[:, 0].tolist(), ids.tolist(), strict=True)]
        return pair, np.array(agree, dtype=bool)

    candidates = sorted(query.retrieved, key=lambda item: -item[1])[:10]
    best = max((name for name, _ in candidates), key=lambda name: int(of(name)[1].sum()))
    pair, agree = of(best)
    return QueryMatches(
        query,
        best,
        features.keypoints(query.name)[pair[:, 0]] - 0.5,
        features.keypoints(best)[pair[:, 1]] - 0.5,
        agree,
    )


def draw_matches(axes: Any, found: QueryMatches, image_dir: Path) -> None:
    """Both images side by side at the same height, matches as lines, inliers on top."""
    left, right = (read_image(image_dir / name) for name in (found.query.name, found.db_name))
    height = max(left.shape[0], right.shape[0])
    gap = round(0.02 * height)
    scales = height / left.shape[0], height / right.shape[0]
    start = left.shape[1] * scales[0] + gap
    for image, scale, x in ((left, scales[0], 0.0), (right, scales[1], start)):
        extent = (x - 0.5, x + image.shape[1] * scale - 0.5, height - 0.5, -0.5)
        axes.imshow(image, extent=extent, interpolation="antialiased")
    rng = np.random.default_rng(0)
    for mask, colour, width, name in (
        (~found.inliers, ORANGE, 0.4, "other"),
        (found.inliers, BLUE, 0.8, "inlier"),
    ):
        rows = np.flatnonzero(mask)
        label = f"{len(rows)} {name} matches" if name == "other" else f"{len(rows)} inliers"
        if len(rows) > _MOST_LINES:
            rows = rng.choice(rows, _MOST_LINES, replace=False)
            label += f" ({_MOST_LINES} shown)"
        ends = np.stack(
            [
                found.query_keypoints[rows] * scales[0],
                found.db_keypoints[rows] * scales[1] + [start, 0],
            ],
            axis=1,
        )
        axes.add_collection(
            LineCollection(list(ends), colors=colour, linewidths=width, alpha=0.7, label=label)
        )
    axes.set_xlim(-0.5, start + right.shape[1] * scales[1] - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()
    status = "" if found.query.localized else " (not localized)"
    axes.set_title(f"{found.query.name}{status} and {found.db_name}", fontsize=9)
    legend = axes.legend(loc="lower left", fontsize=8, framealpha=0.85)
    for line in legend.get_lines():
        line.set_linewidth(2)


def edge_map(model: SAMFeat, image: np.ndarray, preset: str) -> np.ndarray:
    """(h, w) float32 in [0, 1]: the network's edge map of an RGB image, a quarter of its size."""
    resized = resize_image(image, PRESETS[preset])
    height, width = resized.shape[:2]
    device = next(model.parameters()).device
    batch = (
        torch.from_numpy(resized.copy())[None].to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    batch = F.pad(batch, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    with torch.inference_mode():
        edges = model(batch).edges[0, 0].float().cpu().numpy()
    return edges[: -(-height // 4), : -(-width // 4)]


def draw_keypoints(axes: Sequence[Any], image: np.ndarray, keypoints: np.ndarray,
                   edges: np.ndarray, title: str) -> None:  # fmt: skip
    """Keypoints (N, 2) over the image in the first axes, over the edge map in the second."""
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes[0].imshow(image, extent=extent)
    axes[1].imshow(edges, extent=extent, cmap="gray", vmin=0, vmax=max(float(edges.max()), 1e-6))
    for ax, name in zip(axes, (f"{len(keypoints)} keypoints", "edge map"), strict=True):
        ax.scatter(keypoints[:, 0], keypoints[:, 1], s=2.0, c=ORANGE, linewidths=0)
        ax.set_xlim(extent[:2])
        ax.set_ylim(extent[2:])
        ax.set_axis_off()
        ax.set_title(f"{title}: {name}" if ax is axes[0] else name, fontsize=9)


def ground_plane(poses: Sequence[Pose]) -> np.ndarray:
    """(3, 3) rotation whose first two rows span the ground: cameras are held upright on it.

    The first row is the direction in which the cameras stand apart most, the third is up, the
    mean of the cameras' upward directions.
    """
    up = -np.mean([pose.rotation[1] for pose in poses], axis=0)
    norm = np.linalg.norm(up)
    up = np.array([0.0, 0.0, 1.0]) if norm < 1e-6 else up / norm
    level = np.eye(3) - np.outer(up, up)
    centres = np.array([pose.centre for pose in poses])
    spread = level @ np.cov(centres.T, ddof=0) @ level + 1e-9 * level
    first = np.linalg.eigh(spread)[1][:, -1]
    first = level @ first
    first *= np.sign(first[np.argmax(np.abs(first))]) / np.linalg.norm(first)
    return np.stack([first, np.cross(up, first), up])


def draw_map(
    axes: Any, map_model: Model, result: LocalizationResult, truth: Mapping[str, Pose] | None
) -> None:
    """The map from above: points, database cameras, estimated and (where known) true queries.

    `truth` holds poses by base name. An estimate outside the picture is named in the title.
    """
    cameras = [image.pose for image in map_model.images.values()]
    plane = ground_plane(cameras)

    def flat(points: np.ndarray) -> np.ndarray:
        return np.asarray(points).reshape(-1, 3) @ plane[:2].T

    db = flat(np.array([pose.centre for pose in cameras]))
    low, high = _frame(map_model, plane)
    points = flat(map_model.xyz)
    colours = map_model.colors / 255 * 0.85
    axes.scatter(points[:, 0], points[:, 1], s=0.6, c=colours, linewidths=0, rasterized=True)
    axes.scatter(db[:, 0], db[:, 1], s=14, marker="^", c=GREY, label="database cameras")
    outside = 0
    conditions = dict.fromkeys(query.condition for query in result.queries.values())
    for condition in conditions:
        queries = [q for q in result.queries.values() if q.condition == condition]
        colour = CONDITION_COLOURS.get(condition, GREEN)
        estimated = flat(np.array([query.pose.centre for query in queries]))
        axes.scatter(*estimated.T, s=26, marker="x", c=colour, linewidths=1.2,
                     label=f"{condition} queries, estimated")  # fmt: skip
        outside += int((~((estimated >= low) & (estimated <= high)).all(axis=1)).sum())
        known = [q for q in queries if truth is not None and q.name in truth]
        if truth is not None and known:
            true = flat(np.array([truth[query.name].centre for query in known]))
            axes.scatter(*true.T, s=60, marker="o", facecolors="none", edgecolors=colour,
                         linewidths=0.8, label=f"{condition} queries, true")  # fmt: skip
            ends = flat(np.array([query.pose.centre for query in known]))
            axes.add_collection(
                LineCollection(list(np.stack([true, ends], axis=1)), colors=colour, linewidths=0.6)
            )
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_xlabel("metres")
    axes.set_ylabel("metres")
    title = f"map from above: {len(map_model.point_ids)} points"
    axes.set_title(title + (f"; {outside} estimates outside" if outside else ""), fontsize=9)
    axes.legend(loc="upper right", fontsize=7, framealpha=0.85)


def _trusted(map_model: Model) -> np.ndarray:
    """(P, 3) points that three images see, where there are enough of these."""
    seen = map_model.track_lengths >= 3
    return map_model.xyz[seen] if seen.sum() > 100 else map_model.xyz


def _frame(map_model: Model, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the map's picture: all database cameras and the bulk of the points."""
    db = np.array([image.pose.centre for image in map_model.images.values()]) @ plane[:2].T
    points = _trusted(map_model) @ plane[:2].T
    low = np.minimum(db.min(axis=0), np.percentile(points, 4, axis=0))
    high = np.maximum(db.max(axis=0), np.percentile(points, 96, axis=0))
    margin = 0.08 * float((high - low).max()) + 0.5
    return low - margin, high + margin


def write_pictures(run: Run, preset: str) -> list[Path]:
    """Write the pictures of a finished run into `<outputs>/pictures`; returns their paths.

    For each condition the query with the median number of inliers: its matches, its keypoints
    and edge map. Then the map from above, and an overview of all.
    """
    folder = run.outputs / "pictures"
    folder.mkdir(exist_ok=True)
    map_model = read_model(run.map_dir)
    truth = run.dataset.ground_truth
    image_dir = run.dataset.image_dir
    written = []
    shown: list[QueryMatches] = []
    with FeatureReader(run.features) as features, MatchReader(run.matches_query) as matches:
        for condition in run.dataset.conditions:
            queries = [q for q in run.result.queries.values() if q.condition == condition]
            query = sorted(queries, key=lambda q: q.num_inliers)[len(queries) // 2]
            found = query_matches(query, map_model, features, matches)
            shown.append(found)
            figure, axes = _figure(_WIDTH, 4.2)
            draw_matches(axes[0], found, image_dir)
            written.append(_save(figure, folder / f"matches-{condition}.png"))
            image = read_image(image_dir / query.name)
            keypoints = features.keypoints(query.name) - 0.5
            figure, axes = _figure(_WIDTH, 4.3, columns=2)
            draw_keypoints(axes, image, keypoints, edge_map(run.model, image, preset), query.name)
            written.append(_save(figure, folder / f"keypoints-{condition}.png"))
    tall = _map_height(map_model)
    figure, axes = _figure(_WIDTH, tall + 1.2)
    draw_map(axes[0], map_model, run.result, truth)
    written.append(_save(figure, folder / "map.png"))

    figure, axes = _figure(_WIDTH, 4.2 + tall + 1.2, rows=2, heights=[4.2, tall + 1.2])
    draw_matches(axes[0], shown[-1], image_dir)
    draw_map(axes[1], map_model, run.result, truth)
    written.append(_save(figure, folder / "overview.png"))
    return written


def _map_height(map_model: Model) -> float:
    """Inches that the map needs at the pictures' width, within limits."""
    plane = ground_plane([image.pose for image in map_model.images.values()])
    low, high = _frame(map_model, plane)
    return float(np.clip((_WIDTH - 0.8) * (high - low)[1] / (high - low)[0], 2.0, 7.0))


def _figure(
    width: float,
    height: float,
    *,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        return figure, axes.ravel()


def _save(figure: Figure, path: Path) -> Path:
    with making_file(path) as place:
        figure.savefig(place, format="png")
    return path
