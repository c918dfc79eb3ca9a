"""The files that evaluation servers take, and a check of them.

One line a query, ``name qw qx qy qz tx ty tz`` (world to camera): every query of the lists once,
named as the server wants it, unit quaternions, finite numbers. 4Seasons asks for something else,
see `relative_submission`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..colmap.conventions import odd_convention
from ..colmap.poses import Pose, poses_text, read_poses
from ..datasets.dataset import Dataset, SubmissionForm, no_two_alike
from ..datasets.queries import Query, by_full_name
from ..errors import SamfeatError
from ..files.atomic import write_atomically
from ..files.textlines import read_text
from . import relative_submission
from .submission_lines import wrong_values

_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def form_of(dataset: Dataset) -> SubmissionForm:
    """What the server of the dataset's benchmark takes.

    Raises:
        SamfeatError: there is no server, the benchmark's truth is public.
    """
    if dataset.form is None:
        raise SamfeatError(
            f"--benchmark {dataset.benchmark}",
            "no server takes submissions of it",
            "its ground truth is public: `samfeat eval localization` measures",
        )
    return dataset.form


def file_name(method: str, form: SubmissionForm) -> str:
    """The name of the submission of ``method``.

    Raises:
        SamfeatError: the method's name does not fit into a file name.
    """
    if not _METHOD.fullmatch(method):
        raise SamfeatError(
            f"--method {method!r}", "not fit for a file name", "use letters, digits and . _ + -"
        )
    return form.file_name.format(method=method)


def make(
    poses: Mapping[str, Pose], dataset: Dataset, output_dir: Path, method: str = "samfeat"
) -> Path:
    """Write the submission and return its path; nothing is written unless it passes ``check``.

    Args:
        poses: one pose for every query of the dataset, by full query name.
        dataset: whose query lists say what belongs in the file, and in which order.
        output_dir: where the file of the server's name goes; made when missing.
        method: name of the method for the file name.

    Raises:
        SamfeatError: queries without a pose or poses of no query, two queries with the same name
            in the submission, poses that are not finite, a method name that is not fit for a
            file name, a benchmark without a server.
    """
    form = form_of(dataset)
    path = Path(output_dir) / file_name(method, form)
    if dataset.relocalizations is not None:
        return relative_submission.make(poses, dataset, path)
    no_two_alike(dataset.to_submit, form, dataset.root)
    if missing := _missing_by_condition(dataset.to_submit, poses.keys()):
        raise SamfeatError(
            path, f"poses are missing ({'; '.join(missing)})", "localize every query of the lists"
        )
    if unknown := sorted(poses.keys() - set(dataset.query_names)):
        raise SamfeatError(
            path,
            (f"{len(unknown)} poses match no query of the lists (e.g. {', '.join(unknown[:3])})"),
            "name queries with their folders, as the lists do",
        )
    named = {form.line_name(query.name): poses[query.name] for query in dataset.to_submit}
    text = poses_text(named, path)
    if problems := _problems(text, dataset, form):
        raise SamfeatError(path, problems[0], "so nothing is written")
    return write_atomically(path, text)


def check(path: Path, dataset: Dataset) -> list[str]:
    """All that is wrong with a submission; an empty list when it can be uploaded.

    Problems of lines come first, as ``"line 3: ..."`` in the order of the lines, then one for
    each condition with missing queries, as ``"night: 17 of 17 missing, e.g. a.jpg, b.jpg"``; of a
    file without any, what says that all its poses are of another convention.

    Raises:
        SamfeatError: the file is not there or is not text, the dataset's queries cannot be told
            apart by their names in a submission, or its benchmark has no server.
    """
    form = form_of(dataset)
    if dataset.relocalizations is not None:
        return relative_submission.check(path, dataset)
    problems = _problems(read_text(path), dataset, form)
    return problems or doubts(by_full_name(read_poses(path), dataset.queries, path), dataset)


def doubts(poses: Mapping[str, Pose], dataset: Dataset) -> list[str]:
    """What says that poses, by full query name, would score 0: nowhere near the database's
    cameras, which they are in another convention, or looking away from what those show."""
    return odd_convention(poses, dataset.db_poses, "the cameras")


def _problems(text: str, dataset: Dataset, form: SubmissionForm) -> list[str]:
    by_name = no_two_alike(dataset.to_submit, form, dataset.root)
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
        name = form.line_name(tokens[0])
        shown = name[:120]
        if name not in by_name:
            problems.append(f"line {number}: '{tokens[0][:120]}' matches no query of the lists")
        elif name != tokens[0]:
            wrong = (
                "has other folders; write" if form.folders else "has a folder; write the base name"
            )
            problems.append(f"line {number}: '{tokens[0][:120]}' {wrong} '{shown}'")
        if name in first_line:
            problems.append(f"line {number}: '{shown}' is on line {first_line[name]} already")
        first_line.setdefault(name, number)
        if len(tokens) == 8:
            problems += (
                f"line {number}: {wrong}" for wrong in wrong_values(tokens[1:5], tokens[5:])
            )
    missing = _missing_by_condition(
        dataset.to_submit, [by_name[name].name for name in first_line if name in by_name]
    )
    return problems + missing


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
