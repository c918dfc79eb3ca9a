"""Saved maps out of finished runs, and images that join or leave them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import SamfeatError
from ..extract import ExtractOptions, resized_shape
from . import frozen_map, provenance
from .colmap_database import put_in_place, work_folder
from .dataset import Camera
from .feature_readers import FeatureReader
from .frozen_map import FrozenImage, FrozenMap
from .localizer import Features, Localizer
from .map_model import read_cameras, read_map
from .poses import Pose

logger = logging.getLogger(__name__)

MIN_INLIERS = 30
_MAX_ERROR = 4.0  # pixels of the resized photo, as in mapping: observations are finer than inliers


def build(outputs: Path, output: Path, *, overwrite: bool = False) -> FrozenMap:
    """Save the map of a finished run.

    Arguments:
        outputs: the run's folder, with ``map/``, ``features.h5`` and ``global-descriptors.h5``.
        output: the folder of the saved map; made beside it first and then renamed.
        overwrite: replace what is there.

    Raises:
        SamfeatError: a file that is missing, damaged or does not fit the others; a run without
            VLAD retrieval; something at ``output`` already.
    """
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise SamfeatError(f"{output}: there is something here already; give --overwrite")
    if output.exists() and overwrite and not (output / frozen_map.MANIFEST).is_file():
        raise SamfeatError(f"{output}: this is no map to overwrite; give another folder")
    features, globals_file = outputs / "features.h5", outputs / "global-descriptors.h5"
    record = provenance.read_hdf5(features)
    if record is None or not isinstance(record.get("weights_sha256"), str):
        raise SamfeatError(
            f"{features}: it does not say which network made it; extract with `samfeat features`"
        )
    model = read_map(outputs / "map")
    cameras = read_cameras(outputs / "map")
    images = []
    with (
        FeatureReader(features) as feature_file,
        provenance.open_hdf5(globals_file) as global_file,
    ):
        if "vocabulary" not in global_file.attrs:
            raise SamfeatError(
                f"{globals_file}: it has no vocabulary; describe images by `samfeat "
                "global-descriptors` (VLAD)"
            )
        vocabulary = np.asarray(global_file.attrs["vocabulary"], dtype=np.float32)
        missing = feature_file.missing(list(model.images))
        missing += [name for name in model.images if f"{name}/global_descriptor" not in global_file]
        if missing:
            raise SamfeatError(
                f"{outputs}: no features or no global descriptor of {missing[0]}, an image of the "
                "map; run the whole pipeline again"
            )
        for name, image in tqdm(model.images.items(), desc="map", unit="image", delay=2):
            keypoints = feature_file.keypoints(name)
            seen = image.points >= 0
            if len(image.points) not in (len(keypoints), 0):
                raise SamfeatError(
                    f"{features}: {name} has {len(keypoints)} keypoints but {len(image.points)} "
                    "in the map; map these features again"
                )
            if len(image.points) == 0:  # pycolmap 3.13 drops an image's keypoints without points
                seen = np.zeros(len(keypoints), dtype=bool)
            images.append(
                FrozenImage(
                    name=name,
                    camera=cameras[image.camera_id],
                    pose=image.pose,
                    keypoints=keypoints[seen].astype(np.float32),
                    descriptors=feature_file.descriptors(name)[seen],
                    points=image.points[image.points >= 0],
                    global_descriptor=global_file[name]["global_descriptor"][()],
                )
            )
    try:
        extraction = ExtractOptions(**record["config"])
    except (TypeError, KeyError) as error:
        raise SamfeatError(f"{features}: made by another version ({error}); run again") from None
    frozen = FrozenMap(
        extraction=extraction,
        weights_sha256=record["weights_sha256"],
        images=images,
        global_descriptors=np.stack([image.global_descriptor for image in images]),
        vocabulary=vocabulary,
        xyz=model.xyz,
        point_ids=model.point_ids,
    )
    with work_folder(output) as work:
        new = work / "map"
        new.mkdir()
        frozen_map.create(new, frozen)
        put_in_place(new, output)
    return frozen


@dataclass(frozen=True)
class Added:
    """What became of an image to add: observations of the map, or why it was left out."""

    name: str
    observations: int
    inliers: int
    refused: str | None = None


def add(
    map_dir: Path,
    localizer: Localizer,
    image_dir: Path,
    cameras: Mapping[str, Camera | None],
    *,
    poses: Mapping[str, Pose] | None = None,
    min_inliers: int = MIN_INLIERS,
) -> list[Added]:
    """Add images to a saved map: their poses, and new looks of the points that they see.

    An image without a pose is localized in the map first, and left out where that is uncertain.
    Its matches within 4 pixels (of the photo as extracted) of a point's projection become
    observations. Points, and the images that are there, stay as they are.

    Arguments:
        map_dir: the saved map that ``localizer`` has read.
        localizer: of that map; its extraction should be the map's own.
        image_dir: folder of the photos.
        cameras: by image name its intrinsics; None takes them from the EXIF.
        poses: cam_from_world of images whose pose is known.
        min_inliers: fewer leave an unposed image out.

    Raises:
        SamfeatError: a photo or a map that cannot be read, or a name that the map has already.
    """
    known = {image.name for image in localizer.map.images}
    for name in cameras:
        if name in known:
            raise SamfeatError(f"{map_dir}: {name} is in this map already; remove it first")
    new, report = [], []
    for name, camera in tqdm(cameras.items(), desc="add", unit="image"):
        image, entry = _observed(
            localizer, image_dir / name, name, camera, (poses or {}).get(name), min_inliers
        )
        report.append(entry)
        if image is not None:
            new.append(image)
    if new:
        frozen_map.append(map_dir, new)
    return report


def _observed(
    localizer: Localizer,
    path: Path,
    name: str,
    camera: Camera | None,
    pose: Pose | None,
    min_inliers: int,
) -> tuple[FrozenImage | None, Added]:
    features, camera = localizer.extract_with_camera(path, camera)
    if pose is None:
        localization, found, _ = localizer.localize_features(features, camera)
        pose, num_inliers = localization.pose, localization.num_inliers
        if pose is None or num_inliers < min_inliers:
            why = f"{num_inliers} inliers, fewer than {min_inliers}"
            return None, Added(name, 0, num_inliers, why)
    else:
        found, _ = localizer.match(features, localizer.retrieve(features.global_descriptor))
        num_inliers = 0
    errors = reprojection_errors(
        features.keypoints[found.keypoints], localizer.map.xyz[found.points], pose, camera
    )
    near = np.flatnonzero(errors <= _MAX_ERROR * _noise(features, localizer.options))
    # a keypoint sees one point and a point is seen at one keypoint: the nearest
    near = near[np.argsort(errors[near], kind="stable")]
    for index in (found.keypoints, found.points):
        near = near[np.sort(np.unique(index[near], return_index=True)[1])]
    keypoints = found.keypoints[near]
    image = FrozenImage(
        name=name,
        camera=camera,
        pose=pose,
        keypoints=features.keypoints[keypoints].astype(np.float32),
        descriptors=features.descriptors[keypoints],
        points=found.points[near].astype(np.int32),
        global_descriptor=features.global_descriptor,
    )
    return image, Added(name, len(near), num_inliers)


def reprojection_errors(
    keypoints: np.ndarray, points: np.ndarray, pose: Pose, camera: Camera
) -> np.ndarray:
    """Pixels between keypoints (K, 2) and projections of points (K, 3); infinite behind it."""
    in_camera = points @ pose.rotation.T + pose.tvec
    errors = np.full(len(points), np.inf)
    front = in_camera[:, 2] > 1e-9
    if front.any():
        projected = np.asarray(camera.to_pycolmap().img_from_cam(in_camera[front]), dtype=float)
        distance = np.hypot(*(projected - keypoints[front]).T)
        errors[front] = np.where(np.isfinite(distance), distance, np.inf)
    return errors


def _noise(features: Features, options: ExtractOptions) -> float:
    """Pixels of the stored photo in one of the photo as extracted."""
    width, height = features.size
    resized_height, resized_width = resized_shape(height, width, options)
    return (width / resized_width + height / resized_height) / 2
