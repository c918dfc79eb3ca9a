"""Cambridge Landmarks.

::

    DIR/<scene>/seq1/frame00001.png
    DIR/CambridgeLandmarks_Colmap_Retriangulated_1024px/<scene>/
        model_train/{cameras,images,points3D}.{bin,txt}      the database, at 1024 pixels
        empty_all/{cameras,images,points3D}.txt              all images: intrinsics and true poses
        list_query.txt                                       names of the queries

Where the models of the second folder are missing, what the dataset itself has does:

::

    DIR/<scene>/reconstruction.nvm            focal lengths, points, who sees them
    DIR/<scene>/dataset_train.txt             'name X Y Z QW QX QY QZ' lines below a header:
    DIR/<scene>/dataset_test.txt              camera centres and world-to-camera rotations

Its radial distortion is the inverse of COLMAP's; to first order only its sign differs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.model import read_content, read_model
from ..colmap.model_changes import changed, scaled, write_model
from ..colmap.nvm import read_nvm
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..files.images import check_name, image_size
from ..files.textlines import data_lines, in_line, parse_number
from .dataset import (
    INDOORS,
    Dataset,
    Retrieval,
    check_files,
    scenes_there,
    sorted_poses,
)
from .names import read_names
from .queries import Query

SCENES = ("KingsCollege", "OldHospital", "ShopFacade", "StMarysChurch", "GreatCourt")
MODELS = "CambridgeLandmarks_Colmap_Retriangulated_1024px"
CONDITION = "all"
_HEADER = 2  # lines that say something


def scenes(root: Path) -> list[str]:
    """The scenes that are there."""
    return scenes_there(root, SCENES)


def open_dataset(root: Path, scene: str) -> Dataset:
    """Read one scene; of the images the sizes are read, nothing is decoded.

    Raises:
        SamfeatError: no model, lists or photos; malformed lines; queries that the model does not
            have; photos of another shape than their cameras.
    """
    if (root / MODELS / scene).is_dir():
        return _of_models(root, scene)
    return _of_release(root, scene)


def _of_models(root: Path, scene: str) -> Dataset:
    folder, image_dir = root / MODELS / scene, root / scene
    train, every = folder / "model_train", folder / "empty_all"
    names = read_names(folder / "list_query.txt")
    check_files(image_dir, names, folder / "list_query.txt")
    content = read_content(train)
    check_files(image_dir, content.poses, train)
    everything = read_model(every)
    if unknown := [name for name in names if name not in everything.images]:
        raise SamfeatError(
            folder / "list_query.txt", f"{unknown[0]} is not in {every}", "copy both again"
        )
    queries = [
        Query(name, CONDITION, as_photographed(image_dir / name, everything.camera_of(name)))
        for name in names
    ]

    def write(target: Path) -> None:
        model = changed(
            read_model(train),
            camera=lambda name, camera: as_photographed(image_dir / name, camera),
        )
        write_model(model, target)

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=train,
        queries=queries,
        ground_truth={name: everything.images[name].pose for name in names},
        db_poses=content.poses,
        num_points=content.num_points,
        truth_file=every,
        benchmark="cambridge",
        scene=scene,
        retrieval=Retrieval(20, 10),
        thresholds=INDOORS,
        write_reference=write,
    )


def as_photographed(photo: Path, camera: Camera) -> Camera:
    """The intrinsics at the size of the photo; the models are of smaller ones."""
    return scaled(camera, *image_size(photo))


def _of_release(root: Path, scene: str) -> Dataset:
    image_dir = root / scene
    nvm = image_dir / "reconstruction.nvm"
    if not nvm.is_file():
        raise SamfeatError(
            root / MODELS / scene,
            f"no such folder, and no {nvm.name} in {image_dir} either",
            "unpack the models, or the whole scene",
        )
    trained = read_release_poses(image_dir / "dataset_train.txt")
    tested = read_release_poses(image_dir / "dataset_test.txt")
    check_files(image_dir, trained, image_dir / "dataset_train.txt")
    check_files(image_dir, tested, image_dir / "dataset_test.txt")

    def camera_of(name: str, focal: float, radial: float) -> Camera:
        # Images that are in no list have no photo either.
        photo = image_dir / as_png(name)
        width, height = image_size(photo) if as_png(name) in trained | tested else (1920, 1080)
        return Camera("SIMPLE_RADIAL", width, height, (focal, width / 2, height / 2, -radial + 0.0))

    model = read_nvm(nvm, camera_of)
    model = changed(model, rename=as_png)
    for names, source in ((trained, "dataset_train.txt"), (tested, "dataset_test.txt")):
        if unknown := [name for name in names if name not in model.images]:
            raise SamfeatError(
                image_dir / source,
                f"{unknown[0]} is not in {nvm.name}, so that its focal length is not known",
                "copy both again",
            )

    def write(target: Path) -> None:
        write_model(changed(model, keep=lambda name: name in trained), target)

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=nvm,
        queries=[Query(name, CONDITION, model.camera_of(name)) for name in tested],
        ground_truth=tested,
        db_poses=sorted_poses({name: model.images[name].pose for name in trained}),
        num_points=len(model.point_ids),
        truth_file=image_dir / "dataset_test.txt",
        benchmark="cambridge",
        scene=scene,
        retrieval=Retrieval(20, 10),
        thresholds=INDOORS,
        write_reference=write,
    )


def as_png(name: str) -> str:
    """The NVM names the photos .jpg, and they are .png."""
    return str(Path(name).with_suffix(".png").as_posix())


def read_release_poses(path: Path) -> dict[str, Pose]:
    """Poses of a dataset_train.txt or dataset_test.txt.

    Raises:
        SamfeatError: with the line: malformed, or a photo that is in it twice.
    """
    poses: dict[str, Pose] = {}
    for number, tokens in data_lines(path)[_HEADER:]:
        with in_line(path, number, "write 'name X Y Z QW QX QY QZ'"):
            name = check_name(tokens[0])
            values = np.array([parse_number(token) for token in tokens[1:]])
            if len(values) != 7 or abs(np.linalg.norm(values[3:]) - 1) > 1e-2:
                raise ValueError("not a position and a unit quaternion")
            if name in poses:
                raise ValueError(f"'{name}' is in it twice")
        qvec = values[3:] / np.linalg.norm(values[3:])
        poses[name] = Pose(qvec, -Pose(qvec, np.zeros(3)).rotation @ values[:3])
    if not poses:
        raise SamfeatError(path, "no poses in it", "copy it again")
    return poses
