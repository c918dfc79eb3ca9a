"""COLMAP's rig_config.json: which photos were taken together, and how the cameras stand.

::

    [{"cameras": [
        {"image_prefix": "left/", "ref_sensor": true},
        {"image_prefix": "right/",
         "cam_from_rig_rotation": [1, 0, 0, 0], "cam_from_rig_translation": [-0.5, 0, 0],
         "camera_model_name": "PINHOLE", "camera_params": [910, 910, 640, 360]}]}]

Photos of one name behind the prefixes are a frame: ``left/0001.jpg`` and ``right/0001.jpg``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..files.textlines import read_text
from .cameras import CAMERA_MODELS, Camera
from .poses import NORM_TOLERANCE, Pose

_MEND = "write it as COLMAP's documentation of rigs has it"


@dataclass(frozen=True, eq=False)
class RigCamera:
    """A camera of a rig.

    prefix: what the names of its photos begin with.
    cam_from_rig: its pose in the rig; the reference camera's is the rig's own.
    model, params: its intrinsics, None and empty where the file does not have them.
    """

    prefix: str
    cam_from_rig: Pose
    model: str | None
    params: tuple[float, ...]

    def intrinsics(self, width: int, height: int) -> Camera | None:
        """Of a photo of this size; None where the file does not have them."""
        return None if self.model is None else Camera(self.model, width, height, self.params)


@dataclass(frozen=True, eq=False)
class Frame:
    """Photos that were taken at once. name: what is behind their prefixes; photos: by camera."""

    name: str
    photos: list[tuple[RigCamera, str]]


def read_rig_config(path: Path) -> list[list[RigCamera]]:
    """The cameras of each rig.

    Raises:
        SamfeatError: no such file, or not such a configuration; the camera that is wrong is named.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise SamfeatError(path, f"not JSON ({error})", _MEND) from None
    if not isinstance(content, list) or not content:
        raise SamfeatError(path, "not a list of rigs", _MEND)
    rigs = [_rig(entry, f"{path}: rig {number}") for number, entry in enumerate(content, start=1)]
    prefixes = [camera.prefix for rig in rigs for camera in rig]
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise SamfeatError(path, f"image_prefix {prefix!r} is there twice", _MEND)
    return rigs


def frames_of(
    rigs: Sequence[Sequence[RigCamera]], names: Iterable[str]
) -> tuple[list[Frame], list[str]]:
    """The frames of photos, in the order of their names, and the photos that no prefix is of."""
    cameras = {
        camera.prefix: (rig, number, camera)
        for rig, of_rig in enumerate(rigs)
        for number, camera in enumerate(of_rig)
    }
    longest_first = sorted(cameras, key=len, reverse=True)
    found: dict[tuple[int, str], list[tuple[int, RigCamera, str]]] = {}
    others = []
    for name in names:
        prefix = next((prefix for prefix in longest_first if name.startswith(prefix)), None)
        if prefix is None:
            others.append(name)
            continue
        rig, number, camera = cameras[prefix]
        found.setdefault((rig, name[len(prefix) :]), []).append((number, camera, name))
    frames = [
        Frame(name, [(camera, photo) for _, camera, photo in sorted(of_frame, key=lambda p: p[0])])
        for (_, name), of_frame in sorted(found.items())
    ]
    return frames, others


def _rig(entry: Any, where: str) -> list[RigCamera]:
    listed = entry.get("cameras") if isinstance(entry, dict) else None
    if not isinstance(listed, list) or not listed:
        raise SamfeatError(where, "no list of cameras in it", _MEND)
    references = [c for c in listed if isinstance(c, dict) and c.get("ref_sensor") is True]
    if len(references) != 1:
        raise SamfeatError(
            where, f"{len(references)} cameras have ref_sensor", "give it to one of them"
        )
    return [_camera(camera, where) for camera in listed]


def _camera(entry: Any, where: str) -> RigCamera:
    prefix = entry.get("image_prefix") if isinstance(entry, dict) else None
    if not isinstance(prefix, str):
        raise SamfeatError(where, "a camera has no image_prefix", _MEND)
    where = f"{where}, camera {prefix!r}"
    pose = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3))
    rotation = entry.get("cam_from_rig_rotation")
    translation = entry.get("cam_from_rig_translation")
    if entry.get("ref_sensor") is True:
        if rotation is not None or translation is not None:
            raise SamfeatError(where, "a reference with a cam_from_rig", "leave it out")
    elif rotation is None or translation is None:
        raise SamfeatError(
            where,
            "no cam_from_rig_rotation and cam_from_rig_translation",
            "calibrate the rig first (COLMAP's rig_configurator writes them)",
        )
    else:
        qvec = _numbers(rotation, 4, f"{where}: cam_from_rig_rotation")
        if abs(np.linalg.norm(qvec) - 1) > NORM_TOLERANCE:
            raise SamfeatError(
                f"{where}: cam_from_rig_rotation", "not of unit length", "write w, x, y, z"
            )
        tvec = _numbers(translation, 3, f"{where}: cam_from_rig_translation")
        pose = Pose(qvec / np.linalg.norm(qvec), tvec)
    return RigCamera(prefix, pose, *_intrinsics(entry, where))


def _intrinsics(entry: Mapping[str, Any], where: str) -> tuple[str | None, tuple[float, ...]]:
    model = entry.get("camera_model_name")
    if model is None:
        return None, ()
    if model not in CAMERA_MODELS:
        known = ", ".join(CAMERA_MODELS)
        raise SamfeatError(f"{where}: camera_model_name", f"{model!r} is unknown", f"use {known}")
    _, count, focals = CAMERA_MODELS[model]
    params = _numbers(entry.get("camera_params"), count, f"{where}: camera_params")
    if (params[:focals] <= 0).any():
        raise SamfeatError(f"{where}: camera_params", "the focal length is not positive", _MEND)
    return model, tuple(params.tolist())


def _numbers(values: Any, count: int, where: str) -> np.ndarray:
    ok = isinstance(values, list) and len(values) == count
    if not ok or not all(type(v) in (int, float) and np.isfinite(v) for v in values):
        raise SamfeatError(where, f"not {count} numbers", _MEND)
    return np.array(values, dtype=np.float64)
