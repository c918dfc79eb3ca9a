"""4Seasons' submission: a folder with a file for each relocalization file, whose lines are
``reference-time query-time tx ty tz qx qy qz qw``, the query's camera from the reference camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..colmap.poses import Pose
from ..datasets.dataset import Dataset, Relocalization
from ..errors import SamfeatError
from ..files.atomic import write_atomically
from ..files.textlines import read_text
from .submission_lines import wrong_values


def make(poses: Mapping[str, Pose], dataset: Dataset, folder: Path) -> Path:
    """Write the files and return their folder; nothing is written where a pose is missing.

    Args:
        poses: world to camera, by full query name.
        dataset: with relocalizations.
        folder: made when missing.

    Raises:
        SamfeatError: a query without a pose, or with one that is not finite.
    """
    for name, items in _by_file(dataset).items():
        if missing := [item.query for item in items if item.query not in poses]:
            raise SamfeatError(
                folder / name,
                f"poses are missing ({len(missing)} of {len(items)}, e.g. {missing[0]})",
                "localize every query of the relocalization files",
            )
    for name, items in _by_file(dataset).items():
        lines = []
        for item in items:
            pose = poses[item.query] @ dataset.db_poses[item.reference].inverse()
            values = [*pose.tvec, *(pose.qvec / np.linalg.norm(pose.qvec))[[1, 2, 3, 0]]]
            if not np.isfinite(values).all():
                raise SamfeatError(
                    folder / name, f"the pose of {item.query} is not finite", "localize it again"
                )
            numbers = " ".join(repr(float(value)) for value in values)
            lines.append(f"{item.reference_time} {item.query_time} {numbers}\n")
        write_atomically(folder / name, "".join(lines))
    return folder


def check(folder: Path, dataset: Dataset) -> list[str]:
    """All that is wrong with a submission's folder, as ``"FILE: line 3: ..."``.

    Raises:
        SamfeatError: no such folder, or a file that is not text.
    """
    if not folder.is_dir():
        raise SamfeatError(folder, "no such folder", "this submission is a folder of files")
    problems = []
    for name, items in _by_file(dataset).items():
        if not (folder / name).is_file():
            problems.append(f"{name}: no such file")
            continue
        problems += [f"{name}: {problem}" for problem in _problems(folder / name, items)]
    return problems


def _problems(path: Path, items: list[Relocalization]) -> list[str]:
    wanted = {(item.reference_time, item.query_time) for item in items}
    problems = []
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        tokens = line.split()
        if not tokens:
            continue
        if len(tokens) != 9:
            problems.append(f"line {number}: {len(tokens)} values where 9 are needed")
            continue
        pair = tokens[0], tokens[1]
        if pair not in wanted:
            problems.append(f"line {number}: {pair[0][:40]} {pair[1][:40]} is not asked for")
        elif pair in found:
            problems.append(f"line {number}: it is on line {found[pair]} already")
        found.setdefault(pair, number)
        problems += (f"line {number}: {w}" for w in wrong_values(tokens[5:], tokens[2:5]))
    if missing := wanted - found.keys():
        problems.append(f"{len(missing)} of {len(wanted)} missing, e.g. {' '.join(min(missing))}")
    return problems


def _by_file(dataset: Dataset) -> dict[str, list[Relocalization]]:
    found: dict[str, list[Relocalization]] = {}
    for item in dataset.relocalizations or []:
        found.setdefault(item.file, []).append(item)
    return found
