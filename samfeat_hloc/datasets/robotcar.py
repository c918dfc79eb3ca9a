"""RobotCar Seasons, version 2 where its lists are there, else version 1.

::

    DIR/images/overcast-reference/<rear|left|right>/<time>.jpg          the database
    DIR/images/<condition>/<rear|left|right>/<time>.jpg                 queries
    DIR/intrinsics/<rear|left|right>_intrinsics.txt       'fx 400.0', 'fy ...', 'cx ...', 'cy ...'
    DIR/extrinsics/<rear|left|right>_extrinsics.txt       for rigs: a 4x4 camera-to-car matrix,
                                                          four lines of numbers with commas
    DIR/3D-models/all-merged/all.nvm
    DIR/3D-models/overcast-reference.db                   intrinsics of the database
    DIR/robotcar_v2_test.txt                              version 2: names of the queries
    DIR/robotcar_v2_train.txt                             version 2: 'name' and 16 numbers a line,
                                                          the camera-to-world matrix

The NVM and some lists name the photos .png, and they are .jpg. A submission names queries with
their camera, as ``rear/1418133736738115.jpg``. Images of the list of version 2 for training are
localized and evaluated too; they are not submitted. Photos of one name were taken at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.model_changes import changed, write_model
from ..colmap.nvm import read_nvm
from ..colmap.poses import Pose
from ..colmap.rig_config import Frame, RigCamera
from ..errors import SamfeatError
from ..files.images import check_name, image_size
from ..files.textlines import data_lines, in_line, parse_number
from .dataset import (
    LONG_TERM,
    Dataset,
    Retrieval,
    SubmissionForm,
    check_files,
    check_folder,
    sorted_poses,
)
from .names import read_names
from .queries import Query

logger = logging.getLogger(__name__)

CONDITIONS = (
    "dawn", "dusk", "night", "night-rain", "overcast-summer", "overcast-winter", "rain", "snow",
    "sun",
)  # fmt: skip
CAMERAS = ("left", "rear", "right")
FORM = SubmissionForm("RobotCar_eval_[{method}].txt", folders=1)


def open_dataset(root: Path) -> Dataset:
    """Read lists and reference model; images are looked for, not decoded.

    Raises:
        SamfeatError: with file and line: missing files and folders, malformed lines, images that
            are not there, an image of the model without intrinsics.
    """
    from ..colmap.registration import read_database

    root = check_folder(root)
    image_dir = root / "images"
    test, train = _queries(root, image_dir)
    check_files(image_dir, [*test, *train], root)
    cameras: dict[str, Camera] = {}
    queries = []
    for name in (*test, *train):
        side = PurePosixPath(name).parent.name
        if side not in CAMERAS:
            raise SamfeatError(
                image_dir / name, "its folder is no camera", f"it is one of {', '.join(CAMERAS)}"
            )
        if side not in cameras:
            size = image_size(image_dir / name)  # all photos of a camera have the same
            cameras[side] = _camera(root / "intrinsics" / f"{side}_intrinsics.txt", size)
        queries.append(Query(name, name.split("/")[0], cameras[side]))
    nvm = root / "3D-models" / "all-merged" / "all.nvm"
    database = root / "3D-models" / "overcast-reference.db"
    entries = read_database(database)

    def camera_of(name: str, focal: float, radial: float) -> Camera:
        if name not in entries:
            raise ValueError(f"{name} is not in {database.name}")
        return entries[name].camera

    model = changed(read_nvm(nvm, camera_of), rename=as_jpg)
    check_files(image_dir, model.images, nvm)

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=nvm,
        queries=queries,
        ground_truth=train or None,
        db_poses=sorted_poses({name: image.pose for name, image in model.images.items()}),
        num_points=len(model.point_ids),
        truth_file=root / "robotcar_v2_train.txt",
        benchmark="robotcar",
        form=FORM,
        withheld=frozenset(test),
        retrieval=Retrieval(20, 20),
        thresholds=LONG_TERM,
        write_reference=partial(write_model, model),
        frames=lambda: _frames(root, [query.name for query in queries]),
    )


def as_jpg(name: str) -> str:
    """The photo of a name that ends in .png."""
    return name.removesuffix(".png") + ".jpg" if name.endswith(".png") else name


def _frames(root: Path, names: Sequence[str]) -> list[Frame]:
    """The queries that the car's cameras took at once."""
    cameras = {
        side: RigCamera("", _cam_from_car(root / "extrinsics" / f"{side}_extrinsics.txt"), None, ())
        for side in CAMERAS
    }
    found: dict[tuple[str, str], Frame] = {}
    for name in names:
        condition, side, time = name.split("/")
        frame = found.setdefault((condition, time), Frame(f"{condition}/{time}", []))
        frame.photos.append((cameras[side], name))
    return [frame for frame in found.values() if len(frame.photos) > 1]


def _cam_from_car(path: Path) -> Pose:
    rows = [" ".join(tokens).replace(",", " ").split() for _, tokens in data_lines(path)]
    try:
        matrix = np.array([[parse_number(value) for value in row] for row in rows])
        rotation = matrix[:3, :3]
        if matrix.shape != (4, 4) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise ValueError("it is no 4x4 matrix of a rotation and a translation")
    except ValueError as error:
        raise SamfeatError(path, error, "copy it again") from None
    return Pose.from_matrix(rotation, matrix[:3, 3]).inverse()


def _camera(path: Path, size: tuple[int, int]) -> Camera:
    values = {}
    for number, tokens in data_lines(path):
        try:
            values[tokens[0]] = parse_number(tokens[1])
        except (ValueError, IndexError) as error:
            raise SamfeatError(f"{path}:{number}", error, "write as 'fx 400.0'") from None
    if missing := [key for key in ("fx", "fy", "cx", "cy") if key not in values]:
        raise SamfeatError(path, f"it has no {missing[0]}", "copy it again")
    fx, fy, cx, cy = (values[key] for key in ("fx", "fy", "cx", "cy"))
    if fx != fy:
        return Camera("PINHOLE", *size, (fx, fy, cx, cy))
    return Camera("SIMPLE_RADIAL", *size, (fx, cx, cy, 0.0))  # as hloc has it


def _queries(root: Path, image_dir: Path) -> tuple[list[str], dict[str, Pose]]:
    """Names to be submitted, and known poses by name."""
    listed, train = root / "robotcar_v2_test.txt", root / "robotcar_v2_train.txt"
    known = read_matrices(train) if train.is_file() else {}
    if listed.is_file():
        return [as_jpg(name) for name in read_names(listed)], known
    found = [
        path.relative_to(image_dir).as_posix()
        for condition in CONDITIONS
        for path in sorted((image_dir / condition).glob("*/*.jpg"))
    ]
    if not found:
        raise SamfeatError(
            image_dir, f"no photos in {', '.join(CONDITIONS)}", "unpack the conditions there"
        )
    there = {name.split("/")[0] for name in found}
    if absent := [condition for condition in CONDITIONS if condition not in there]:
        logger.warning(
            "%s: photos of %d of the %d conditions are there; none of %s",
            image_dir, len(there), len(CONDITIONS), ", ".join(absent),
        )  # fmt: skip
    return [name for name in found if name not in known], known


def read_matrices(path: Path) -> dict[str, Pose]:
    """World-to-camera poses of 'name' and a camera-to-world matrix of 16 numbers a line.

    Raises:
        SamfeatError: with the line: another number of values, no rotation, a name that is in it
            twice.
    """
    poses: dict[str, Pose] = {}
    for number, tokens in data_lines(path):
        with in_line(path, number, "write 'name' and 16 numbers"):
            name = as_jpg(check_name(tokens[0]))
            matrix = np.array([parse_number(token) for token in tokens[1:]])
            if len(matrix) != 16:
                raise ValueError(f"{len(matrix)} numbers where 16 are needed")
            matrix = matrix.reshape(4, 4)
            rotation = matrix[:3, :3]
            if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
                raise ValueError("the matrix is no rotation and translation")
            if name in poses:
                raise ValueError(f"'{name}' is in it twice")
        poses[name] = Pose.from_matrix(rotation, matrix[:3, 3]).inverse()
    return poses
