"""A photo to localize: its pixels, its intrinsics, and the features of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.intrinsics import camera_from_exif, guessed_camera, rough_camera
from ..colmap.library import pycolmap
from ..errors import SamfeatError
from ..files.image_forms import ImageLike, as_photo
from ..files.masks import MaskLike, as_mask


@dataclass(frozen=True, eq=False)
class QueryFeatures:
    """Local features of a photo.

    Attributes:
        keypoints: (N, 2) float64 pixels of the stored photo, its corner at (0, 0).
        descriptors: (N, D) float16, as feature files have them.
        size: width and height of the stored photo.
        global_descriptor: (K * D,) float32.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    size: tuple[int, int]
    global_descriptor: np.ndarray


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as it is stored, with what is known of it.

    Attributes:
        stored: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, False where it is left out; None for the whole photo.
        orientation: of its EXIF, 1 to 8.
        camera: its intrinsics, of the photo as it is stored.
        refine: the focal length is to be found with the pose.
    """

    stored: np.ndarray
    mask: np.ndarray | None
    orientation: int
    camera: Camera
    refine: bool


def read_photo(
    image: ImageLike,
    camera: Camera | pycolmap.Camera | None,
    refine_focal: bool | None,
    mask: MaskLike | None = None,
) -> Photo:
    """A photo and its intrinsics: those given, else of its EXIF.

    Arguments:
        image: see :data:`samfeat_hloc.files.image_forms.ImageLike`.
        camera: its intrinsics, if they are known.
        refine_focal: find the focal length with the pose; None does so where no camera is given.
        mask: see :data:`samfeat_hloc.files.masks.MaskLike`.

    Raises:
        SamfeatError: a photo that cannot be read, intrinsics or a mask of another size, or no
            intrinsics where the focal length is not to be found.
    """
    stored, orientation = as_photo(image)
    size = (stored.shape[1], stored.shape[0])
    refine = camera is None if refine_focal is None else refine_focal
    if camera is not None:
        intrinsics = Camera.of(camera)
    elif isinstance(image, (str, Path)):
        intrinsics = rough_camera(Path(image)) if refine else camera_from_exif(Path(image))
    elif refine:
        intrinsics = guessed_camera(*size)
    else:
        raise SamfeatError(
            "camera",
            "none was given, and only files have EXIF to read it from",
            "give it, or let the focal length be refined",
        )
    if size != (intrinsics.width, intrinsics.height):
        raise SamfeatError(
            str(image) if isinstance(image, (str, Path)) else "the image",
            f"it is {size[0]}x{size[1]} but its intrinsics are for "
            f"{intrinsics.width}x{intrinsics.height}",
            "give the intrinsics of the image as it is stored",
        )
    shown = None if mask is None else as_mask(mask, size)
    return Photo(stored, shown, orientation, intrinsics, refine)
