"""The report as one HTML file: data as JSON, binary arrays and photos in it as base64.

Nothing of a run becomes markup: the page's script reads the JSON and sets texts only, and the
content security policy lets nothing run or load but the script and style written here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..evaluation import palette
from ..evaluation.localization import LocalizationEvaluation
from ..evaluation.localization_curves import error_figure
from ..evaluation.record import measurement
from ..files.atomic import write_atomically
from ..pipelines.summary import StageSummary
from ..version import __version__
from .contents import MatchPicture, QueryReport, ReportData, Scene
from .photos import ReportPhoto

_SCRIPTS = ("viewer.js", "page.js")


def write_report(data: ReportData, path: Path) -> Path:
    """Write the page, whole or not at all. Returns `path`."""
    return write_atomically(path, render(data))


def render(data: ReportData) -> str:
    """The page as text."""
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    style = _asset("style.css")
    return Template(_asset("page.html")).substitute(
        title=html.escape(f"{data.title} · localization report"),
        script_hash=_hash(script),
        style_hash=_hash(style),
        script=script,
        style=style,
        data=_json(page_content(data)),
    )


def page_content(data: ReportData) -> dict[str, Any]:
    """What the page's script reads: plain values, arrays and photos as base64."""
    conditions = list(dict.fromkeys(query.result.condition for query in data.queries))
    index = {name: number for number, name in enumerate(data.scene.db_names)}
    return {
        "title": data.title,
        "made": f"samfeat_hloc {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "notes": [*data.notes, *(data.evaluation.warnings if data.evaluation else [])],
        "facts": _facts(data),
        "accuracy": _accuracy(data.evaluation),
        "curves": _curves(data),
        "stages": _stages(data.summary),
        "records": _records(data),
        "conditions": conditions,
        "scene": _scene(data.scene),
        "queries": [_query(query, conditions, index) for query in data.queries],
    }


def _asset(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    for name, colour in palette.NAMES.items():
        text = text.replace(f"%{name}%", colour)
    return text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(content: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.dtype(dtype)).tobytes()).decode()


def _facts(data: ReportData) -> list[list[str]]:
    """Label and value of what one wants to know first."""
    results = [query.result for query in data.queries]
    facts = [
        ["queries", f"{len(results):,}"],
        ["with a pose of their own", f"{sum(result.localized for result in results):,}"],
        ["database images", f"{len(data.scene.db_names):,}"],
        ["points in the map", f"{data.scene.num_points:,}"],
    ]
    if results:
        facts.append(["median inliers", f"{np.median([r.num_inliers for r in results]):.0f}"])
    for key, label in (("conf", "features"), ("engine", "engine")):
        if data.summary.get(key):
            facts.append([label, str(data.summary[key])])
    return facts


def _accuracy(evaluation: LocalizationEvaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    thresholds = next(iter(evaluation.conditions.values())).recalls
    return {
        "columns": [
            "condition", "queries", "localized",
            *(f"{metres:g} m, {degrees:g}°" for metres, degrees in thresholds),
            "median m", "median °",
        ],
        "rows": [
            [
                condition, result.num_queries, result.num_localized,
                *(f"{100 * share:.1f} %" for share in result.recalls.values()),
                _shown(result.median_position), _shown(result.median_rotation),
            ]
            for condition, result in evaluation.conditions.items()
        ],
    }  # fmt: skip


def _curves(data: ReportData) -> str | None:
    """The cumulative error curves as an SVG of text and paths, in base64."""
    if data.evaluation is None:
        return None
    errors: dict[str, list[tuple[float, float]]] = {}
    for query in data.queries:
        if query.diagnosis.error is not None:
            errors.setdefault(query.result.condition, []).append(query.diagnosis.error)
    stream = io.BytesIO()
    figure = error_figure(errors)
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"svg.hashsalt": "samfeat"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return base64.b64encode(stream.getvalue()).decode()


def _stages(summary: Mapping[str, Any]) -> list[list[str]]:
    """Rows of stage, seconds and result, as the run printed them."""
    rows = []
    for name, figures in summary.get("stages", {}).items():
        stage = StageSummary(
            name, figures.get("seconds", 0.0), figures.get("skipped", False), figures
        )
        rows.append(
            [name, "skipped" if stage.skipped else f"{stage.seconds:.1f}", stage.describe()]
        )
    return rows


def _records(data: ReportData) -> list[dict[str, Any]]:
    """Configuration: of the run as a whole, of each output, and of the machine this was made on."""
    run = {key: value for key, value in data.summary.items() if key not in ("stages", "evaluation")}
    records = [{"name": "run", "values": _flat(run)}] if run else []
    for name, record in data.records.items():
        records.append({"name": name, "values": _flat(record)})
    records.append({"name": "this report", "values": _flat(measurement({}))})
    return records


def _flat(value: Any, prefix: str = "") -> list[list[str]]:
    """Nested dicts as rows of dotted name and value."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix}{key}.")]
    return [[prefix.removesuffix("."), value if isinstance(value, str) else json.dumps(value)]]


def _scene(scene: Scene) -> dict[str, Any]:
    return {
        "points": _base64(scene.points, "<f4"),
        "colors": _base64(scene.colors, "u1"),
        "shown": len(scene.points),
        "total": scene.num_points,
        "centre": [float(value) for value in scene.centre],
        "radius": scene.radius,
        "cameraSize": scene.camera_size,
        "dbNames": scene.db_names,
        "db": _base64(scene.db_poses, "<f4"),
        "estimated": _base64(scene.estimated, "<f4"),
        "truth": _base64(scene.truth, "<f4"),
    }


def _query(
    query: QueryReport, conditions: Sequence[str], index: Mapping[str, int]
) -> dict[str, Any]:
    result, diagnosis = query.result, query.diagnosis
    retrieved = [
        [
            index[image.name],
            image.num_matches,
            support,
            None if image.distance is None else round(image.distance, 2),
            image.sees_the_same,
        ]
        for image, support in zip(diagnosis.retrieved, query.support, strict=True)
    ]
    return {
        "name": result.name,
        "condition": conditions.index(result.condition),
        "status": result.status,
        "localized": result.localized,
        "failed": diagnosis.failed,
        "reason": None if diagnosis.reason is None else diagnosis.reason.value,
        "text": diagnosis.text,
        "error": None if diagnosis.error is None else [float(value) for value in diagnosis.error],
        "keypoints": result.num_keypoints,
        "matches": result.num_matches,
        "correspondences": result.num_correspondences,
        "inliers": result.num_inliers,
        "retrieved": retrieved,
        "points": _base64(query.points, "<u4"),
        "inlierXY": _base64(query.inlier_xy, "<u2"),
        "thumbnail": _photo(query.thumbnail),
        "picture": _picture(query.picture, index),
    }


def _photo(photo: ReportPhoto | None) -> dict[str, Any] | None:
    if photo is None:
        return None
    return {"jpeg": base64.b64encode(photo.jpeg).decode(), "size": list(photo.size)}


def _picture(picture: MatchPicture | None, index: Mapping[str, int]) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {
        "query": _photo(picture.query),
        "database": _photo(picture.database),
        "dbIndex": index[picture.db_name],
        "keypoints": _base64(picture.keypoints, "<u2"),
        "matches": _base64(picture.matches, "<u2"),
        "inliers": _base64(picture.inliers, "u1"),
        "numKeypoints": picture.num_keypoints,
        "numMatches": picture.num_matches,
    }


def _shown(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
