"""The file that the evaluation server of visuallocalization.net takes, and a check of it.

One line a query: base name, ``qw qx qy qz tx ty tz`` (world to camera), every query of the lists
once, unit quaternions, finite numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..colmap.poses import Pose, poses_text
from ..datasets.aachen import AachenDataset
from ..datasets.queries import Query, base_name
from ..errors import SamfeatError
from ..files.textlines import parse_number, read_text, write_atomically

# The brackets are part of the name that the benchmark's own scripts give.
FILE_NAME = "Aachen_v1_1_eval_[{method}].txt"
NORM_TOLERANCE = 1e-4
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def file_name(method: str) -> str:
    """The name of the submission of ``method``.

    Raises:
        SamfeatError: the method's name does not fit into a file name.
    """
    if not _METHOD.fullmatch(method):
        raise SamfeatError(
            f"--method {method!r}", "not fit for a file name", "use letters, digits and . _ + -"
        )
    return FILE_NAME.format(method=method)


def make(
    poses: Mapping[str, Pose], dataset: AachenDataset, output_dir: Path, method: str = "samfeat"
) -> Path:
    """Write the submission and return its path; nothing is written unless it passes ``check``.

    Args:
        poses: one pose for every query of the dataset, by full query name.
        dataset: whose query lists say what belongs in the file, and in which order.
        output_dir: where ``Aachen_v1_1_eval_[<method>].txt`` goes; made when missing.
        method: name of the method for the file name.

    Raises:
        SamfeatError: queries without a pose or poses of no query, two queries with the same base
            name, poses that are not finite, a method name that is not fit for a file name.
    """
    path = Path(output_dir) / file_name(method)
    dataset.queries_by_base_name()
    if missing := _missing_by_condition(dataset.queries, poses.keys()):
        raise SamfeatError(
            path, f"poses are missing ({'; '.join(missing)})", "localize every query of the lists"
        )
    if unknown := sorted(poses.keys() - set(dataset.query_names)):
        raise SamfeatError(
            path,
            (f"{len(unknown)} poses are of no query of the lists (e.g. {', '.join(unknown[:3])})"),
            "name queries with their folders, as the lists do",
        )
    text = poses_text({base_name(name): poses[name] for name in dataset.query_names}, path)
    if problems := _problems(text, dataset):
        raise SamfeatError(path, problems[0], "not written")
    return write_atomically(path, text)


def check(path: Path, dataset: AachenDataset) -> list[str]:
    """All that is wrong with a submission; an empty list when it can be uploaded.

    Problems of lines come first, as ``"line 3: ..."`` in the order of the lines, then one for
    each condition with missing queries, as ``"night: 17 of 17 missing, e.g. a.jpg, b.jpg"``.

    Raises:
        SamfeatError: the file is not there or is not text, or the dataset's queries cannot be
            told apart by their base names.
    """
    return _problems(read_text(path), dataset)


def _problems(text: str, dataset: AachenDataset) -> list[str]:
    by_base = dataset.queries_by_base_name()
    problems: list[str] = []
    first_line: dict[str, int] = {}
    if text.startswith("\ufeff"):
        problems.append("line 1: starts with a byte-order mark; save as UTF-8 without it")
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        if line.lstrip().startswith("#"):
            problems.append(f"line {number}: a comment; only poses belong in a submission")
            continue
        tokens = line.split()
        if len(tokens) != 8:
            problems.append(
                f"line {number}: {len(tokens)} values where 8 are needed "
                "(name qw qx qy qz tx ty tz; no white space in names)"
            )
        name = base_name(tokens[0])
        shown = name[:120]
        if name not in by_base:
            problems.append(f"line {number}: '{tokens[0][:120]}' is no query of the lists")
        elif name != tokens[0]:
            problems.append(
                f"line {number}: '{tokens[0][:120]}' has a folder; write the base name '{shown}'"
            )
        if name in first_line:
            problems.append(f"line {number}: '{shown}' is on line {first_line[name]} already")
        first_line.setdefault(name, number)
        if len(tokens) == 8:
            problems += (f"line {number}: {wrong}" for wrong in _wrong_values(tokens[1:]))
    missing = _missing_by_condition(
        dataset.queries, [by_base[name].name for name in first_line if name in by_base]
    )
    return problems + missing


def _wrong_values(tokens: list[str]) -> list[str]:
    """What is wrong with ``qw qx qy qz tx ty tz``."""
    values = []
    for token in tokens:
        try:
            values.append(parse_number(token))
        except ValueError:
            return [f"'{token[:60]}' is not a finite number"]
    norm = math.hypot(*values[:4])
    if not abs(norm - 1) <= NORM_TOLERANCE:
        return [f"the quaternion has length {norm:.6g} instead of 1"]
    return []


def _missing_by_condition(queries: Iterable[Query], present: Iterable[str]) -> list[str]:
    """``"night: 17 of 17 missing, e.g. ..."`` for each condition that lacks queries."""
    present = set(present)
    by_condition: dict[str, list[Query]] = {}
    for query in queries:
        by_condition.setdefault(query.condition, []).append(query)
    problems = []
    for condition, wanted in by_condition.items():
        missing = [query.base_name for query in wanted if query.name not in present]
        if missing:
            problems.append(
                f"{condition}: {len(missing)} of {len(wanted)} missing, "
                f"e.g. {', '.join(missing[:3])}"
            )
    return problems
