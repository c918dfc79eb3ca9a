"""The report as one HTML file: data as JSON, binary arrays and photos in it as base64.

Nothing of a run becomes markup: the page's script reads the JSON and sets texts only, and the
content security policy lets nothing run or load but the script and style written here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..evaluation import palette
from ..evaluation.localization import LocalizationEvaluation
from ..evaluation.localization_curves import error_figure
from ..evaluation.record import measurement
from ..files.atomic import check_place, write_atomically
from ..pipelines.summary import StageSummary
from ..version import __version__
from .as_json import base64_of, photo_json, picture_json, records_json, scene_json, svg
from .contents import PhotosReport, QueryReport, ReportData
from .photos_page import photos_content

_BEGINNING, _POLICY = b"<!doctype html>", b"Content-Security-Policy"
_SCRIPTS = ("viewer.js", "page.js")


def check_output(path: Path) -> None:
    """Refuse to write a report in the place of something else, before any work is done.

    Raises:
        SamfeatError: as :func:`.atomic.check_place`, or a file that is no report.
    """
    check_place(path, overwrite=True)
    if not path.is_file():
        return
    with path.open("rb") as stream:
        head = stream.read(1024)
        if not (head.startswith(_BEGINNING) and _POLICY in head):
            raise SamfeatError(path, "is no report, so it is not replaced", "name another file")


def write_report(data: ReportData | PhotosReport, path: Path) -> Path:
    """Write the page, whole or not at all. Returns `path`."""
    return write_atomically(path, render(data))


def render(data: ReportData | PhotosReport) -> str:
    """The page as text."""
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    style = _asset("style.css")
    return Template(_asset("page.html")).substitute(
        title=html.escape(f"{data.title} · report"),
        script_hash=_hash(script),
        style_hash=_hash(style),
        script=script,
        style=style,
        data=_json(page_content(data)),
    )


def page_content(data: ReportData | PhotosReport) -> dict[str, Any]:
    """What the page's script reads: plain values, arrays and photos as base64."""
    made = f"samfeat_hloc {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    content = photos_content(data) if isinstance(data, PhotosReport) else _run_content(data)
    return {"made": made, **content}


def _run_content(data: ReportData) -> dict[str, Any]:
    conditions = list(dict.fromkeys(query.result.condition for query in data.queries))
    index = {name: number for number, name in enumerate(data.db_names)}
    run = {key: value for key, value in data.summary.items() if key not in ("stages", "evaluation")}
    return {
        "kind": "run",
        "heading": f"Localization in {data.title}",
        "notes": [*data.notes, *(data.evaluation.warnings if data.evaluation else [])],
        "facts": _facts(data),
        "accuracy": _accuracy(data.evaluation),
        "curves": _curves(data),
        "stages": _stages(data.summary),
        "records": records_json(data.records, run, measurement({})),
        "conditions": conditions,
        "scenes": [scene_json(data.scene)],
        "dbNames": data.db_names,
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


def _facts(data: ReportData) -> list[list[str]]:
    """Label and value of what one wants to know first."""
    results = [query.result for query in data.queries]
    facts = [
        ["queries", f"{len(results):,}"],
        ["with a pose of their own", f"{sum(result.localized for result in results):,}"],
        ["database images", f"{len(data.db_names):,}"],
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
    return svg(error_figure(errors))


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
        "points": base64_of(query.points, "<u4"),
        "inlierXY": base64_of(query.inlier_xy, "<u2"),
        "thumbnail": photo_json(query.thumbnail),
        "picture": picture_json(query.picture, index),
    }


def _shown(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
