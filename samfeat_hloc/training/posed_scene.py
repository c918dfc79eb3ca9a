"""A scene of posed photos: what a COLMAP model knows that training needs, and who sees what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ..colmap.cameras import CAMERA_MODELS, Camera
from ..colmap.covisibility import shared_points
from ..colmap.model import read_model
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..files.images import read_image
from ..progress import tqdm
from ..teachers.cache import Taught
from .depth_maps import find_depth_map, read_depth_map
from .keypoint_labels import PhotoLabels

logger = logging.getLogger(__name__)

LEAST_SHARED = 20  # points
LEAST_OVERLAP = 0.08  # of the points of the image that sees fewer
MOST_ERROR = 2.0  # pixels; points whose mean reprojection error is larger are left out

T_co = TypeVar("T_co", covariant=True)


class Known(Protocol[T_co]):
    """Knows something of images, by their names: what a teacher says of them, in the cache that
    ``samfeat teach`` wrote, or their keypoints, in the file of ``samfeat label``."""

    def __contains__(self, name: object) -> bool: ...
    def read(self, name: str) -> T_co: ...


@dataclass(frozen=True, eq=False)
class PosedImage:
    """A photo with its pose.

    points: rows of the scene's points that it sees, ascending. photo: reads it, uint8 (H, W, 3)
    RGB of any size that shows what the camera's shows. depth: reads its depth map, float32 (h, w),
    0 where unknown; None where it has none. taught: reads what a teacher says of it; None where
    no teacher has seen it. labels: reads its keypoint labels; None where there are none.
    """

    name: str
    camera: Camera
    pose: Pose
    points: np.ndarray
    photo: Callable[[], np.ndarray]
    depth: Callable[[], np.ndarray] | None = None
    taught: Callable[[], Taught] | None = None
    labels: Callable[[], PhotoLabels] | None = None

    @property
    def focal(self) -> float:
        """Of the pinhole camera that training sees the photo through, pixels."""
        return float(np.sqrt(self.calibration[0, 0] * self.calibration[1, 1]))

    @property
    def calibration(self) -> np.ndarray:
        """(3, 3) of that pinhole camera, the centre of the top-left pixel at (0, 0)."""
        params, focals = self.camera.params, CAMERA_MODELS[self.camera.model][2]
        fx, fy = params[0], params[focals - 1]
        cx, cy = params[focals : focals + 2]
        return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])

    @property
    def distorted(self) -> bool:
        """Whether the photo differs from what the pinhole camera would see."""
        return self.camera.model not in ("SIMPLE_PINHOLE", "PINHOLE")

    def stored(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the pinhole camera, in the photo as it is stored; the same size."""
        if not self.distorted:
            return pixels
        rays = np.c_[pixels, np.ones(len(pixels))] @ np.linalg.inv(self.calibration).T
        found = np.asarray(self.camera.to_pycolmap().img_from_cam(rays)) - 0.5
        # What the lens cannot see is far outside of the photo.
        return np.nan_to_num(found, nan=-1e6, posinf=1e6, neginf=-1e6)

    def pinhole(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the photo as it is stored, in the pinhole camera."""
        if not self.distorted:
            return pixels
        rays = np.asarray(self.camera.to_pycolmap().cam_from_img(pixels.astype(np.float64) + 0.5))
        found = rays[:, :2] @ self.calibration[:2, :2].T + self.calibration[:2, 2]
        return np.nan_to_num(found, nan=-1e6, posinf=1e6, neginf=-1e6)

    def pinhole_labels(self) -> PhotoLabels:
        """The keypoint labels in the pixels of the pinhole camera, which are as many."""
        assert self.labels is not None
        found = self.labels()
        size = self.camera.width, self.camera.height
        ratio = np.array(size) / np.array(found.image_size)
        keypoints = self.pinhole((found.keypoints + 0.5) * ratio - 0.5)
        return PhotoLabels(keypoints.astype(np.float32), found.scores, size)

    def project(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (N, 3) to pixels (N, 2) of the pinhole camera, and their depths (N,)."""
        local = xyz @ self.pose.rotation.T + self.pose.tvec
        depth = local[:, 2]
        flat = local @ self.calibration.T
        return flat[:, :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[:, None], depth


@dataclass(frozen=True, eq=False)
class PosedScene:
    """Posed images, the points they share xyz (P, 3), and which overlap: pairs (M, 2) indices."""

    images: tuple[PosedImage, ...]
    xyz: np.ndarray
    pairs: np.ndarray


def overlapping_pairs(seen: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs (M, 2) of images i < j that share enough points.

    Arguments:
        seen: for each image the rows of the points it sees, each once.
    """
    if not sum(len(points) for points in seen):
        return np.empty((0, 2), np.int32)
    sizes = np.array([len(points) for points in seen])
    found = []
    counted = tqdm(shared_points(seen), total=len(seen), desc="overlaps", delay=2, leave=False)
    for image, common in enumerate(counted):
        enough = common >= np.maximum(LEAST_SHARED, LEAST_OVERLAP * np.minimum(sizes[image], sizes))
        others = np.flatnonzero(enough)
        others = others[others > image]
        found.append(np.stack([np.full_like(others, image), others], axis=1))
    return np.concatenate(found).astype(np.int32)


def read_scene(
    model: Path,
    images: Path,
    depth: Path | None = None,
    teacher: Known[Taught] | None = None,
    *,
    labels: Known[PhotoLabels] | None = None,
    least_depth_bytes: int = 0,
) -> PosedScene:
    """A COLMAP model (binary or text) with its photos and depth maps.

    Photos that are not there, or have no depth map (of at least so many bytes) where ``depth`` is
    given, are left out.

    Raises:
        SamfeatError: no such folder, no whole model, a camera that no pinhole camera can stand in
            for, no photos or depth maps of it, a photo without labels where there are ``labels``,
            no two images that overlap.
    """
    for folder in (model, images, *([depth] if depth else [])):
        if not folder.is_dir():
            raise SamfeatError(folder, "no such folder", "check the path")
    content = read_model(model)
    good = content.errors <= MOST_ERROR
    posed = []
    for entry in sorted(content.images.values(), key=lambda image: image.name):
        camera = content.camera_of(entry.name)
        if camera.model == "EQUIRECTANGULAR":
            raise SamfeatError(
                model,
                f"image '{entry.name}' has no camera that a pinhole camera can stand in for",
                "undistort the model (colmap image_undistorter)",
            )
        map_file = find_depth_map(depth, entry.name) if depth else None
        if map_file and map_file.stat().st_size < least_depth_bytes:
            map_file = None
        if (depth and map_file is None) or not (images / entry.name).is_file():
            continue
        points = np.unique(entry.points[entry.points >= 0])
        posed.append(
            PosedImage(
                entry.name, camera, entry.pose, points[good[points]],
                partial(_read_photo, images / entry.name, camera),
                partial(read_depth_map, map_file) if map_file else None,
                partial(teacher.read, entry.name) if teacher and entry.name in teacher else None,
                partial(labels.read, entry.name) if labels and entry.name in labels else None,
            )
        )  # fmt: skip
    if not posed:
        what = f"photos in {images}" + (f" with depth maps in {depth}" if depth else "")
        raise SamfeatError(
            model,
            f"none of its {len(content.images)} images is among the {what}",
            "check the paths",
        )
    if len(posed) < len(content.images):
        logger.warning("%s: %d of %d images are used; the others have no photo or no depth map",
                       model, len(posed), len(content.images))  # fmt: skip
    if teacher is not None and not any(image.taught for image in posed):
        raise SamfeatError(
            images,
            "the teacher's cache has no entry for any of the model's photos",
            "run `samfeat teach` on this folder",
        )
    taught = sum(image.taught is not None for image in posed)
    if teacher is not None and taught < len(posed):
        logger.warning("%s: the teacher knows %d of %d photos; the others are trained on without "
                       "it", images, taught, len(posed))  # fmt: skip
    bare = [image.name for image in posed if labels is not None and image.labels is None]
    if labels is not None and bare:
        raise SamfeatError(
            images,
            f"{len(bare)} of its photos have no keypoint labels ({bare[0]}, ...)",
            "run `samfeat label` on this folder",
        )
    for image in posed[:1]:  # a wrong format is better known now than at the first step
        image.photo()
        _ = image.depth() if image.depth else None
    pairs = overlapping_pairs([image.points for image in posed])
    if len(pairs) == 0:
        raise SamfeatError(
            model,
            f"no two of its {len(posed)} images share {LEAST_SHARED} points",
            "take a model of overlapping photos with its points3D",
        )
    return PosedScene(tuple(posed), content.xyz, pairs)


def _read_photo(path: Path, camera: Camera) -> np.ndarray:
    """A photo of any size, if it has the shape of the camera's."""
    photo = read_image(path)
    height, width = photo.shape[:2]
    if abs(width * camera.height / (height * camera.width) - 1) > 0.03:
        raise SamfeatError(
            path,
            (
                f"{width} x {height} pixels, but its camera in the model takes "
                f"{camera.width} x {camera.height}"
            ),
            "take the photos that the model was made of",
        )
    return photo
