"""Cameras whose intrinsics are known, as COLMAP takes them: all of them, however odd they look.

COLMAP drops the images of cameras that it finds implausible: extreme focal lengths, distortion
parameters above 1, a principal point outside of the image. Calibrated cameras may have all three:
rational models have large terms, and a crop keeps the principal point of the whole. The bounds of
the first two can be raised. For the third, the image is moved: its keypoints and its principal
point by the same pixels, which changes no ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .library import pycolmap

_ANY = 1e12
_BOUNDS = {
    "min_focal_length_ratio": 1 / _ANY,
    "max_focal_length_ratio": _ANY,
    "max_extra_param": _ANY,
}

Shifts = Mapping[int, np.ndarray]


def take_as_given(*options: Any) -> None:
    """Set COLMAP's bounds on cameras, wherever these options have any, so that none is dropped."""
    for part in options:
        for name, value in _BOUNDS.items():
            if hasattr(part, name):
                setattr(part, name, value)


def shifts(model: pycolmap.Reconstruction) -> Shifts:
    """By camera id how far, (2,) pixels, an image has to be moved to hold its principal point.

    Cameras whose images hold theirs are not in it.
    """
    found = {}
    for camera_id, camera in model.cameras.items():
        size = np.array([camera.width, camera.height], dtype=float)
        point = np.array([camera.principal_point_x, camera.principal_point_y])
        if (point < 0).any() or (point > size).any():
            found[camera_id] = size / 2 - point
    return found


@contextmanager
def shifted(model: pycolmap.Reconstruction, by: Shifts) -> Iterator[None]:
    """Move the principal points of a model's cameras within the block."""
    before = {camera_id: model.cameras[camera_id].params.copy() for camera_id in by}
    for camera_id, shift in by.items():
        camera = model.cameras[camera_id]
        camera.principal_point_x += shift[0]
        camera.principal_point_y += shift[1]
    try:
        yield
    finally:
        for camera_id, params in before.items():
            model.cameras[camera_id].params = params


def put_back(folder: Path, by: Shifts, given: pycolmap.Reconstruction, photos: Path | None) -> None:
    """Move the images of a model that was made with moved ones back.

    Arguments:
        folder: of the model, which is written anew.
        given: has the cameras as they are.
        photos: to colour the points by, which were coloured at the wrong places; None for no
            colours.
    """
    model = pycolmap.Reconstruction(str(folder))
    for camera_id in by:
        model.cameras[camera_id].params = given.cameras[camera_id].params
    for image in model.images.values():
        if image.camera_id in by:
            for keypoint in image.points2D:
                keypoint.xy = keypoint.xy - by[image.camera_id]
    if photos is not None:
        model.extract_colors_for_all_images(str(photos))
    model.write_binary(str(folder))
