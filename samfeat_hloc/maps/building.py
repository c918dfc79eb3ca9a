"""Saved maps out of finished runs, and images that join or leave them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..colmap.absolute_pose import reprojection_errors
from ..colmap.cameras import Camera
from ..colmap.intrinsics import camera_from_exif
from ..colmap.model import read_model
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..feature.extraction import recorded, resized_shape
from ..feature.options import ExtractOptions
from ..files import provenance
from ..files.atomic import put_in_place, work_folder
from ..files.feature_readers import FeatureReader
from ..files.h5arrays import open_hdf5
from ..files.masks import Masks
from ..localization.acceptance import MIN_INLIERS
from ..localization.correspondences import merged
from ..localization.same_features import check_same_features
from ..progress import tqdm
from . import new_points, saved_map
from .localizer import Localizer
from .posing import image_matches
from .saved_map import FrozenImage, FrozenMap
from .sources import MapSources

logger = logging.getLogger(__name__)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write a map where something else is, before any work is done.

    Raises:
        SamfeatError: something at ``output`` that is not to be replaced, or is no map.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise SamfeatError(output, "exists already", "replace it with --overwrite")
    if not (output / saved_map.MANIFEST).is_file():
        raise SamfeatError(
            output, "is not a saved map, so it is not replaced", "give another folder"
        )


def build(
    sources: MapSources, output: Path, *, compact: bool = False, overwrite: bool = False
) -> FrozenMap:
    """Save a map in one folder.

    Arguments:
        sources: see :func:`.sources.sources_in`.
        output: the folder of the saved map; made beside it first and then renamed.
        compact: leave out keypoints without a point, which are most of a map. They also tell
            wrong matches, so that poses are then not quite the run's, and images that are added
            make no new points with them.
        overwrite: replace what is there.

    Raises:
        SamfeatError: a file that is missing, damaged or does not fit the others; global
            descriptors that are not VLAD's; something at ``output`` already.
    """
    check_output(output, overwrite=overwrite)
    features, globals_file = sources.features, sources.global_descriptors
    record = provenance.read_hdf5(features)
    if record is None or not isinstance(record.get("weights_sha256"), str):
        raise SamfeatError(
            features,
            "it does not record which weights it was extracted with",
            "extract with `samfeat features`",
        )
    model = read_model(sources.model)
    images = []
    with (
        FeatureReader(features) as feature_file,
        open_hdf5(globals_file) as global_file,
    ):
        if "vocabulary" not in global_file.attrs:
            raise SamfeatError(
                globals_file,
                "it has no VLAD vocabulary",
                "make it with `samfeat global-descriptors`",
            )
        vocabulary = np.asarray(global_file.attrs["vocabulary"], dtype=np.float32)
        missing = feature_file.missing(list(model.images))
        missing += [name for name in model.images if f"{name}/global_descriptor" not in global_file]
        if missing:
            raise SamfeatError(
                sources.model,
                f"no features or no global descriptor of {missing[0]}, an image of the map",
                "run the whole pipeline again",
            )
        check_same_features(model, sources.model, feature_file, list(model.images))
        for name, image in tqdm(model.images.items(), desc="map", unit="image", delay=2):
            keypoints = feature_file.keypoints(name)
            points = image.points
            if len(points) == 0:  # pycolmap 3.13 drops an image's keypoints without points
                points = np.full(len(keypoints), -1, dtype=np.int32)
            kept = points >= 0 if compact else np.ones(len(points), dtype=bool)
            images.append(
                FrozenImage(
                    name=name,
                    camera=model.camera_of(name),
                    pose=image.pose,
                    keypoints=keypoints[kept].astype(np.float32),
                    descriptors=feature_file.descriptors(name)[kept],
                    points=points[kept],
                    global_descriptor=global_file[name]["global_descriptor"][()],
                )
            )
    try:
        extraction = recorded(record["config"])
    except (TypeError, KeyError) as error:
        raise SamfeatError(
            features, f"written by another version ({error})", "run the same command again"
        ) from None
    frozen = FrozenMap(
        extraction=extraction,
        weights_sha256=record["weights_sha256"],
        images=images,
        global_descriptors=np.stack([image.global_descriptor for image in images]),
        vocabulary=vocabulary,
        xyz=model.xyz,
        point_ids=model.point_ids,
        first_added_id=saved_map.next_id(model.point_ids),
    )
    with work_folder(output) as work:
        new = work / "map"
        new.mkdir()
        saved_map.create(new, frozen)
        put_in_place(new, output)
    return frozen


@dataclass(frozen=True)
class Added:
    """What became of an image to add: the points of the map that it sees, those that were
    triangulated for it, the inliers of its pose; or why it was left out."""

    name: str
    observations: int
    new_points: int
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
    masks: Masks | None = None,
) -> list[Added]:
    """Add images to a saved map: their poses, what they see of its points, and new points.

    An image without a pose is localized in the map first, and left out where that is uncertain.
    Its matches within 4 pixels (of the photo as extracted) of a point's projection become
    observations; from its matches with keypoints that have no point yet new points are
    triangulated. The next image finds these, and this image, in the map. Points and poses that
    are there stay as they are.

    Arguments:
        map_dir: the saved map that ``localizer`` has read.
        localizer: of that map; its extraction should be the map's own.
        image_dir: folder of the photos.
        cameras: by image name its intrinsics; None takes them from the EXIF, and finds the focal
            length with the pose where that is not given.
        poses: cam_from_world of images whose pose is known.
        min_inliers: an unposed image with fewer is left out, see `localization.acceptance`.
        masks: of the photos; where these are black there are no keypoints.

    Raises:
        SamfeatError: masks of none of the photos or of another size, a photo or a map that
            cannot be read, or a name that the map has already.
    """
    known = {image.name for image in localizer.map.images}
    for name in cameras:
        if name in known:
            raise SamfeatError(map_dir, f"{name} is in this map already", "remove it first")
    if masks is not None:
        masks.check({name: image_dir / name for name in cameras})
    before = localizer.map
    report = []
    # room for all, so that the matrix is not copied for each
    globals_ = np.concatenate(
        [before.global_descriptors, np.zeros((len(cameras), before.vocabulary.size), np.float32)]
    )
    localizer = localizer.on(replace(before, global_descriptors=globals_[: len(before.images)]))
    localizer.settings = replace(localizer.settings, min_inliers=min_inliers)
    for name, camera in tqdm(cameras.items(), desc="add", unit="image"):
        entry, images, xyz = _joined(
            localizer, image_dir / name, name, camera, (poses or {}).get(name),
            None if masks is None else masks.path(name),
        )  # fmt: skip
        report.append(entry)
        if entry.refused is None:
            globals_[len(images) - 1] = images[-1].global_descriptor
            first_id = max(before.first_added_id, saved_map.next_id(localizer.map.point_ids))
            ids = np.arange(first_id, first_id + len(xyz), dtype=np.int64)
            localizer = localizer.on(
                replace(
                    localizer.map,
                    images=images,
                    global_descriptors=globals_[: len(images)],
                    xyz=np.concatenate([localizer.map.xyz, xyz]),
                    point_ids=np.concatenate([localizer.map.point_ids, ids]),
                )
            )
    if len(localizer.map.images) > len(before.images):
        saved_map.extend(map_dir, localizer.map)
    return report


def _joined(
    localizer: Localizer,
    path: Path,
    name: str,
    camera: Camera | None,
    pose: Pose | None,
    mask: Path | None,
) -> tuple[Added, list[FrozenImage], np.ndarray]:
    """What became of it, the map's images with it as the last, and new points (P, 3)."""
    frozen = localizer.map
    if pose is not None and camera is None:
        camera = camera_from_exif(path)
    features, camera, rough = localizer.extract(path, camera, mask=mask)
    retrieved = localizer.retrieve(features.global_descriptor)
    pairs = localizer.match(features, retrieved)
    used, num_inliers = {image.name for image in retrieved}, 0
    if pose is not None:
        found = merged([image_matches(*pair) for pair in zip(retrieved, pairs, strict=True)])
    else:
        localization, found, _ = localizer.solve(
            features, camera, retrieved, pairs, refine_focal=rough
        )
        camera = localization.camera
        used = {name for name, _ in localization.retrieved}
        pose, num_inliers = localization.pose, localization.num_inliers
        if pose is None:
            refused = Added(name, 0, 0, num_inliers, localization.refused)
            return refused, frozen.images, np.zeros((0, 3))
    points = np.full(len(features.keypoints), -1, dtype=np.int32)
    noise = _noise(camera, localizer.options)
    errors = reprojection_errors(
        pose, camera.to_pycolmap(), features.keypoints[found.keypoints], frozen.xyz[found.points]
    )
    near = np.flatnonzero(errors <= new_points.MAX_ERROR * noise)
    # a keypoint sees one point and a point is seen at one keypoint: the nearest
    near = near[np.argsort(errors[near], kind="stable")]
    for index in (found.keypoints, found.points):
        near = near[np.sort(np.unique(index[near], return_index=True)[1])]
    points[found.keypoints[near]] = found.points[near]

    neighbours = [
        (image, pair) for image, pair in zip(retrieved, pairs, strict=True) if image.name in used
    ]
    new = new_points.triangulate(
        new_points.PosedKeypoints(camera, pose, features.keypoints, noise, points < 0),
        [
            new_points.PosedKeypoints(
                i.camera, i.pose, i.keypoints, _noise(i.camera, frozen.extraction), i.points < 0
            )
            for i, _ in neighbours
        ],
        [pair for _, pair in neighbours],
    )
    rows = (len(frozen.xyz) + new.point).astype(np.int32)
    points[new.keypoint[new.view < 0]] = rows[new.view < 0]
    joined = FrozenImage(
        name=name,
        camera=camera,
        pose=pose,
        keypoints=features.keypoints.astype(np.float32),
        descriptors=features.descriptors,
        points=points,
        global_descriptor=features.global_descriptor,
        added=True,
    )
    seen_by = {image.name: new.view == i for i, (image, _) in enumerate(neighbours)}
    images = [
        _seeing(image, new.keypoint[mine], rows[mine])
        if (mine := seen_by.get(image.name)) is not None and mine.any()
        else image
        for image in frozen.images
    ]
    return Added(name, len(near), len(new.xyz), num_inliers), [*images, joined], new.xyz


def _seeing(image: FrozenImage, keypoints: np.ndarray, rows: np.ndarray) -> FrozenImage:
    points = image.points.copy()
    points[keypoints] = rows
    return replace(image, points=points)


def _noise(camera: Camera, options: ExtractOptions) -> float:
    """Pixels of the stored photo in one of the photo as extracted."""
    resized_height, resized_width = resized_shape(camera.height, camera.width, options)
    return (camera.width / resized_width + camera.height / resized_height) / 2
