"""A localization dataset as the stages of a run need it, whatever its layout on disk.

Each benchmark has a module beside this one that reads its layout; `registry` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..colmap.poses import Pose, read_poses
from ..colmap.rig_config import Frame
from ..errors import SamfeatError, some_of
from ..files import provenance
from ..files.outputs import Output
from .queries import Query, by_full_name

# (metres, degrees) of the long-term visual localization benchmarks.
LONG_TERM = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
FINE = ((0.01, 0.1), (0.05, 0.25))
# What hloc prints for Cambridge Landmarks and 7Scenes.
INDOORS = ((0.01, 1.0), (0.02, 2.0), (0.03, 3.0), (0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
REFERENCE = "reference"  # folder of the reference model in the outputs, where a run makes it


@dataclass(frozen=True)
class SubmissionForm:
    """What an evaluation server takes: one line a query, ``name qw qx qy qz tx ty tz``.

    Attributes:
        file_name: with ``{method}`` in it.
        folders: so many of a query's folders belong before its base name; 0 for the base name.
    """

    file_name: str
    folders: int = 0

    def line_name(self, name: str) -> str:
        """The name of a query in the file: ``rear/1.jpg`` of ``dawn/rear/1.jpg``."""
        return "/".join(name.split("/")[-1 - self.folders :])


@dataclass(frozen=True)
class Relocalization:
    """A query of which a server asks where it is in a reference frame.

    Attributes:
        file: name of the file that asks.
        query, reference: image names.
        query_time, reference_time: as the file names them.
        condition: how hard it is, or the sequence.
        relative: true pose, the query's camera from the reference camera; None where withheld.
    """

    file: str
    query: str
    query_time: str
    reference: str
    reference_time: str
    condition: str
    relative: Pose | None


@dataclass(frozen=True)
class Retrieval:
    """How hloc's pipeline of the benchmark chooses images to match, and what is published.

    Attributes:
        num_covisible: database images paired with each database image.
        num_retrieved: database images retrieved for each query.
        published: a list of query pairs that comes with the dataset, None where none does.
        pairs: query pairs that the dataset itself prescribes, None where it prescribes none.
    """

    num_covisible: int = 20
    num_retrieved: int = 50
    published: Path | None = None
    pairs: Callable[[int], list[tuple[str, str]]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Dataset:
    """A dataset whose lists are read and whose files are known to exist.

    Attributes:
        root: the dataset folder.
        image_dir: all image names are relative to it.
        reference_model: folder of the COLMAP model of the database photos, or the file that it
            is made from (see `reference_in`).
        queries: in the order of the lists.
        db_names: names of the reference model's images, sorted; unless given, those of `db_poses`.
        db_poses: their poses (world to camera) by name, sorted.
        ground_truth: true poses by full query name, or None when the dataset has none.
        truth_file: where they are, or would be.
        num_points: number of points in the reference model; without any, database images are
            paired by their poses.
        benchmark, scene: the names to open it by.
        form: what the evaluation server takes; None where the truth is public.
        withheld: queries whose truth the server keeps, which belong in a submission; None for all.
        relocalizations: what is asked and measured in place of poses in the world, see
            `Relocalization`.
        retrieval: see `Retrieval`.
        thresholds: (metres, degrees) that its authors report recalls at, and finer ones.
        max_error: of a pose's inliers, in pixels.
        write_reference: writes the reference model into a folder, where none is published that
            can be used as it is.
        depth_maps: the file with a database image's depth, where the dataset has such.
        scan_of: a database image's laser scan and its place, where these take the place of a
            model, see `localization.scan_map`.
        frames: which queries a rig's cameras took at once, where the dataset says so.
    """

    root: Path
    image_dir: Path
    reference_model: Path
    queries: list[Query]
    db_names: list[str] = field(default_factory=list)
    ground_truth: dict[str, Pose] | None = None
    db_poses: dict[str, Pose] = field(default_factory=dict, repr=False)
    num_points: int = 0
    truth_file: Path = Path("ground_truth.txt")
    benchmark: str = "aachen"
    scene: str | None = None
    form: SubmissionForm | None = None
    withheld: frozenset[str] | None = field(default=None, repr=False)
    relocalizations: list[Relocalization] | None = field(default=None, repr=False)
    retrieval: Retrieval = Retrieval()
    thresholds: tuple[tuple[float, float], ...] = (*FINE, *LONG_TERM)
    max_error: float = 12.0
    write_reference: Callable[[Path], object] | None = field(default=None, repr=False)
    depth_maps: Callable[[str], Path] | None = field(default=None, repr=False)
    scan_of: Callable[[str], tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)
    frames: Callable[[], list[Frame]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "db_names", self.db_names or list(self.db_poses))

    @property
    def query_names(self) -> list[str]:
        """Full names of all queries, in the order of ``queries``."""
        return [query.name for query in self.queries]

    @property
    def to_submit(self) -> list[Query]:
        """The queries that belong in a submission."""
        return [q for q in self.queries if self.withheld is None or q.name in self.withheld]

    @property
    def conditions(self) -> list[str]:
        """The conditions in the order of their lists, as ``["day", "night"]``."""
        return list(dict.fromkeys(query.condition for query in self.queries))

    def reference_in(self, outputs: Path, *, overwrite: bool = False) -> Path:
        """The folder of the reference model, made in ``outputs`` where the dataset has none.

        Raises:
            SamfeatError: one is there that was made from something else.
        """
        if self.write_reference is None:
            return self.reference_model
        folder = outputs / REFERENCE
        poses = (f"{name} {pose.qvec} {pose.tvec}" for name, pose in self.db_poses.items())
        made_by = provenance.made_by(
            "reference",
            {"benchmark": self.benchmark, "scene": self.scene},
            {"poses": provenance.names_hash(poses)},
        )
        result = Output(folder, made_by, overwrite=overwrite)
        if result.is_there():
            return folder
        with result.making() as work:
            (work / "model").mkdir()
            self.write_reference(work / "model")
            return result.put(work / "model")


def read_truth(path: Path, queries: Sequence[Query]) -> dict[str, Pose] | None:
    """The poses file at ``path`` by full query name; None where there is no such file.

    Raises:
        SamfeatError: a malformed line, or a name that several queries end in.
    """
    return by_full_name(read_poses(path), queries, path) if path.exists() else None


def check_folder(root: Path) -> Path:
    """The dataset folder, which has to be there and hold something."""
    root = Path(root)
    if not root.is_dir():
        raise SamfeatError(root, "no such dataset folder", "check the path")
    if not any(root.iterdir()):
        raise SamfeatError(root, "the dataset folder is empty", "unpack the dataset into it")
    return root


def scenes_there(root: Path, scenes: Sequence[str]) -> list[str]:
    """The scenes of a benchmark that are unpacked, each in a folder of its name.

    Raises:
        SamfeatError: none is.
    """
    root = check_folder(root)
    found = [scene for scene in scenes if (root / scene).is_dir()]
    if not found:
        raise SamfeatError(root, "no scene in it", f"unpack {', '.join(scenes)} into it")
    return found


def check_files(image_dir: Path, names: Iterable[str], source: Path) -> None:
    """A SamfeatError where images that ``source`` names are not there."""
    names = list(names)
    missing = [name for name in names if not (image_dir / name).is_file()]
    if missing:
        raise SamfeatError(
            image_dir,
            (
                f"{len(missing)} of the {len(names)} images named by {source} are not "
                f"there ({some_of(missing)})"
            ),
            "unpack the photos or mend the names",
        )


def no_two_alike(queries: Sequence[Query], form: SubmissionForm, where: Path) -> dict[str, Query]:
    """Queries by their names in a submission, which have to differ.

    Raises:
        SamfeatError: two queries would have the same name in the submission.
    """
    found: dict[str, Query] = {}
    for query in queries:
        other = found.setdefault(form.line_name(query.name), query)
        if other is not query:
            alike = f"are both '{form.line_name(query.name)}' there"
            raise SamfeatError(
                where,
                (
                    f"'{other.name}' and '{query.name}' "
                    f"{alike if form.folders else 'have the same base name'}, by which a "
                    "submission names queries"
                ),
                "rename one",
            )
    return found


def only_metres(metres: Iterable[float]) -> tuple[tuple[float, float], ...]:
    """Thresholds of a benchmark that asks for positions alone."""
    return tuple((value, math.inf) for value in metres)


def sorted_poses(poses: Mapping[str, Pose]) -> dict[str, Pose]:
    """Poses in the order of their names."""
    return dict(sorted(poses.items()))


def merged(datasets: Sequence[Dataset]) -> Dataset:
    """The queries and poses of several scenes under names with their scene before them, for what
    is made of all; it has no database, whose frames may differ."""

    def named(dataset: Dataset, name: str) -> str:
        return f"{dataset.scene}/{name}"

    truth = {named(d, n): pose for d in datasets for n, pose in (d.ground_truth or {}).items()}
    withheld = [
        named(d, name)
        for d in datasets
        for name in (d.query_names if d.withheld is None else d.withheld)
    ]
    return replace(
        datasets[0],
        scene=None,
        queries=[
            replace(query, name=named(dataset, query.name))
            for dataset in datasets
            for query in dataset.queries
        ],
        db_names=[],
        db_poses={},
        ground_truth=truth or None,
        withheld=frozenset(withheld),
    )
