"""Aachen Day-Night v1.0: the lists of v1.1's layout, and the reference model as an NVM file.

::

    DIR/images_upright/db/..., DIR/images_upright/query/...
    DIR/3D-models/aachen_cvpr2018_db.nvm
    DIR/3D-models/database_intrinsics.txt             'db/1.jpg MODEL width height params...' lines
    DIR/queries/<condition>_time_queries_with_intrinsics.txt
    DIR/queries/ground_truth.txt                      optional, as with v1.1
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..colmap.cameras import Camera
from ..colmap.model_changes import write_model
from ..colmap.nvm import read_nvm
from .aachen import photos, read_lists
from .dataset import (
    Dataset,
    Retrieval,
    SubmissionForm,
    check_files,
    check_folder,
    read_truth,
    sorted_poses,
)
from .queries import read_queries

FORM = SubmissionForm("Aachen_eval_[{method}].txt")


def open_dataset(root: Path) -> Dataset:
    """Read lists, reference model and ground truth; images are looked for, not decoded.

    Raises:
        SamfeatError: with file and, in lists, line: missing or empty folders and lists, malformed
            lines, images that are not there, or an image of the model without intrinsics.
    """
    root = check_folder(root)
    image_dir = photos(root)
    queries = read_lists(root / "queries")
    nvm = root / "3D-models" / "aachen_cvpr2018_db.nvm"
    intrinsics = root / "3D-models" / "database_intrinsics.txt"
    cameras = {query.name: query.camera for query in read_queries(intrinsics, "db")}

    def camera_of(name: str, focal: float, radial: float) -> Camera:
        if name not in cameras:
            raise ValueError(f"{name} has no line in {intrinsics.name}")
        return cameras[name]

    model = read_nvm(nvm, camera_of)
    check_files(image_dir, [query.name for query in queries], root / "queries")
    check_files(image_dir, model.images, nvm)
    truth_file = root / "queries" / "ground_truth.txt"

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=nvm,
        queries=queries,
        ground_truth=read_truth(truth_file, queries),
        db_poses=sorted_poses({name: image.pose for name, image in model.images.items()}),
        num_points=len(model.point_ids),
        truth_file=truth_file,
        benchmark="aachen-v1",
        form=FORM,
        retrieval=Retrieval(20, 50),
        write_reference=partial(write_model, model),
    )
