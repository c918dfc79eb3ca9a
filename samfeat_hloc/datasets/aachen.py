"""A localization dataset in the layout of Aachen Day-Night v1.1.

::

    DIR/images_upright/db/...                          photos of the reference model
    DIR/images_upright/query/...                       photos to localize
    DIR/3D-models/aachen_v_1_1/{cameras,images,points3D}.{bin,txt}
    DIR/queries/<condition>_time_queries_with_intrinsics.txt    name MODEL width height params...
    DIR/queries/ground_truth.txt                       optional: base name, qw qx qy qz tx ty tz

The condition of a query (day, night) is the start of its list's file name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from samfeat_hloc.datasets.queries import Query, read_queries

from ..colmap.model import find_model, read_content
from ..colmap.poses import Pose, read_poses
from ..errors import SamfeatError

LIST_SUFFIX = "_time_queries_with_intrinsics.txt"


@dataclass(frozen=True)
class AachenDataset:
    """A dataset whose lists are read and whose files are known to exist.

    Attributes:
        root: the dataset folder.
        image_dir: ``root/images_upright``; all names are relative to it.
        reference_model: folder of the COLMAP model of the database photos.
        queries: in the order of the lists; the lists in the order of their file names.
        db_names: names of the reference model's images, sorted.
        db_poses: their poses (world to camera) by name, sorted.
        ground_truth: poses by base name, or None when the dataset has none.
        num_points: number of points in the reference model.
    """

    root: Path
    image_dir: Path
    reference_model: Path
    queries: list[Query]
    db_names: list[str]
    ground_truth: dict[str, Pose] | None = None
    db_poses: dict[str, Pose] = field(default_factory=dict, repr=False)
    num_points: int = 0

    @classmethod
    def open(cls, root: Path) -> AachenDataset:
        """Read lists, reference model and ground truth; images are looked for, not decoded.

        Raises:
            SamfeatError: with file and, in lists, line: missing or empty folders and lists,
                malformed lines, duplicate queries, images that are not there, a reference model
                that is broken or without images or points.
        """
        root = Path(root)
        image_dir = root / "images_upright"
        if not root.is_dir():
            raise SamfeatError(root, "no such dataset folder", "check --dataset")
        if not any(root.iterdir()):
            raise SamfeatError(root, "the dataset folder is empty", "unpack the dataset into it")
        if not image_dir.is_dir():
            raise SamfeatError(
                image_dir,
                "no such folder",
                "photos belong in images_upright/db and images_upright/query",
            )
        queries = _read_lists(root / "queries")
        reference_model = find_model(root / "3D-models")
        content = read_content(reference_model)
        if content.num_points == 0:
            raise SamfeatError(reference_model, "the model has no points", "triangulate it first")
        db_names = list(content.poses)
        _check_files(image_dir, [query.name for query in queries], root / "queries")
        _check_files(image_dir, db_names, reference_model)
        truth_file = root / "queries" / "ground_truth.txt"
        ground_truth = read_poses(truth_file) if truth_file.exists() else None
        return cls(
            root=root,
            image_dir=image_dir,
            reference_model=reference_model,
            queries=queries,
            db_names=db_names,
            ground_truth=ground_truth,
            db_poses=content.poses,
            num_points=content.num_points,
        )

    @property
    def query_names(self) -> list[str]:
        """Full names of all queries, in the order of ``queries``."""
        return [query.name for query in self.queries]

    @property
    def conditions(self) -> list[str]:
        """The conditions in the order of their lists, as ``["day", "night"]``."""
        return list(dict.fromkeys(query.condition for query in self.queries))

    def queries_by_base_name(self) -> dict[str, Query]:
        """Queries by their base names, which have to be unique.

        Raises:
            SamfeatError: two queries in different folders share a base name.
        """
        by_base: dict[str, Query] = {}
        for query in self.queries:
            other = by_base.setdefault(query.base_name, query)
            if other is not query:
                raise SamfeatError(
                    self.root / "queries",
                    (
                        f"'{other.name}' and '{query.name}' have the same base name, by which "
                        "submissions and ground truth name queries"
                    ),
                    "rename one",
                )
        return by_base


def _read_lists(folder: Path) -> list[Query]:
    """All queries of ``<condition>_time_queries_with_intrinsics.txt`` in a folder."""
    if not folder.is_dir():
        raise SamfeatError(folder, "no such folder", "query lists belong there")
    lists = sorted(folder.glob(f"*{LIST_SUFFIX}"))
    if not lists:
        raise SamfeatError(
            folder, "no query list", f"put day{LIST_SUFFIX} or night{LIST_SUFFIX} there"
        )
    queries: list[Query] = []
    list_of: dict[str, Path] = {}
    for path in lists:
        for query in read_queries(path, path.name.removesuffix(LIST_SUFFIX) or "all"):
            if query.name in list_of:
                raise SamfeatError(
                    path,
                    f"'{query.name}' is in {list_of[query.name].name} too",
                    "list each query once",
                )
            list_of[query.name] = path
            queries.append(query)
    return queries


def _check_files(image_dir: Path, names: list[str], source: Path) -> None:
    missing = [name for name in names if not (image_dir / name).is_file()]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise SamfeatError(
            image_dir,
            (
                f"{len(missing)} of the {len(names)} images named by {source} are not "
                f"there ({', '.join(missing[:3])}{more})"
            ),
            "unpack the photos or mend the names",
        )
