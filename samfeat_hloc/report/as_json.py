"""Scenes, photos and matches as the page's script reads them: plain values, arrays as base64."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .contents import MatchPicture, Scene
from .photos import ReportPhoto


def base64_of(array: np.ndarray, dtype: str) -> str:
    """An array's bytes in a type such as "<f4"."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.dtype(dtype)).tobytes()).decode()


def scene_json(scene: Scene) -> dict[str, Any]:
    """The 3-D view of a map."""
    return {
        "points": base64_of(scene.points, "<f4"),
        "colors": base64_of(scene.colors, "u1"),
        "shown": len(scene.points),
        "total": scene.num_points,
        "places": [
            {
                "low": [float(value) for value in place.low],
                "high": [float(value) for value in place.high],
                "cameras": [int(value) for value in place.cameras],
            }
            for place in scene.places
        ],
        "radius": scene.places[0].radius,
        "cameraSize": scene.camera_size,
        "db": base64_of(scene.db_poses, "<f4"),
        "estimated": base64_of(scene.estimated, "<f4"),
        "truth": base64_of(scene.truth, "<f4"),
    }


def photo_json(photo: ReportPhoto | None) -> dict[str, Any] | None:
    """A photo."""
    if photo is None:
        return None
    return {"jpeg": base64.b64encode(photo.jpeg).decode(), "size": list(photo.size)}


def picture_json(picture: MatchPicture | None, index: Mapping[str, int]) -> dict[str, Any] | None:
    """Two photos and their matches; ``index``: the number of each image by name."""
    if picture is None:
        return None
    return {
        "query": photo_json(picture.query),
        "database": photo_json(picture.database),
        "dbIndex": index[picture.db_name],
        "keypoints": base64_of(picture.keypoints, "<u2"),
        "matches": base64_of(picture.matches, "<u2"),
        "inliers": base64_of(picture.inliers, "u1"),
        "numKeypoints": picture.num_keypoints,
        "numMatches": picture.num_matches,
    }


def svg(figure: Figure) -> str:
    """A figure as an SVG of text and paths, in base64."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"svg.hashsalt": "samfeat"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return base64.b64encode(stream.getvalue()).decode()


def flat(value: Any, prefix: str = "") -> list[list[str]]:
    """Nested dicts as rows of dotted name and value."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in flat(inner, f"{prefix}{key}.")]
    return [[prefix.removesuffix("."), value if isinstance(value, str) else json.dumps(value)]]


def records_json(
    records: Mapping[str, Mapping[str, Any]], run: Mapping[str, Any], here: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Configuration: of the run as a whole, of each output, and of the machine this was made on."""
    named: Sequence[tuple[str, Mapping[str, Any]]] = [
        *([("run", run)] if run else []), *records.items(), ("this report", here),
    ]  # fmt: skip
    return [{"name": name, "values": flat(values)} for name, values in named]
