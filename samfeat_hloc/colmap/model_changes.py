"""COLMAP models made from others: fewer images, other names, other cameras; and written as binary.

Only what covisibility and triangulation read is kept: cameras, poses, and which points an image
sees. The pixels of the observations are not (they are those of another feature), and are written
as 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import SamfeatError, writing
from .cameras import CAMERA_MODELS, Camera
from .model import Model, ModelImage
from .model_parts import OBSERVATION, POINT

_TRACK = np.dtype([("image_id", "<u4"), ("keypoint", "<u4")])
_POINTS_AT_A_TIME = 1 << 16


def assemble(
    images: Iterable[tuple[str, Camera, ModelImage]],
    xyz: np.ndarray,
    colors: np.ndarray,
    errors: np.ndarray,
) -> Model:
    """A model of images that share a camera where their intrinsics are the same.

    Args:
        images: name, intrinsics, and an image whose `points` are rows of `xyz`; ids are given
            anew, from 1 and in this order.
        xyz, colors, errors: (P, 3), (P, 3), (P,) of the points; one that no image sees is left
            out.
    """
    camera_ids: dict[Camera, int] = {}
    found: dict[str, ModelImage] = {}
    counts = np.zeros(len(xyz), dtype=np.int64)
    for number, (name, camera, image) in enumerate(images, start=1):
        camera_id = camera_ids.setdefault(camera, len(camera_ids) + 1)
        found[name] = replace(image, image_id=number, camera_id=camera_id, name=name)
        counts += np.bincount(image.points[image.points >= 0], minlength=len(xyz))
    seen = counts > 0
    row = np.full(len(xyz) + 1, -1, dtype=np.int32)  # the last for the -1 of no point
    row[:-1][seen] = np.arange(seen.sum())
    return Model(
        images={name: replace(image, points=row[image.points]) for name, image in found.items()},
        point_ids=np.arange(1, seen.sum() + 1),
        xyz=xyz[seen],
        colors=colors[seen],
        errors=errors[seen],
        track_lengths=counts[seen],
        cameras={number: camera for camera, number in camera_ids.items()},
    )


def changed(
    model: Model,
    *,
    keep: Callable[[str], bool] | None = None,
    rename: Callable[[str], str] | None = None,
    camera: Callable[[str, Camera], Camera] | None = None,
) -> Model:
    """The model with some of its images, under other names, with other cameras.

    Args:
        keep: says of a name whether its image stays.
        rename: the new name of an image.
        camera: the new intrinsics of an image, from its (old) name and intrinsics.
    """
    images = (
        (
            rename(name) if rename else name,
            camera(name, model.camera_of(name)) if camera else model.camera_of(name),
            image,
        )
        for name, image in model.images.items()
        if keep is None or keep(name)
    )
    return assemble(images, model.xyz, model.colors, model.errors)


def scaled(camera: Camera, width: int, height: int) -> Camera:
    """The intrinsics of the same photo at another size.

    Raises:
        SamfeatError: the sizes differ in shape by more than rounding.
    """
    if (camera.width, camera.height) == (width, height):
        return camera
    x, y = width / camera.width, height / camera.height
    if abs(camera.height * x - height) > 1 and abs(camera.width * y - width) > 1:
        raise SamfeatError(
            f"a photo of {width}x{height}",
            f"its camera is of another shape, {camera.width}x{camera.height}",
            "use the photos that the model was made from",
        )
    focal = CAMERA_MODELS[camera.model][2]
    factors = [x, y][:focal] + [x, y] + [1.0] * (len(camera.params) - focal - 2)
    params = tuple(value * factor for value, factor in zip(camera.params, factors, strict=True))
    return Camera(camera.model, width, height, params)


def write_model(model: Model, folder: Path) -> Path:
    """Write cameras.bin, points3D.bin and images.bin into a folder in which a model is made.

    Raises:
        SamfeatError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cameras = [struct.pack("<Q", len(model.cameras))]
    for camera_id, camera in model.cameras.items():
        number = CAMERA_MODELS[camera.model][0]
        cameras.append(
            struct.pack("<IiQQ", camera_id, number, camera.width, camera.height)
            + np.array(camera.params, dtype="<f8").tobytes()
        )
    images = list(model.images.values())
    with writing(folder / "cameras.bin"):
        (folder / "cameras.bin").write_bytes(b"".join(cameras))
    with writing(folder / "points3D.bin"), (folder / "points3D.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(model.point_ids)))
        tracks, ends = _tracks(images, len(model.point_ids))
        for start in range(0, len(ends), _POINTS_AT_A_TIME):
            stop = min(start + _POINTS_AT_A_TIME, len(ends))
            stream.write(_points(model, tracks, ends, start, stop))
    with writing(folder / "images.bin"), (folder / "images.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(images)))
        for image in images:
            stream.write(_image(image, model.point_ids))
    return folder


def _image(image: ModelImage, point_ids: np.ndarray) -> bytes:
    observed = np.zeros(len(image.points), dtype=OBSERVATION)
    observed["point3D_id"] = -1
    seen = image.points >= 0
    observed["point3D_id"][seen] = point_ids[image.points[seen]]
    head = struct.pack("<I7dI", image.image_id, *image.pose.qvec, *image.pose.tvec, image.camera_id)
    name = image.name.encode() + b"\0"
    return head + name + struct.pack("<Q", len(observed)) + observed.tobytes()


def _tracks(images: list[ModelImage], num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """All observations in the order of the points, and where those of each point end."""
    rows = [np.flatnonzero(image.points >= 0) for image in images]
    points = [image.points[at] for image, at in zip(images, rows, strict=True)]
    every = np.concatenate([*points, np.zeros(0, np.int32)]).astype(np.int64)
    tracks = np.zeros(len(every), dtype=_TRACK)
    tracks["image_id"] = np.repeat(
        np.array([image.image_id for image in images], dtype=np.uint32), [len(at) for at in rows]
    )
    tracks["keypoint"] = np.concatenate([*rows, np.zeros(0, np.int64)])
    tracks = tracks[np.argsort(every, kind="stable")]
    return tracks, np.cumsum(np.bincount(every, minlength=num_points))


def _points(model: Model, tracks: np.ndarray, ends: np.ndarray, start: int, stop: int) -> bytes:
    """The records of some points, each with its track behind it."""
    first = int(ends[start - 1]) if start else 0
    lengths = np.diff(ends[start:stop], prepend=first)
    heads = np.zeros(stop - start, dtype=POINT)
    heads["id"], heads["xyz"] = model.point_ids[start:stop], model.xyz[start:stop]
    heads["rgb"], heads["error"] = model.colors[start:stop], model.errors[start:stop]
    heads["track"] = lengths
    data = np.empty(heads.nbytes + int(lengths.sum()) * _TRACK.itemsize, dtype=np.uint8)
    before = np.cumsum(lengths) - lengths  # observations before each point
    at = np.arange(len(heads)) * POINT.itemsize + before * _TRACK.itemsize
    data[at[:, None] + np.arange(POINT.itemsize)] = heads.view(np.uint8).reshape(len(heads), -1)
    number = np.arange(int(lengths.sum()))
    point = np.repeat(np.arange(len(heads)), lengths)
    at = (point + 1) * POINT.itemsize + number * _TRACK.itemsize
    part = tracks[first : int(ends[stop - 1])]
    data[at[:, None] + np.arange(_TRACK.itemsize)] = part.view(np.uint8).reshape(len(part), -1)
    return data.tobytes()
