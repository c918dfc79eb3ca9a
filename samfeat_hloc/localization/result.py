"""What localization finds: a result for each query, its poses file and its log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.poses import Pose, poses_text, read_poses
from ..errors import SamfeatError
from ..files.atomic import write_whole
from ..files.h5store import Group
from ..files.outputs import Output
from ..files.textlines import read_text
from .acceptance import refusal

LOCALIZED = "localized"
FALLBACK = "failed: fallback"


@dataclass(frozen=True)
class OfFrame:
    """What a query and those taken with it by a rig's cameras have together.

    Attributes:
        queries: their names.
        num_agreeing: different keypoints with an inlier.
        num_matched: different keypoints with a correspondence.
    """

    queries: list[str]
    num_agreeing: int
    num_matched: int


@dataclass(frozen=True, eq=False)
class QueryResult:
    """How one query was localized.

    Attributes:
        pose: cam_from_world; with status FALLBACK that of the first retrieved image.
        status: LOCALIZED or FALLBACK.
        num_keypoints: of the query.
        num_matches: matches with keypoints that have a point, summed over the retrieved images.
        num_correspondences: different (keypoint, point) pairs among them.
        num_matched: different keypoints among them; 0 where an older log does not say.
        retrieved: name of a database image and its share of `num_matches`, in retrieval order.
        inlier_keypoints: (I,) int32, indices of the query's keypoints.
        inlier_points: (I,) int64, ids of the map's points.
        condition: of the query, as "day".
        frame: of a query that was localized together with others; None of one alone.
    """

    name: str
    condition: str
    pose: Pose
    status: str
    num_keypoints: int
    num_matches: int
    num_correspondences: int
    num_matched: int
    retrieved: list[tuple[str, int]]
    inlier_keypoints: np.ndarray
    inlier_points: np.ndarray
    frame: OfFrame | None = None

    @property
    def num_inliers(self) -> int:
        return len(self.inlier_keypoints)

    @property
    def localized(self) -> bool:
        return self.status == LOCALIZED

    @property
    def num_agreeing(self) -> int:
        """Different keypoints with an inlier, of all queries of its frame."""
        if self.frame is not None:
            return self.frame.num_agreeing
        return len(np.unique(self.inlier_keypoints))

    @property
    def weak(self) -> bool:
        """Whether its pose was found, but may be chance: see `acceptance`."""
        matched = self.num_matched if self.frame is None else self.frame.num_matched
        return self.localized and refusal(self.num_agreeing, matched, None) is not None


@dataclass(frozen=True, eq=False)
class LocalizationResult:
    """All queries in the order of their lists; `skipped` when it was read from an earlier run."""

    queries: dict[str, QueryResult]
    skipped: bool = field(default=False)

    @property
    def poses(self) -> dict[str, Pose]:
        """cam_from_world of every query by full name."""
        return {name: query.pose for name, query in self.queries.items()}

    @property
    def num_localized(self) -> int:
        return sum(query.localized for query in self.queries.values())

    @property
    def num_weak(self) -> int:
        return sum(query.weak for query in self.queries.values())

    def __str__(self) -> str:
        weak = f", {self.num_weak} of them weakly" if self.num_weak else ""
        return f"{self.num_localized} of {len(self.queries)} queries localized{weak}"


def log_path(output: Path) -> Path:
    """The log that belongs to a poses file: localization.json beside poses.txt."""
    name = "localization.json" if output.name == "poses.txt" else f"{output.stem}.localization.json"
    return output.with_name(name)


def write_result(results: dict[str, QueryResult], output: Output) -> None:
    """Write the log, then the poses and their record: where the poses are, the log is too."""
    poses = {name: result.pose for name, result in results.items()}
    with output.making() if not output.held else nullcontext():
        output.path.unlink(missing_ok=True)
        write_whole(log_path(output.path), _log_text(results))
        output.write_text(poses_text(poses, output.path))


def read_result(output: Path) -> LocalizationResult:
    """What `write_result` wrote for the poses file `output`."""
    poses = read_poses(output)
    log = log_path(output)
    try:
        entries = json.loads(read_text(log))
        results = {name: _result(name, poses[name], entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SamfeatError(
            log, f"not the log that belongs to {output.name}", "localize again with --overwrite"
        ) from error
    return LocalizationResult(results, skipped=True)


def to_group(result: QueryResult) -> Group:
    """A finished query as a run keeps it until all are: its pose, and its line of the log."""
    line = np.frombuffer(json.dumps(_entry(result)).encode(), dtype=np.uint8)
    pose = np.concatenate([result.pose.qvec, result.pose.tvec])
    return Group({"pose": pose, "log": line}, compressed=True)


def from_group(name: str, arrays: Mapping[str, np.ndarray], path: Path) -> QueryResult:
    """What `to_group` kept.

    Args:
        path: where it was kept, for the message.
    """
    try:
        pose = Pose(arrays["pose"][:4], arrays["pose"][4:])
        return _result(name, pose, json.loads(arrays["log"].astype(np.uint8).tobytes()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SamfeatError(
            path, f"damaged at {name}", "give another --output: this run cannot go on from here"
        ) from error


def _result(name: str, pose: Pose, entry: Mapping[str, Any]) -> QueryResult:
    return QueryResult(
        name=name,
        condition=entry["condition"],
        pose=pose,
        status=entry["status"],
        num_keypoints=entry["num_keypoints"],
        num_matches=entry["num_matches"],
        num_correspondences=entry["num_correspondences"],
        num_matched=entry.get("num_matched", 0),
        retrieved=[(db_name, count) for db_name, count in entry["retrieved"]],
        inlier_keypoints=np.array(entry["inlier_keypoints"], dtype=np.int32),
        inlier_points=np.array(entry["inlier_points"], dtype=np.int64),
        frame=OfFrame(**entry["frame"]) if "frame" in entry else None,
    )


def _entry(result: QueryResult) -> dict[str, Any]:
    together = {} if result.frame is None else {"frame": asdict(result.frame)}
    return {
        "condition": result.condition,
        "status": result.status,
        "num_keypoints": result.num_keypoints,
        "num_matches": result.num_matches,
        "num_correspondences": result.num_correspondences,
        "num_matched": result.num_matched,
        "num_inliers": result.num_inliers,
        "retrieved": result.retrieved,
        "inlier_keypoints": result.inlier_keypoints.tolist(),
        "inlier_points": result.inlier_points.tolist(),
        **together,
    }


def _log_text(results: dict[str, QueryResult]) -> str:
    """One line a query, so that a log of a city stays readable with `grep`."""

    def lines() -> Iterator[str]:
        for name, result in results.items():
            entry = json.dumps(_entry(result), separators=(",", ":"))
            yield f"{json.dumps(name)}: {entry}"

    return "{\n" + ",\n".join(lines()) + "\n}\n"
