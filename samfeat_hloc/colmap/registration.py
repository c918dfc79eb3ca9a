"""Registration of queries in COLMAP: a map at known poses, then every query by COLMAP's own mapper.

What `colmap point_triangulator` and `colmap image_registrator` do, by pycolmap and at fixed
intrinsics: no focal length or distortion is refined, of the database images nor of the queries.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..errors import SamfeatError
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.images import check_name
from ..progress import tqdm
from .bounded import Alive, bounded
from .cameras import CAMERA_MODELS, Camera
from .database import (
    VerificationConfig,
    Verified,
    quiet_colmap,
    verify,
    write_features,
    write_matches,
    write_model,
)
from .given_cameras import take_as_given
from .library import pycolmap
from .model import read_model
from .poses import Pose

logger = logging.getLogger(__name__)

_MIN_PAIR_MATCHES = 15  # COLMAP does not load pairs with fewer verified matches
_MODEL_NAMES = {number: name for name, (number, _, _) in CAMERA_MODELS.items()}


@dataclass(frozen=True)
class ImageEntry:
    """An image of a COLMAP database: its id, and its camera, which other images may share."""

    image_id: int
    camera_id: int
    camera: Camera


@dataclass(frozen=True)
class Registered:
    """How a query was registered.

    pose: cam_from_world, None where COLMAP refused it.
    num_points: points of the map that its verified matches see.
    num_inliers: those of them that the pose explains.
    """

    pose: Pose | None
    num_points: int
    num_inliers: int


def read_database(path: Path) -> dict[str, ImageEntry]:
    """Names, ids and intrinsics of a COLMAP database of any version, which is left as it is.

    Raises:
        SamfeatError: missing, not such a database, without images, or a camera that is broken.
    """
    if not path.is_file():
        raise SamfeatError(path, "no such file", "it is the benchmark's COLMAP database")
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True
        )
        try:
            cameras = connection.execute(
                "SELECT camera_id, model, width, height, params FROM cameras"
            ).fetchall()
            images = connection.execute(
                "SELECT name, image_id, camera_id FROM images ORDER BY image_id"
            ).fetchall()
        finally:
            connection.close()
        by_id = {row[0]: _camera(*row[1:]) for row in cameras}
        entries = {
            check_name(name): ImageEntry(image_id, camera_id, by_id[camera_id])
            for name, image_id, camera_id in images
        }
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise SamfeatError(
            path, f"not a whole COLMAP database ({error})", "download it again"
        ) from None
    if not entries:
        raise SamfeatError(path, "there are no images in it", "download it again")
    return entries


def entries_of(reference_model: Path, queries: Mapping[str, Camera]) -> dict[str, ImageEntry]:
    """Entries for the images of a COLMAP model, with its ids, and for queries, with new ones.

    Arguments:
        queries: intrinsics of images that are not in the model, by name.

    Queries of equal intrinsics do not share a camera: nothing says that they are of one.
    """
    reference = read_model(reference_model)
    entries = {
        image.name: ImageEntry(image.image_id, image.camera_id, reference.cameras[image.camera_id])
        for image in reference.images.values()
    }
    image_id = max(image.image_id for image in reference.images.values()) + 1
    camera_id = max(reference.cameras) + 1
    for i, (name, intrinsics) in enumerate(queries.items()):
        entries[name] = ImageEntry(image_id + i, camera_id + i, intrinsics)
    return entries


def empty_model(
    entries: Mapping[str, ImageEntry], poses: Mapping[str, Pose]
) -> pycolmap.Reconstruction:
    """A COLMAP model of the images that have a pose (cam_from_world), without points."""
    cameras, images = {}, []
    for name, pose in poses.items():
        entry = entries[name]
        c = entry.camera
        params = " ".join(repr(float(value)) for value in c.params)
        cameras[entry.camera_id] = f"{entry.camera_id} {c.model} {c.width} {c.height} {params}\n"
        values = " ".join(repr(float(value)) for value in (*pose.qvec, *pose.tvec))
        images.append(f"{entry.image_id} {values} {entry.camera_id} {name}\n\n")
    with tempfile.TemporaryDirectory() as folder:  # both pycolmap 3 and 4 read this old format
        Path(folder, "cameras.txt").write_text("".join(cameras.values()), encoding="utf-8")
        Path(folder, "images.txt").write_text("".join(images), encoding="utf-8")
        Path(folder, "points3D.txt").write_text("", encoding="utf-8")
        model = pycolmap.Reconstruction(folder)
    for camera_id in model.cameras:
        # known intrinsics: pairs are then verified by essential matrices
        model.camera(camera_id).has_prior_focal_length = True
    return model


def fill_database(
    path: Path,
    entries: Mapping[str, ImageEntry],
    model: pycolmap.Reconstruction,
    pairs: Sequence[tuple[str, str]],
    features: FeatureReader,
    matches: MatchReader,
    config: VerificationConfig,
) -> Verified:
    """Write a COLMAP database of all entries, with verified matches of the pairs.

    Args:
        path: a new file.
        entries: the images; those in the model keep its rigs and frames.
        model: see `empty_model`.
        pairs: pairs of entries.
        features, matches: of all entries and pairs.
        config: see `VerificationConfig`.

    Raises:
        SamfeatError: features or matches are missing or do not fit the cameras.
    """
    with pycolmap.Database.open(str(path)) as database, pycolmap.DatabaseTransaction(database):
        write_model(database, model)
        _write_unposed(database, entries, model)
        images = {
            name: (entry.image_id, (entry.camera.width, entry.camera.height))
            for name, entry in entries.items()
        }
        counts = write_features(database, images, features)
        matched = write_matches(database, images, pairs, matches, counts)
    return verify(path, matched, config)


def register(map_dir: Path, database: Path, images: Mapping[str, int]) -> dict[str, Registered]:
    """Register images one after the other, each against the map as it was made.

    Args:
        map_dir: COLMAP model; it is not changed.
        database: with verified matches between these images and those of the map.
        images: ids by name.

    Returns:
        The outcome for every name.
    """
    model = pycolmap.Reconstruction(str(map_dir))
    with quiet_colmap(), pycolmap.Database.open(str(database)) as opened:
        cache = _cache(opened)
    options = pycolmap.IncrementalMapperOptions()
    options.abs_pose_refine_focal_length = False
    options.abs_pose_refine_extra_params = False
    take_as_given(options)
    options.random_seed = VerificationConfig().seed
    mapper = pycolmap.IncrementalMapper(cache)
    found = {}

    def register_all(alive: Alive) -> None:
        mapper.begin_reconstruction(model)
        for name, image_id in tqdm(images.items(), desc="register", unit="query"):
            alive()
            if not model.exists_image(image_id):  # without a verified pair it is not loaded
                found[name] = Registered(None, 0, 0)
                continue
            visible = int(mapper.observation_manager.num_visible_points3D(image_id))
            if not mapper.register_next_image(options, image_id):
                found[name] = Registered(None, visible, 0)
                continue
            image = model.image(image_id)
            pose = Pose.from_rigid3d(image.cam_from_world())
            found[name] = Registered(pose, visible, int(image.num_points3D))
        mapper.end_reconstruction(False)

    with quiet_colmap():
        bounded("COLMAP's registration", register_all, images=len(model.images))
    return found


def as_json(registered: Registered) -> dict[str, object]:
    """The outcome without the pose, which has its own file."""
    values = asdict(registered)
    values.pop("pose")
    return {"registered": registered.pose is not None, **values}


def _camera(model: int, width: int, height: int, blob: bytes) -> Camera:
    params = np.frombuffer(blob, dtype=np.float64)
    name = _MODEL_NAMES[model]
    if len(params) != CAMERA_MODELS[name][1] or not np.isfinite(params).all():
        raise ValueError(f"a camera of model {name} has {len(params)} parameters")
    return Camera(name, int(width), int(height), tuple(float(value) for value in params))


def _write_unposed(
    database: pycolmap.Database,
    entries: Mapping[str, ImageEntry],
    model: pycolmap.Reconstruction,
) -> None:
    """Write images that are not in the model, each in a frame of its own."""
    rig_of = {rig.ref_sensor_id.id: rig_id for rig_id, rig in model.rigs.items()}
    next_rig = max(model.rigs, default=0) + 1
    next_frame = max(model.frames, default=0) + 1
    for name, entry in entries.items():
        if model.exists_image(entry.image_id):
            continue
        if entry.camera_id not in rig_of:
            camera = entry.camera.to_pycolmap()
            camera.camera_id = entry.camera_id
            camera.has_prior_focal_length = True
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=next_rig)
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
            rig_of[entry.camera_id] = next_rig
            next_rig += 1
        image = pycolmap.Image(name=name, camera_id=entry.camera_id, image_id=entry.image_id)
        frame = pycolmap.Frame(frame_id=next_frame, rig_id=rig_of[entry.camera_id])
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)
        database.write_image(image, use_image_id=True)
        next_frame += 1


def _cache(database: pycolmap.Database) -> pycolmap.DatabaseCache:
    if not hasattr(pycolmap, "DatabaseCacheOptions"):  # pycolmap 3
        return pycolmap.DatabaseCache.create(database, _MIN_PAIR_MATCHES, False, set())
    options = pycolmap.DatabaseCacheOptions()
    options.min_num_matches = _MIN_PAIR_MATCHES
    return pycolmap.DatabaseCache.create(database, options)
