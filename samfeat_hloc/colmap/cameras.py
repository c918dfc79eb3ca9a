"""Camera models and intrinsics as COLMAP has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import SamfeatError
from ..files.textlines import parse_number

if TYPE_CHECKING:
    from .library import pycolmap

# Name: (id in binary files, number of parameters, how many of them, from the first, are focal
# lengths). From COLMAP 4.2; 3.13 knows those up to RAD_TAN_THIN_PRISM_FISHEYE.
CAMERA_MODELS: dict[str, tuple[int, int, int]] = {
    "SIMPLE_PINHOLE": (0, 3, 1),
    "PINHOLE": (1, 4, 2),
    "SIMPLE_RADIAL": (2, 4, 1),
    "RADIAL": (3, 5, 1),
    "OPENCV": (4, 8, 2),
    "OPENCV_FISHEYE": (5, 8, 2),
    "FULL_OPENCV": (6, 12, 2),
    "FOV": (7, 5, 2),
    "SIMPLE_RADIAL_FISHEYE": (8, 4, 1),
    "RADIAL_FISHEYE": (9, 5, 1),
    "THIN_PRISM_FISHEYE": (10, 12, 2),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16, 2),
    "SIMPLE_DIVISION": (12, 4, 1),
    "DIVISION": (13, 5, 2),
    "SIMPLE_FISHEYE": (14, 3, 1),
    "FISHEYE": (15, 4, 2),
    "EUCM": (16, 6, 2),
    "EQUIRECTANGULAR": (17, 2, 0),
}


@dataclass(frozen=True)
class Camera:
    """Intrinsics as COLMAP has them.

    Attributes:
        model: name of a COLMAP camera model.
        width, height: image size in pixels.
        params: the model's parameters; the principal point counts from the corner of the
            top-left pixel, whose centre is (0.5, 0.5).
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @classmethod
    def of(cls, camera: Camera | pycolmap.Camera) -> Camera:
        """A camera of ours, or pycolmap's made ours.

        Raises:
            SamfeatError: neither, or one whose :meth:`fault` is not None.
        """
        if isinstance(camera, cls):
            made = camera
        else:
            theirs: Any = camera
            try:
                made = cls(
                    theirs.model.name,
                    int(theirs.width),
                    int(theirs.height),
                    tuple(float(value) for value in theirs.params),
                )
            except AttributeError:
                raise SamfeatError(
                    "camera",
                    f"a {type(camera).__name__} was given",
                    "give a samfeat_hloc.Camera or a pycolmap.Camera",
                ) from None
        if fault := made.fault():
            raise SamfeatError("camera", *fault)
        return made

    def fault(self) -> tuple[str, str] | None:
        """What no camera of this model can have, and the mend; None where it can."""
        if self.model not in CAMERA_MODELS:
            return _unknown(self.model)
        _, num_params, num_focal = CAMERA_MODELS[self.model]
        if len(self.params) != num_params:
            return (
                f"{len(self.params)} parameters, but {self.model} has {num_params}",
                "write as many as the camera model has",
            )
        if not all(math.isfinite(value) for value in self.params):
            return "a parameter is not a number", "give them in pixels"
        if any(focal <= 0 for focal in self.params[:num_focal]):
            return (
                f"focal length {min(self.params[:num_focal])} is not positive",
                "give the focal length in pixels",
            )
        return None

    def to_pycolmap(self) -> pycolmap.Camera:
        """As a ``pycolmap.Camera``."""
        from .library import pycolmap

        try:
            return pycolmap.Camera(
                model=self.model, width=self.width, height=self.height, params=list(self.params)
            )
        except Exception as error:
            raise SamfeatError(
                f"camera model {self.model}",
                (
                    f"pycolmap {pycolmap.__version__} does not take it "
                    f"({' '.join(str(error).split())})"
                ),
                "install a newer pycolmap",
            ) from None


def _unknown(model: str) -> tuple[str, str]:
    known = ", ".join(f"{name} ({entry[1]})" for name, entry in CAMERA_MODELS.items())
    return (
        f"unknown camera model '{model[:60]}'",
        f"use one of COLMAP's, with that many parameters: {known}",
    )


def parse_camera(tokens: list[str], *, named: bool = True) -> Camera:
    """Intrinsics from ``MODEL width height params...``; ValueError says what is wrong and how
    to mend it.

    Args:
        named: they stand behind an image's name, for what is said.
    """
    form = f"write '{'name ' if named else ''}MODEL width height params...'"
    if len(tokens) < 4:
        after = " after the name" if named else ""
        raise ValueError(f"intrinsics are missing ({len(tokens)} values{after}); {form}")
    model, *numbers = tokens
    if model not in CAMERA_MODELS:
        if any(token in CAMERA_MODELS for token in numbers):
            raise ValueError(
                "too many values before the camera model; names with white space are not "
                "possible in this format, rename the file"
            )
        raise ValueError("; ".join(_unknown(model)))
    size = [int(token) if token.isascii() and token.isdigit() else 0 for token in numbers[:2]]
    if not all(0 < side < 1 << 31 for side in size):
        raise ValueError(
            f"image size '{numbers[0][:40]} {numbers[1][:40]}' is not two positive integers; {form}"
        )
    try:
        params = tuple(parse_number(token) for token in numbers[2:])
    except ValueError as error:
        raise ValueError(f"{error}; {form}") from None
    camera = Camera(model, size[0], size[1], params)
    if fault := camera.fault():
        raise ValueError("; ".join(fault))
    return camera
