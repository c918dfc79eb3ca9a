"""How well queries are localized: recall at thresholds and median errors, for each condition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..colmap.conventions import odd_convention
from ..colmap.poses import Pose
from ..datasets.dataset import LONG_TERM, Dataset
from ..errors import SamfeatError
from .tables import aligned


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
        errors: (metres, degrees) by query name; infinite for a query without a pose.
        warnings: sentences for people.
    """

    conditions: dict[str, ConditionResult]
    errors: dict[str, tuple[float, float]]
    warnings: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Aligned text: one row a condition, recalls in percent, medians; warnings below."""
        thresholds = next(iter(self.conditions.values())).recalls.keys()
        header = ["condition", "queries", "localized"]
        header += [threshold_text(limit) for limit in thresholds]
        header += ["median m", "median °"]
        rows = []
        for condition, result in self.conditions.items():
            row = [condition, str(result.num_queries), str(result.num_localized)]
            row += [f"{100 * share:.1f}%" for share in result.recalls.values()]
            row += [_shown(result.median_position), _shown(result.median_rotation)]
            rows.append(row)
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([aligned(header, rows), *warnings])

    def errors_by_condition(self, dataset: Dataset) -> dict[str, list[tuple[float, float]]]:
        """(metres, degrees) of the queries of each condition, in the order of the dataset."""
        found: dict[str, list[tuple[float, float]]] = {}
        for query in dataset.queries:
            if query.name in self.errors:
                found.setdefault(query.condition, []).append(self.errors[query.name])
        return found

    def as_json(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts; None where an error is infinite."""
        return {
            "conditions": {
                condition: {
                    "num_queries": result.num_queries,
                    "num_localized": result.num_localized,
                    "recalls": [
                        {"metres": metres, "degrees": _finite(degrees), "recall": share}
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


def threshold_text(limit: tuple[float, float]) -> str:
    """As ``0.25 m 2°``; without the degrees where they do not count."""
    metres, degrees = limit
    return f"{metres:g} m" if math.isinf(degrees) else f"{metres:g} m {degrees:g}°"


def within(error: tuple[float, float], limit: tuple[float, float] = LONG_TERM[0]) -> bool:
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
    dataset: Dataset,
    thresholds: Sequence[tuple[float, float]] | None = None,
) -> LocalizationEvaluation:
    """Compare estimated poses with the dataset's ground truth.

    Where the benchmark asks for poses in reference frames (4Seasons), the metres are those between
    the translations of these, as its authors have it, and every frame that is asked for counts.

    Args:
        estimated: poses by full query name; a query that is not in it counts as failed.
        dataset: whose queries with a ground truth pose are evaluated.
        thresholds: pairs of metres and degrees; those of the dataset unless given.

    Raises:
        SamfeatError: the dataset has no ground truth, or none of its queries.
    """
    if dataset.ground_truth is None:
        raise SamfeatError(
            dataset.truth_file,
            "no such file",
            ("without ground truth, upload the submission to the evaluation server instead"),
        )
    truth = {
        name: dataset.ground_truth[name]
        for name in dataset.query_names
        if name in dataset.ground_truth
    }
    if not truth:
        raise SamfeatError(
            dataset.truth_file,
            f"it has a pose for none of the {len(dataset.queries)} queries",
            "it has to name queries as the lists do, with or without folders",
        )
    measured = list(_measured(estimated, dataset, truth))
    errors = {name: error for name, _, error in measured}
    conditions: dict[str, list[tuple[float, float]]] = {}
    for _, condition, error in measured:
        conditions.setdefault(condition, []).append(error)
    warnings = odd_convention(truth, dataset.db_poses, "ground truth cameras")
    if len(truth) < len(dataset.queries):
        without = len(dataset.queries) - len(truth)
        warnings.append(f"{without} queries have no ground truth; left out")
    if unknown := sorted(estimated.keys() - set(dataset.query_names)):
        warnings.append(f"{len(unknown)} poses match no query, e.g. {unknown[0]}; left out")
    limits = dataset.thresholds if thresholds is None else thresholds
    return LocalizationEvaluation(
        {name: summarize(found, limits) for name, found in conditions.items()},
        errors,
        warnings,
    )


def _measured(
    estimated: Mapping[str, Pose], dataset: Dataset, truth: Mapping[str, Pose]
) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """Query, condition and error of all that is measured: poses in the world, or the translation
    and rotation of poses in a reference frame where the benchmark asks for these."""
    lost = math.inf, math.inf
    if dataset.relocalizations is None:
        for query in dataset.queries:
            if (true := truth.get(query.name)) is not None:
                pose = estimated.get(query.name)
                error = (
                    lost
                    if pose is None
                    else (position_error(pose, true), rotation_error(pose, true))
                )
                yield query.name, query.condition, error
        return
    for item in dataset.relocalizations:
        if item.relative is None:
            continue
        pose = estimated.get(item.query)
        if pose is None:
            yield item.query, item.condition, lost
            continue
        relative = pose @ dataset.db_poses[item.reference].inverse()
        metres = float(np.linalg.norm(relative.tvec - item.relative.tvec))
        yield item.query, item.condition, (metres, rotation_error(relative, item.relative))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
