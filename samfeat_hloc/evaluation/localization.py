"""How well queries are localized: recall at thresholds and median errors, for each condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..colmap.poses import Pose
from ..datasets.aachen import AachenDataset
from ..datasets.queries import base_name
from ..errors import SamfeatError

# (metres, degrees): the benchmark's, and finer ones that still tell good methods apart.
THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
FINE_THRESHOLDS = ((0.01, 0.1), (0.05, 0.25))


@dataclass(frozen=True)
class ConditionResult:
    """Results of the queries of one condition.

    Attributes:
        num_queries: queries with ground truth; all shares are of these.
        num_localized: those of them with an estimated pose.
        recalls: share (0 to 1) of queries within each (metres, degrees), both limits included.
        median_position: median distance of camera centres in metres; infinite where fewer than
            half of the queries have a pose.
        median_rotation: median rotation error in degrees; infinite likewise.
    """

    num_queries: int
    num_localized: int
    recalls: dict[tuple[float, float], float]
    median_position: float
    median_rotation: float


@dataclass(frozen=True)
class LocalizationEvaluation:
    """Results by condition, in the order of the dataset, and what is odd about the input.

    Attributes:
        conditions: results by condition.
        errors: (metres, degrees) by base name; infinite for a query without a pose.
        warnings: sentences for people.
    """

    conditions: dict[str, ConditionResult]
    errors: dict[str, tuple[float, float]]
    warnings: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Aligned text: one row a condition, recalls in percent, medians; warnings below."""
        thresholds = next(iter(self.conditions.values())).recalls.keys()
        header = ["condition", "queries", "localized"]
        header += [f"{metres:g} m {degrees:g}°" for metres, degrees in thresholds]
        header += ["median m", "median °"]
        rows = [header]
        for condition, result in self.conditions.items():
            row = [condition, str(result.num_queries), str(result.num_localized)]
            row += [f"{100 * share:.1f}%" for share in result.recalls.values()]
            row += [_shown(result.median_position), _shown(result.median_rotation)]
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def errors_by_condition(self, dataset: AachenDataset) -> dict[str, list[tuple[float, float]]]:
        """(metres, degrees) of the queries of each condition, in the order of the dataset."""
        found: dict[str, list[tuple[float, float]]] = {}
        for name, query in dataset.queries_by_base_name().items():
            if name in self.errors:
                found.setdefault(query.condition, []).append(self.errors[name])
        return found

    def as_json(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts; None where an error is infinite."""
        return {
            "conditions": {
                condition: {
                    "num_queries": result.num_queries,
                    "num_localized": result.num_localized,
                    "recalls": [
                        {"metres": metres, "degrees": degrees, "recall": share}
                        for (metres, degrees), share in result.recalls.items()
                    ],
                    "median_position_metres": _finite(result.median_position),
                    "median_rotation_degrees": _finite(result.median_rotation),
                }
                for condition, result in self.conditions.items()
            },
            "queries": {
                name: {"metres": _finite(metres), "degrees": _finite(degrees)}
                for name, (metres, degrees) in self.errors.items()
            },
            "warnings": list(self.warnings),
        }


def within(error: tuple[float, float], limit: tuple[float, float] = THRESHOLDS[0]) -> bool:
    """Whether (metres, degrees) are at most those of the limit."""
    return error[0] <= limit[0] and error[1] <= limit[1]


def rotation_error(first: Pose, second: Pose) -> float:
    """Angle between two rotations in degrees, 0 to 180; exact for tiny angles too."""
    w1, v1 = first.qvec[0], first.qvec[1:]
    w2, v2 = second.qvec[0], second.qvec[1:]
    # The relative quaternion; its arctangent keeps digits where arccos of its w loses them.
    scalar = w1 * w2 + v1 @ v2
    vector = w1 * v2 - w2 * v1 - np.cross(v1, v2)
    return math.degrees(2 * math.atan2(float(np.linalg.norm(vector)), abs(float(scalar))))


def position_error(first: Pose, second: Pose) -> float:
    """Distance of two camera centres in metres."""
    return float(np.linalg.norm(first.centre - second.centre))


def summarize(
    errors: Sequence[tuple[float, float]], thresholds: Sequence[tuple[float, float]]
) -> ConditionResult:
    """Recalls and medians of (metres, degrees); queries without a pose have infinite errors."""
    array = np.array(errors, dtype=np.float64).reshape(-1, 2)
    if not len(array):
        raise ValueError("no errors to summarize")
    recalls = {
        (metres, degrees): float(np.mean((array <= (metres, degrees)).all(axis=1)))
        for metres, degrees in thresholds
    }
    position, rotation = (float(value) for value in np.median(array, axis=0))
    localized = int(np.isfinite(array).all(axis=1).sum())
    return ConditionResult(len(array), localized, recalls, position, rotation)


def evaluate(
    estimated: Mapping[str, Pose],
    dataset: AachenDataset,
    thresholds: Sequence[tuple[float, float]] = (*FINE_THRESHOLDS, *THRESHOLDS),
) -> LocalizationEvaluation:
    """Compare estimated poses with the dataset's ground truth.

    Args:
        estimated: poses by base name; a query that is not in it counts as failed.
        dataset: whose queries with a ground truth pose are evaluated.
        thresholds: pairs of metres and degrees.

    Raises:
        SamfeatError: the dataset has no ground truth, or none of its queries, or queries that
            share a base name.
    """
    truth_file = dataset.root / "queries" / "ground_truth.txt"
    if dataset.ground_truth is None:
        raise SamfeatError(
            truth_file,
            "no such file",
            ("without ground truth, upload the submission to the evaluation server instead"),
        )
    by_base = dataset.queries_by_base_name()
    truth = {name: dataset.ground_truth[name] for name in by_base if name in dataset.ground_truth}
    if not truth:
        raise SamfeatError(
            truth_file,
            f"it has a pose for none of the {len(by_base)} queries",
            "it has to name queries by their base names",
        )
    errors = {
        name: (
            (position_error(estimated[name], pose), rotation_error(estimated[name], pose))
            if name in estimated
            else (math.inf, math.inf)
        )
        for name, pose in truth.items()
    }
    conditions: dict[str, list[tuple[float, float]]] = {}
    for name, error in errors.items():
        conditions.setdefault(by_base[name].condition, []).append(error)
    warnings = _convention_warnings(truth, dataset.db_poses)
    if len(truth) < len(by_base):
        warnings.append(f"{len(by_base) - len(truth)} queries have no ground truth; left out")
    if unknown := sorted(estimated.keys() - by_base.keys()):
        warnings.append(f"{len(unknown)} poses are of no query, e.g. {unknown[0]}; left out")
    return LocalizationEvaluation(
        {name: summarize(found, thresholds) for name, found in conditions.items()},
        errors,
        warnings,
    )


def by_base_name(poses: Mapping[str, Pose]) -> dict[str, Pose]:
    """Poses by full names as poses by base names.

    Raises:
        SamfeatError: two names have the same base name.
    """
    result: dict[str, Pose] = {}
    full: dict[str, str] = {}
    for name, pose in poses.items():
        base = base_name(name)
        if base in result:
            raise SamfeatError(
                f"poses of '{full[base]}' and '{name}'", "they have the same base name", "keep one"
            )
        result[base], full[base] = pose, name
    return result


def _convention_warnings(truth: Mapping[str, Pose], database: Mapping[str, Pose]) -> list[str]:
    """A hint when the true cameras stand nowhere near the database's.

    Queries are taken where database photos were; if the poses are much nearer to them when they
    are read in another convention, the file is rather in that one.
    """
    if len(database) < 2:
        return []
    centres = np.array([pose.centre for pose in database.values()])
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    as_given = _median_distance([pose.centre for pose in truth.values()], centres)
    others = {
        "camera-to-world; they have to be world-to-camera": [
            pose.inverse().centre for pose in truth.values()
        ],
        "written qx qy qz qw; they have to be qw qx qy qz tx ty tz": [
            Pose(np.roll(pose.qvec, 1), pose.tvec).centre for pose in truth.values()
        ],
    }
    distances = {what: _median_distance(found, centres) for what, found in others.items()}
    convention, distance = min(distances.items(), key=lambda item: item[1])
    if as_given > 4 * distance and as_given > 3 * _spacing(centres):
        return [
            f"ground truth cameras are {as_given:.3g} m from the nearest database photo (median), "
            f"but {distance:.3g} m if their poses are {convention}"
        ]
    if as_given > extent:
        return [
            f"ground truth cameras are {as_given:.3g} m from the nearest database photo (median), "
            f"and all database photos within {extent:.3g} m; are they in the model's frame?"
        ]
    return []


def _median_distance(points: list[np.ndarray], centres: np.ndarray) -> float:
    return float(np.median([np.linalg.norm(centres - point, axis=1).min() for point in points]))


def _spacing(centres: np.ndarray) -> float:
    """Median distance of a camera centre to the next one."""
    nearest = [np.partition(np.linalg.norm(centres - centre, axis=1), 1)[1] for centre in centres]
    return float(np.median(nearest))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
