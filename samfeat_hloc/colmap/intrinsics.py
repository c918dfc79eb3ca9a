"""Intrinsics of a single photo: as somebody writes them, or from its EXIF."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import SamfeatError, in_one_line
from ..files.images import image_size
from .cameras import Camera, parse_camera
from .library import pycolmap
from .readable import readable

_GUESS = 1.2  # COLMAP's own
_MEND = "give its camera (`samfeat localize --camera`, or a list for `samfeat map add --queries`)"


def camera_from_text(text: str) -> Camera:
    """Intrinsics written as COLMAP does, ``MODEL width height params...``.

    Raises:
        SamfeatError: they are not.
    """
    try:
        return parse_camera(text.split(), named=False)
    except ValueError as error:
        raise SamfeatError(f"--camera '{text[:80]}'", error) from None


def camera_from_exif(path: Path) -> Camera:
    """Intrinsics of a photo (as it is stored) from the focal length in its EXIF, by COLMAP.

    The focal length is that of 35 mm film, or in millimetres with a sensor that COLMAP knows; the
    principal point is the centre, and there is no distortion (SIMPLE_RADIAL with 0).

    Raises:
        SamfeatError: not a photo, or no focal length in it.
    """
    camera = _inferred(path)
    if not camera.has_prior_focal_length:
        raise SamfeatError(path, "no focal length in its EXIF", _MEND)
    return Camera.of(camera)


def rough_camera(path: Path) -> Camera:
    """As :func:`camera_from_exif`; where there is no focal length in it, as :func:`guessed_camera`.

    Raises:
        SamfeatError: not a photo.
    """
    camera = _inferred(path)
    if camera.has_prior_focal_length:
        return Camera.of(camera)
    return guessed_camera(camera.width, camera.height)


def guessed_camera(width: int, height: int) -> Camera:
    """Intrinsics of a photo of which only the size is known: a focal length of 1.2 times its longer
    side, to begin with, the principal point in the centre, no distortion."""
    focal = _GUESS * max(width, height)
    return Camera("SIMPLE_RADIAL", width, height, (focal, width / 2, height / 2, 0.0))


def _inferred(path: Path) -> pycolmap.Camera:
    image_size(path)  # a file that is no photo is told in our words
    try:
        with (  # it may be of a format that COLMAP does not read
            tempfile.TemporaryDirectory() as work,
            readable(path.parent, [path.name], Path(work)) as photos,
        ):
            return pycolmap.infer_camera_from_image(str(photos / path.name))
    except SamfeatError:
        raise
    except Exception as error:  # pycolmap raises whatever its C++ does
        raise SamfeatError(path, f"COLMAP cannot read it ({in_one_line(error)})", _MEND) from None
