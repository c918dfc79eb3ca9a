"""InLoc: indoor queries, and a database of cut-outs of laser scans.

::

    DIR/query/iphone7/IMG_0731.JPG
    DIR/database/cutouts/<DUC1|DUC2|CSE...>/<scan>/DUC_cutout_<scan>_<yaw>_<pitch>.jpg
    DIR/database/cutouts/.../DUC_cutout_....jpg.mat
                                            XYZcut: (H, W, 3) metres in the scan's frame
    DIR/database/alignments/<floor>/transformations/DUC_trans_<scan>.txt
                                            lines 8 to 11: 4x4, from the scan to the world
    DIR/ground_truth.txt                              optional: 'name qw qx qy qz tx ty tz'

There is no model: the points that queries are matched with are those of the scans.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..colmap.cameras import Camera
from ..errors import SamfeatError
from ..files.images import image_size
from ..files.textlines import parse_number, read_text
from .dataset import Dataset, Retrieval, SubmissionForm, check_folder, read_truth
from .queries import Query

FORM = SubmissionForm("InLoc_eval_[{method}].txt")
THRESHOLDS = ((0.25, 10.0), (0.5, 10.0), (1.0, 10.0))
FOCAL = 4032.0 * 28.0 / 36.0  # of the iPhone 7: 28 mm, on a sensor 36 mm wide of 4032 pixels
_FIRST_ROW = 7  # of the matrix, in lines from 0


def open_dataset(root: Path) -> Dataset:
    """List queries and cut-outs; of the queries the sizes are read, nothing is decoded.

    Raises:
        SamfeatError: no queries, no cut-outs, a cut-out without its scan or transformation.
    """
    root = check_folder(root)
    photos = sorted(p for p in (root / "query").rglob("*") if p.suffix.lower() == ".jpg")
    if not photos:
        raise SamfeatError(root / "query", "no photos in it", "unpack the queries there")
    queries = []
    for path in photos:
        width, height = image_size(path)
        camera = Camera("SIMPLE_PINHOLE", width, height, (FOCAL, width / 2, height / 2))
        queries.append(Query(path.relative_to(root).as_posix(), "all", camera))
    cutouts = sorted((root / "database" / "cutouts").rglob("*.jpg"))
    if not cutouts:
        raise SamfeatError(
            root / "database" / "cutouts", "no photos in it", "unpack the database there"
        )
    names = [path.relative_to(root).as_posix() for path in cutouts]
    for path, name in zip(cutouts, names, strict=True):
        for needed in (path.with_name(f"{path.name}.mat"), transformation(root, name)):
            if not needed.is_file():
                raise SamfeatError(needed, f"no such file, of {name}", "unpack the scans too")
    truth_file = root / "ground_truth.txt"
    return Dataset(
        root=root,
        image_dir=root,
        reference_model=root / "database" / "cutouts",
        queries=queries,
        db_names=names,
        ground_truth=read_truth(truth_file, queries),
        truth_file=truth_file,
        benchmark="inloc",
        form=FORM,
        retrieval=Retrieval(0, 40),
        thresholds=THRESHOLDS,
        max_error=48.0,
        scan_of=lambda name: read_scan(root, name),
    )


def transformation(root: Path, name: str) -> Path:
    """The file with the transformation of a cut-out's scan."""
    floor, scan, photo = name.split("/")[-3:]
    folder = root / "database" / "alignments" / floor / "transformations"
    return folder / f"{photo[:3]}_trans_{scan}.txt"


def read_scan(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out's points (H, W, 3) in metres in the scan's frame, NaN where there is none, and the
    (4, 4) matrix from the scan to the world.

    Raises:
        SamfeatError: a file is damaged.
    """
    from scipy.io import loadmat  # nothing else needs it

    path = root / f"{name}.mat"
    try:
        points = np.asarray(loadmat(str(path))["XYZcut"], dtype=np.float64)
        if points.ndim != 3 or points.shape[2] != 3:
            raise ValueError(f"XYZcut has the shape {points.shape}")
    except Exception as error:  # loadmat raises almost anything on broken data
        raise SamfeatError(path, f"no scan ({error})", "unpack it again") from None
    return points, read_matrix(transformation(root, name))


def read_matrix(path: Path) -> np.ndarray:
    """(4, 4) from the scan to the world.

    Raises:
        SamfeatError: too few lines, or no numbers where they have to be.
    """
    lines = read_text(path).split("\n")[_FIRST_ROW : _FIRST_ROW + 4]
    try:
        matrix = np.array([[parse_number(token) for token in line.split()] for line in lines])
        if matrix.shape != (4, 4):
            raise ValueError
    except ValueError:
        raise SamfeatError(
            path, "lines 8 to 11 are no 4x4 matrix", "unpack the alignments again"
        ) from None
    return matrix
