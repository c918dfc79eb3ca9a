"""What the page of a reconstruction or of a saved map shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..evaluation import palette
from ..evaluation.record import measurement
from .as_json import base64_of, photo_json, picture_json, records_json, scene_json, svg
from .contents import ModelReport, PhotoReport, PhotosReport

_LONGEST = 12  # photos; the last bar holds all longer tracks
_LARGEST = 4.0  # pixels; the last bar holds all larger errors


def photos_content(data: PhotosReport) -> dict[str, Any]:
    """What the page's script reads, without what every report has."""
    index = {photo.name: number for number, photo in enumerate(data.photos)}
    run = {
        key: value for key, value in data.summary.items()
        if key in ("configuration", "versions", "commit", "machine")
    }  # fmt: skip
    return {
        "kind": "photos",
        "heading": f"{data.title}: photos and points",
        "notes": data.notes,
        "facts": _facts(data),
        "accuracy": None,
        "curves": None,
        "stages": [],
        "records": records_json(data.records, run, measurement({})),
        "conditions": [
            f"model {number}" if len(data.models) > 1 else "in the model"
            for number in range(1, len(data.models) + 1)
        ],
        "scenes": [
            {**scene_json(model.scene), "curves": svg(figure(model))} for model in data.models
        ],
        "dbNames": list(index),
        "queries": [_photo(photo, index) for photo in data.photos],
    }


def figure(model: ModelReport) -> Figure:
    """Two panels: how many photos see a point, and reprojection errors; a bar is a share of all."""
    drawn = Figure(figsize=(8.6, 2.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    total = max(len(model.track_lengths), 1)
    lengths = np.clip(model.track_lengths, 0, _LONGEST)
    counts = np.bincount(lengths, minlength=_LONGEST + 1)[2:]
    labels = [*map(str, range(2, _LONGEST)), f"{_LONGEST}+"]
    left.bar(labels, 100 * counts / total, color=palette.BLUE)
    left.set_xlabel("track length (photos that see a point)")
    left.set_ylabel("points (%)")
    edges = np.linspace(0, _LARGEST, 17)
    errors = model.errors[np.isfinite(model.errors)]
    shares, _ = np.histogram(np.clip(errors, 0, _LARGEST - 1e-6), edges)
    right.bar(edges[:-1], 100 * shares / total, np.diff(edges), align="edge",
              color=palette.BLUE, edgecolor="white", linewidth=0.6)  # fmt: skip
    ticks = np.arange(0, _LARGEST + 1)
    right.set_xticks(ticks, [*(f"{tick:g}" for tick in ticks[:-1]), f"{_LARGEST:g}+"])
    right.set_xlabel("reprojection error (pixels, mean over a point's photos)")
    for axes in (left, right):
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    return drawn


def _facts(data: PhotosReport) -> list[list[str]]:
    """Label and value of what one wants to know first."""
    placed = sum(photo.model is not None for photo in data.photos)
    lengths = np.concatenate([model.track_lengths for model in data.models])
    errors = np.concatenate([model.errors for model in data.models])
    errors = errors[np.isfinite(errors)]
    facts = [
        ["photos", f"{len(data.photos):,}"],
        ["with a pose", f"{placed:,}"],
        ["in no model", f"{len(data.photos) - placed:,}"],
        ["models", f"{len(data.models):,}"],
        ["points", f"{len(lengths):,}"],
        ["observations", f"{int(lengths.sum()):,}"],
    ]
    if len(lengths):
        facts.append(["mean track length", f"{lengths.mean():.2f} photos"])
    if len(errors):
        facts.append(["mean reprojection error", f"{errors.mean():.2f} px"])
    return [fact for fact in facts if fact not in (["in no model", "0"], ["models", "1"])]


def _photo(photo: PhotoReport, index: dict[str, int]) -> dict[str, Any]:
    placed = photo.model is not None
    return {
        "name": photo.name,
        "condition": photo.model,
        "failed": not placed,
        "localized": placed,
        "reason": None if placed else "in no model",
        "text": f"in no model: {photo.reason}" if photo.reason else "",
        "error": None,
        "keypoints": photo.num_keypoints,
        "inliers": photo.num_points,
        "reprojection": _finite(photo.error),
        "track": _finite(photo.track_length),
        "camera": photo.camera,
        "retrieved": [[row, shared] for row, shared in photo.neighbours],
        "points": base64_of(photo.points, "<u4"),
        "inlierXY": base64_of(photo.xy, "<u2"),
        "thumbnail": photo_json(photo.thumbnail),
        "picture": picture_json(photo.picture, index),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
