"""4Seasons, as the map-based localization challenge of ECCV 2020 has it.

::

    DIR/reference/undistorted_images/<cam0|cam1>/<time>.png
    DIR/reference/poses.txt                   'time, tx, ty, tz, qx, qy, qz, qw': camera 0 to world
    DIR/reference/Calibration/undistorted_calib_<0|1>.txt   'Pinhole fx fy cx cy 0', 'width height'
    DIR/reference/Calibration/undistorted_calib_stereo.txt  4x4: camera 0 to camera 1
    DIR/reference/RelocalizationFiles<Train|Val|Test>/relocalizationFile_recording_....txt
    DIR/<training|validation|test0|test1>/undistorted_images/cam0/<time>.png
    DIR/<training|...>/Calibration/undistorted_calib_0.txt

Lines of a relocalization file are 'reference-time query-time', with 'tx ty tz qx qy qz qw' behind
them, the query's camera from the reference camera, where that is public. Without undistorted
images the photos are those of ``distorted_images`` with ``calib_<0|1>.txt`` and
``calib_stereo.txt``, whose Kannala-Brandt model is COLMAP's OPENCV_FISHEYE.

The map has no points to begin with: database images are paired by their poses, and a query with
its reference frame and what is nearest to that. What is submitted and measured is the query's pose
in its reference frame.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.model import ModelImage
from ..colmap.model_changes import assemble, write_model
from ..colmap.nearby import nearest_views
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..files.textlines import data_lines, parse_number, read_text
from .dataset import (
    Dataset,
    Relocalization,
    Retrieval,
    SubmissionForm,
    check_files,
    check_folder,
    only_metres,
    sorted_poses,
)
from .queries import Query

RELOCALIZATION = {
    "training": "RelocalizationFilesTrain/relocalizationFile_recording_2020-03-24_17-36-22.txt",
    "validation": "RelocalizationFilesVal/relocalizationFile_recording_2020-03-03_12-03-23.txt",
    "test0": "RelocalizationFilesTest/relocalizationFile_recording_2020-03-24_17-45-31_*.txt",
    "test1": "RelocalizationFilesTest/relocalizationFile_recording_2020-04-23_19-37-00_*.txt",
}
METRES = (0.1, 0.2, 0.5)
FORM = SubmissionForm("submission_{method}")  # a folder, of files like the relocalization files
NUM_NEAR = 20  # reference images paired with each reference image, as in hloc
_DIFFICULTY = re.compile(r"_(easy|moderate|hard)$")
_MODELS = {"Pinhole": ("PINHOLE", 4), "KannalaBrandt": ("OPENCV_FISHEYE", 8)}


def scenes(root: Path) -> list[str]:
    """The sequences that are there, less the reference."""
    root = check_folder(root)
    found = [scene for scene in RELOCALIZATION if (root / scene).is_dir()]
    if not found:
        raise SamfeatError(
            root, "no sequence in it", f"unpack {', '.join(RELOCALIZATION)} into folders so named"
        )
    return found


def open_dataset(root: Path, scene: str) -> Dataset:
    """Read the reference and one sequence; images are looked for, not decoded.

    Raises:
        SamfeatError: with file and line: missing files, malformed lines, a query of a reference
            frame without a pose, images that are not there.
    """
    reference = root / "reference"
    kind = "undistorted_" if (reference / "undistorted_images").is_dir() else ""
    folder = f"{kind or 'distorted_'}images"
    calibration = reference / "Calibration"
    cameras = [read_calibration(calibration / f"{kind}calib_{i}.txt") for i in range(2)]
    other_from_first = _matrix(calibration / f"{kind}calib_stereo.txt")
    db_poses: dict[str, Pose] = {}
    camera_of: dict[str, Camera] = {}
    for time, pose in read_times(reference / "poses.txt").items():
        for number, placed in enumerate((pose, other_from_first @ pose)):
            name = f"reference/{folder}/cam{number}/{time}.png"
            db_poses[name], camera_of[name] = placed, cameras[number]
    files = sorted(reference.glob(RELOCALIZATION[scene]))
    if not files:
        raise SamfeatError(
            reference / RELOCALIZATION[scene], "no such file", "copy the relocalization files"
        )

    def frame(time: str) -> str:
        return f"reference/{folder}/cam0/{time}.png"

    relocalizations = []
    camera = read_calibration(root / scene / "Calibration" / f"{kind}calib_0.txt")
    queries: dict[str, Query] = {}
    for path in files:
        found = _DIFFICULTY.search(path.stem)
        condition = found[1] if found else scene
        for number, (first, second, relative) in _pairs(path):
            if frame(first) not in db_poses:
                raise SamfeatError(
                    f"{path}:{number}", f"{first} has no pose in poses.txt", "copy both again"
                )
            name = f"{scene}/{folder}/cam0/{second}.png"
            queries.setdefault(name, Query(name, condition, camera))
            relocalizations.append(
                Relocalization(path.name, name, second, frame(first), first, condition, relative)
            )
    check_files(root, queries, reference / RELOCALIZATION[scene])
    check_files(root, db_poses, reference / "poses.txt")

    def pairs(count: int) -> list[tuple[str, str]]:
        near = nearest_views(db_poses, count - 1)
        chosen = {item.query: item.reference for item in relocalizations}
        return [(q, name) for q, ref in chosen.items() for name in (ref, *near[ref][: count - 1])]

    def write(target: Path) -> None:
        nothing = np.zeros(0, dtype=np.int32)
        images = (
            (name, camera_of[name], ModelImage(0, 0, name, pose, nothing))
            for name, pose in db_poses.items()
        )
        no_points = np.zeros((0, 3))
        write_model(assemble(images, no_points, no_points.astype(np.uint8), np.zeros(0)), target)

    truth = {
        item.query: item.relative @ db_poses[item.reference]
        for item in relocalizations
        if item.relative is not None
    }
    return Dataset(
        root=root,
        image_dir=root,
        reference_model=reference / "poses.txt",
        queries=list(queries.values()),
        ground_truth=truth or None,
        db_poses=sorted_poses(db_poses),
        truth_file=files[0],
        benchmark="4seasons",
        scene=scene,
        form=FORM,
        relocalizations=relocalizations,
        retrieval=Retrieval(NUM_NEAR, 10, pairs=pairs),
        thresholds=only_metres(METRES),
        write_reference=write,
    )


def read_calibration(path: Path) -> Camera:
    """A camera: its model and parameters on the first line, its size on the second.

    Raises:
        SamfeatError: another model, or another number of values.
    """
    lines = data_lines(path)
    try:
        model, num_params = _MODELS[lines[0][1][0]]
        params = tuple(parse_number(token) for token in lines[0][1][1 : num_params + 1])
        width, height = (int(token) for token in lines[1][1][:2])
        if len(params) != num_params or min(width, height) < 1:
            raise ValueError
    except (ValueError, IndexError, KeyError):
        raise SamfeatError(
            path,
            "not a calibration",
            "write 'Pinhole fx fy cx cy 0' or 'KannalaBrandt fx fy cx cy k1 k2 k3 k4', and "
            "'width height' on a line below",
        ) from None
    return Camera(model, width, height, params)


def read_times(path: Path) -> dict[str, Pose]:
    """World-to-camera poses by time, of 'time tx ty tz qx qy qz qw' lines, camera to world, with
    or without commas.

    Raises:
        SamfeatError: with the line: malformed, or no poses at all.
    """
    poses = {
        tokens[0]: _pose(tokens[1:], f"{path}:{number}").inverse()
        for number, tokens in _lines(path)
    }
    if not poses:
        raise SamfeatError(path, "no poses in it", "copy it again")
    return poses


def _pairs(path: Path) -> list[tuple[int, tuple[str, str, Pose | None]]]:
    found = []
    for number, tokens in _lines(path):
        if len(tokens) not in (2, 9):
            raise SamfeatError(
                f"{path}:{number}",
                f"{len(tokens)} values where 2 or 9 are needed",
                "write 'reference-time query-time' and, where known, 'tx ty tz qx qy qz qw'",
            )
        relative = _pose(tokens[2:], f"{path}:{number}") if len(tokens) == 9 else None
        found.append((number, (tokens[0], tokens[1], relative)))
    if not found:
        raise SamfeatError(path, "no queries in it", "copy it again")
    return found


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    lines = enumerate(read_text(path).removeprefix("\ufeff").split("\n"), start=1)
    tokens = ((number, line.replace(",", " ").split()) for number, line in lines)
    return [(number, found) for number, found in tokens if found and found[0][0] != "#"]


def _pose(tokens: list[str], where: str) -> Pose:
    try:
        values = np.array([parse_number(token) for token in tokens])
        if len(values) != 7 or abs(np.linalg.norm(values[3:]) - 1) > 1e-2:
            raise ValueError("not a position and a unit quaternion")
    except ValueError as error:
        raise SamfeatError(where, error, "write 'tx ty tz qx qy qz qw'") from None
    return Pose(values[[6, 3, 4, 5]] / np.linalg.norm(values[3:]), values[:3])


def _matrix(path: Path) -> Pose:
    rows = [tokens for _, tokens in _lines(path)]
    try:
        matrix = np.array([[parse_number(token) for token in row] for row in rows])
        if matrix.shape not in ((4, 4), (3, 4)):
            raise ValueError
    except ValueError:
        raise SamfeatError(path, "not a 4x4 matrix", "copy it again") from None
    return Pose.from_matrix(matrix[:3, :3], matrix[:3, 3])
