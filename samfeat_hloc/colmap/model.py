"""COLMAP models, binary or text, as arrays: what all but COLMAP itself needs of them.

`pycolmap.Reconstruction` answers one Python call per keypoint, and a city has tens of millions;
its readers also abort, or loop forever, on broken files. Here a few NumPy calls an image do, and a
damaged file ends in an error that names it. A model is kept after it was read, so that the stages
of a run that need the same one do not read it again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import SamfeatError, in_one_line
from ..files.images import check_name
from ..files.stamps import Kept, Stamp
from . import model_binary, model_text
from .cameras import Camera
from .model_parts import ImageRecord
from .poses import Pose

logger = logging.getLogger(__name__)

_FILES = ("cameras", "images", "points3D")
_MOST_DIFFERENCE = 1e-4  # between the poses of an image in two files, relative


@dataclass(frozen=True, eq=False)
class ModelImage:
    """One registered image. `points` (N,) int32: keypoint -> row of the model's points, -1 none."""

    image_id: int
    camera_id: int
    name: str
    pose: Pose
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class Model:
    """Images by name, in the order of the file, and the points as arrays of the same length P,
    sorted by id. A model without points is a model."""

    images: dict[str, ModelImage]
    point_ids: np.ndarray  # (P,) int64
    xyz: np.ndarray  # (P, 3) float64
    colors: np.ndarray  # (P, 3) uint8
    errors: np.ndarray  # (P,) float64, mean reprojection error in pixels
    track_lengths: np.ndarray  # (P,) int64
    cameras: dict[int, Camera]  # intrinsics by camera id

    def camera_of(self, name: str) -> Camera:
        """The intrinsics of an image."""
        return self.cameras[self.images[name].camera_id]

    @property
    def num_observations(self) -> int:
        return int(self.track_lengths.sum())

    @property
    def mean_track_length(self) -> float:
        return float(self.track_lengths.mean()) if len(self.track_lengths) else 0.0

    @property
    def mean_reprojection_error(self) -> float:
        """Pixels; COLMAP's mean over points."""
        return float(self.errors.mean()) if len(self.errors) else 0.0


@dataclass(frozen=True)
class ModelContent:
    """What a look into a model tells: the poses by image name, sorted, and the point count."""

    poses: dict[str, Pose]
    num_points: int


def is_model(path: Path) -> bool:
    """Whether the folder holds the files of a COLMAP model, binary or text."""
    return _format_of(path) is not None


def models_below(folder: Path) -> list[Path]:
    """The sub folders that hold a model, by name.

    Raises:
        SamfeatError: one of them lacks a file of its model, and no other is to stand in for it.
    """
    found = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    for path in found:
        if not is_model(path):
            _check_complete(path)
    return [path for path in found if is_model(path)]


def find_model(folder: Path) -> Path:
    """The model in ``folder/aachen_v_1_1``, ``folder`` itself, or its only sub folder with one.

    Raises:
        SamfeatError: no such folder, no model, an incomplete one, or a choice between several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SamfeatError(
            folder, "no such folder", f"the reference model belongs in {folder / 'aachen_v_1_1'}"
        )
    for candidate in (folder / "aachen_v_1_1", folder):
        if is_model(candidate):
            return candidate
    found = models_below(folder)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise SamfeatError(folder, f"several models ({names})", "rename one to aachen_v_1_1")
    _check_complete(folder)
    raise SamfeatError(
        folder,
        ("no COLMAP model (cameras, images and points3D, .bin or .txt) in it or in a folder below"),
        "unpack the reference model to aachen_v_1_1",
    )


def file_of(folder: Path, part: str) -> Path:
    """The file of a model that holds a part, such as "images".

    Raises:
        SamfeatError: no such folder, or no COLMAP model in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SamfeatError(folder, "no such folder", "name the folder of a COLMAP model")
    ending = _format_of(folder)
    if ending is None:
        _check_complete(folder)
        raise SamfeatError(
            folder,
            "no COLMAP model in this folder (cameras, images and points3D, .bin or .txt)",
            "check the path, or create the model first",
        )
    return folder / f"{part}.{ending}"


def read_model(folder: Path) -> Model:
    """Read a COLMAP model, binary where it has both forms.

    Quaternions near unit length are normalised. Poses are those of the frames and rigs where it
    has these, as in COLMAP. The same files are read once: whoever asks next gets the same arrays,
    which cannot be written to.

    Raises:
        SamfeatError: no model; a file that is damaged, cut off or holds impossible values, with
            the line where it is text; images of the same name; observations of a point, or an
            image of a camera, that it does not have; poses that contradict each other.
    """
    folder = Path(folder)
    return _kept.of(lambda: _stamps(folder), lambda: _read(folder))


def read_content(folder: Path) -> ModelContent:
    """Check that a COLMAP model is whole, and read its images' poses but no observations.

    Raises:
        SamfeatError: as `read_model`; no images; image names that ``check_name`` refuses.
    """
    folder = Path(folder)
    known = _kept.known(_stamps(folder))
    if known is not None:
        poses, num_points = {i.name: i.pose for i in known.images.values()}, len(known.point_ids)
    else:
        _, records = cameras_and_images(folder, observations=False)
        poses = {record.name: record.pose for record in records}
        num_points = reader_of(folder).num_points(file_of(folder, "points3D"))
    if not poses:
        raise SamfeatError(folder, "the model has no images", "take a model with posed images")
    for name in poses:
        try:
            check_name(name)
        except SamfeatError as error:
            raise SamfeatError(file_of(folder, "images"), error) from None
    return ModelContent(dict(sorted(poses.items())), num_points)


def open_in_pycolmap(folder: Path) -> Any:
    """A model as a `pycolmap.Reconstruction`, looked through first and its poses normalised.

    Raises:
        SamfeatError: as `read_content`, or pycolmap cannot read it.
    """
    from .library import pycolmap

    read_content(folder)  # finds damage that pycolmap hangs on
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap raises whatever its C++ does
        reason = in_one_line(error)
        raise SamfeatError(
            folder, f"pycolmap cannot read this model ({reason})", "copy it again"
        ) from error
    for frame in model.frames.values():
        if frame.has_pose:
            frame.rig_from_world = _normalised(frame.rig_from_world)
    for rig in model.rigs.values():
        for sensor, pose in rig.non_ref_sensors.items():
            if pose is not None:
                rig.set_sensor_from_rig(sensor, _normalised(pose))
    return model


_kept: Kept[Model] = Kept(2)  # the reference model and the map


def _stamps(folder: Path) -> tuple[Stamp, ...]:
    file_of(folder, "images")
    paths = (file_of(folder, part) for part in (*_FILES, "rigs", "frames"))
    return tuple(Stamp.of(path) for path in paths if path.is_file())


def _read(folder: Path) -> Model:
    cameras, records = cameras_and_images(folder, observations=True)
    path = file_of(folder, "points3D")
    points = reader_of(folder).points(path)
    points = points[np.argsort(points["id"], kind="stable")]
    point_ids = points["id"].astype(np.int64)
    if (point_ids[1:] == point_ids[:-1]).any():
        raise SamfeatError(path, "two points have the same id", "make the model again")
    images = {}
    for record in records:
        assert record.observed is not None
        try:
            rows = _rows(record.observed, point_ids)
        except ValueError as error:
            raise SamfeatError(
                file_of(folder, "images"),
                f"damaged: image '{record.name[:120]}' {error}",
                "copy the model again, or make the map again",
            ) from None
        images[record.name] = ModelImage(
            record.image_id, record.camera_id, record.name, record.pose, rows
        )
    model = Model(
        images=images,
        point_ids=point_ids,
        xyz=np.ascontiguousarray(points["xyz"]),
        colors=np.ascontiguousarray(points["rgb"]),
        errors=points["error"].copy(),
        track_lengths=points["track"].astype(np.int64),
        cameras=cameras,
    )
    for array in (model.point_ids, model.xyz, model.colors, model.errors, model.track_lengths,
                  *(image.points for image in images.values())):  # fmt: skip
        array.setflags(write=False)
    return model


def _rows(observed: np.ndarray, point_ids: np.ndarray) -> np.ndarray:
    rows = np.full(len(observed), -1, dtype=np.int32)
    valid = observed >= 0
    if valid.any():
        found = np.searchsorted(point_ids, observed[valid])
        if (
            not len(point_ids)
            or (point_ids[np.minimum(found, len(point_ids) - 1)] != observed[valid]).any()
        ):
            raise ValueError("observes a point that the model does not have")
        rows[valid] = found
    return rows


def cameras_and_images(
    folder: Path, *, observations: bool
) -> tuple[dict[int, Camera], list[ImageRecord]]:
    """A model's cameras by id and its images, with what they observe where that is asked for.

    Raises:
        SamfeatError: no model, or a damaged one.
    """
    reader, path = reader_of(folder), file_of(folder, "images")
    cameras = reader.cameras(file_of(folder, "cameras"))
    records: list[ImageRecord] = reader.images(path, observations)
    names: set[str] = set()
    for record in records:
        what = f"image '{record.name[:120]}'"
        if record.camera_id not in cameras:
            raise SamfeatError(
                path,
                f"damaged: {what} has camera {record.camera_id}, which is not in the model",
                "copy the model again",
            )
        if record.name in names:
            raise SamfeatError(path, f"two images have the same name ({what})", "rename one")
        names.add(record.name)
    return cameras, _as_in_frames(folder, records)


def _as_in_frames(folder: Path, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images with the poses that COLMAP gives them: of their frames, where it has frames."""
    reader, path = reader_of(folder), file_of(folder, "frames")
    rigs_file = file_of(folder, "rigs")
    rigs = reader.rigs(rigs_file) if rigs_file.is_file() else {}
    frames = reader.frames(path) if path.is_file() else []
    if not rigs:
        return list(records)
    poses = {}
    for frame in frames:
        for camera_id, image_id in frame.images:
            sensors = rigs[frame.rig_id].sensor_from_rig if frame.rig_id in rigs else {}
            if camera_id not in sensors:
                raise SamfeatError(
                    path,
                    f"damaged: frame {frame.frame_id} is of rig {frame.rig_id} and camera "
                    f"{camera_id}, which {rigs_file.name} does not have",
                    "copy the model again",
                )
            if (sensor_from_rig := sensors[camera_id]) is not None:
                poses[image_id] = sensor_from_rig @ frame.rig_from_world
    found = []
    for record in records:
        pose = poses.get(record.image_id, record.pose)
        if _differ(pose, record.pose):
            raise SamfeatError(
                path,
                f"its pose of image '{record.name[:120]}' differs from that in "
                f"{file_of(folder, 'images').name}; COLMAP would take the one here",
                "write the whole model again from the program that changed it",
            )
        found.append(
            ImageRecord(record.image_id, record.camera_id, record.name, pose, record.observed)
        )
    return found


def _differ(one: Pose, other: Pose) -> bool:
    if one is other or ((one.qvec == other.qvec).all() and (one.tvec == other.tvec).all()):
        return False
    moved = np.abs(one.tvec - other.tvec).max() / max(1.0, np.abs(one.tvec).max())
    return max(np.abs(one.rotation - other.rotation).max(), moved) > _MOST_DIFFERENCE


def _normalised(rigid: Any) -> Any:
    """A `pycolmap.Rigid3d` with a unit quaternion; as it is where it has one up to rounding."""
    from .library import pycolmap

    quat = np.asarray(rigid.rotation.quat)
    norm = float(np.linalg.norm(quat))
    if abs(norm - 1) < 1e-14:
        return rigid
    return pycolmap.Rigid3d(pycolmap.Rotation3d(quat / norm), rigid.translation)


def _format_of(folder: Path) -> str | None:
    for ending in ("bin", "txt"):
        if all((folder / f"{part}.{ending}").is_file() for part in _FILES):
            return ending
    return None


def _check_complete(folder: Path) -> None:
    """Say what is missing where some of a model's files are there."""
    for ending in ("bin", "txt"):
        missing = [f"{p}.{ending}" for p in _FILES if not (folder / f"{p}.{ending}").is_file()]
        if 0 < len(missing) < len(_FILES):
            raise SamfeatError(
                folder, f"the model lacks {', '.join(missing)}", "copy the whole model"
            )


def reader_of(folder: Path) -> ModuleType:
    """The module that reads the form of a model: binary or text."""
    return model_binary if _format_of(folder) == "bin" else model_text
