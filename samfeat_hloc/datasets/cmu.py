"""Extended CMU Seasons: a model and queries for each slice, one submission of all.

::

    DIR/intrinsics.txt                              'c0 OPENCV 1024 768 fx fy cx cy k1 k2 p1 p2'
    DIR/slice2/database/img_00122_c0_1303398475046031us.jpg
    DIR/slice2/query/img_...us.jpg
    DIR/slice2/sparse/{cameras,images,points3D}.bin      its images are named without a folder
    DIR/slice2/test-images-slice2.txt                    names of the queries, without a folder
    DIR/slice2/camera-poses/*.txt        optional: 'name qw qx qy qz cx cy cz', other queries, with
                                         their camera centres

Queries of camera-poses are localized and evaluated; they are not submitted.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..colmap.cameras import Camera, parse_camera
from ..colmap.model import read_content, read_model
from ..colmap.model_changes import changed, write_model
from ..colmap.poses import Pose, read_poses
from ..errors import SamfeatError
from ..files.textlines import data_lines, in_line
from .dataset import LONG_TERM, Dataset, Retrieval, SubmissionForm, check_files, check_folder
from .names import read_names
from .queries import Query

FORM = SubmissionForm("ExtendedCMU_eval_[{method}].txt")
_SLICE = re.compile(r"slice(\d+)")


def scenes(root: Path) -> list[str]:
    """The slices that are there, in the order of their numbers."""
    root = check_folder(root)
    found = [path.name for path in root.iterdir() if _SLICE.fullmatch(path.name)]
    if not found:
        raise SamfeatError(root, "no slice in it", "unpack slice2, slice3, ... into it")
    return sorted(found, key=lambda name: int(name.removeprefix("slice")))


def open_dataset(root: Path, scene: str) -> Dataset:
    """Read one slice; images are looked for, not decoded.

    Raises:
        SamfeatError: with file and line: missing files and folders, malformed lines, images that
            are not there, a query of no camera of intrinsics.txt.
    """
    image_dir = root / scene
    cameras = _cameras(root / "intrinsics.txt")
    model = image_dir / "sparse"
    content = read_content(model)
    listed = image_dir / f"test-images-{scene}.txt"
    test = [f"query/{name}" for name in read_names(listed)]
    truth: dict[str, Pose] = {}
    for path in sorted((image_dir / "camera-poses").glob("*.txt")):
        truth |= {f"query/{name}": _of_centre(pose) for name, pose in read_poses(path).items()}
    queries = []
    for name in (*test, *(name for name in truth if name not in test)):
        parts = Path(name).name.split("_")
        if len(parts) < 3 or parts[2] not in cameras:
            raise SamfeatError(
                listed,
                f"{name} is of no camera of intrinsics.txt",
                f"its name has to be as img_00122_{next(iter(cameras))}_1303398475046031us.jpg",
            )
        queries.append(Query(name, "all", cameras[parts[2]]))
    db_poses = {f"database/{name}": pose for name, pose in content.poses.items()}
    check_files(image_dir, [query.name for query in queries], listed)
    check_files(image_dir, db_poses, model)

    def write(folder: Path) -> None:
        write_model(changed(read_model(model), rename=lambda name: f"database/{name}"), folder)

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=model,
        queries=queries,
        ground_truth=truth or None,
        db_poses=db_poses,
        num_points=content.num_points,
        truth_file=image_dir / "camera-poses",
        benchmark="cmu",
        scene=scene,
        form=FORM,
        withheld=frozenset(test),
        retrieval=Retrieval(20, 10),
        thresholds=LONG_TERM,
        write_reference=write,
    )


def _of_centre(given: Pose) -> Pose:
    """The pose of a rotation and a camera centre that were read as a pose."""
    return Pose(given.qvec, -Pose(given.qvec, np.zeros(3)).rotation @ given.tvec)


def _cameras(path: Path) -> dict[str, Camera]:
    cameras = {}
    for number, tokens in data_lines(path):
        with in_line(path, number):
            cameras[tokens[0]] = parse_camera(tokens[1:])
    if not cameras:
        raise SamfeatError(path, "no cameras in it", "copy it again")
    return cameras
