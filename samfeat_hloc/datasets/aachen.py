"""Aachen Day-Night v1.1, and any dataset in its layout.

::

    DIR/images_upright/db/...                          photos of the reference model
    DIR/images_upright/query/...                       photos to localize
    DIR/3D-models/aachen_v_1_1/{cameras,images,points3D}.{bin,txt}
    DIR/queries/<condition>_time_queries_with_intrinsics.txt    name MODEL width height params...
    DIR/queries/ground_truth.txt                       optional: name qw qx qy qz tx ty tz

The condition of a query (day, night) is the start of its list's file name. Names in the ground
truth may do without folders. The reference model may be without points: its images are then paired
by their poses.
"""

from __future__ import annotations

from pathlib import Path

from ..colmap.model import find_model, read_content
from ..errors import SamfeatError
from .dataset import Dataset, Retrieval, SubmissionForm, check_files, check_folder, read_truth
from .queries import Query, read_queries

LIST_SUFFIX = "_time_queries_with_intrinsics.txt"
# The brackets are part of the names that the benchmark's own scripts give.
FORM = SubmissionForm("Aachen_v1_1_eval_[{method}].txt")


class AachenDataset(Dataset):
    """A dataset in the layout of Aachen Day-Night v1.1."""

    @classmethod
    def open(cls, root: Path) -> AachenDataset:
        """Read lists, reference model and ground truth; images are looked for, not decoded.

        Raises:
            SamfeatError: with file and, in lists, line: missing or empty folders and lists,
                malformed lines, duplicate queries, images that are not there, a reference model
                that is broken or without images.
        """
        root = check_folder(root)
        image_dir = photos(root)
        queries = read_lists(root / "queries")
        reference_model = find_model(root / "3D-models")
        content = read_content(reference_model)
        check_files(image_dir, [query.name for query in queries], root / "queries")
        check_files(image_dir, content.poses, reference_model)
        truth_file = root / "queries" / "ground_truth.txt"
        return cls(
            root=root,
            image_dir=image_dir,
            reference_model=reference_model,
            queries=queries,
            ground_truth=read_truth(truth_file, queries),
            db_poses=content.poses,
            num_points=content.num_points,
            truth_file=truth_file,
            form=FORM,
            retrieval=Retrieval(20, 50),
        )


def photos(root: Path) -> Path:
    """The folder of the photos."""
    image_dir = root / "images_upright"
    if not image_dir.is_dir():
        raise SamfeatError(
            image_dir,
            "no such folder",
            "photos belong in images_upright/db and images_upright/query",
        )
    return image_dir


def read_lists(folder: Path) -> list[Query]:
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
