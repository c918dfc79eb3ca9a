"""A saved map for other programs: a COLMAP model, a PLY point cloud, nerfstudio's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap.cameras import Camera
from ..colmap.library import pycolmap
from ..colmap.registration import ImageEntry, empty_model
from ..errors import SamfeatError
from ..files.atomic import write_atomically
from .saved_map import FrozenMap

KINDS = ("colmap", "ply", "nerfstudio")

# COLMAP's camera models in nerfstudio's words: its name and the names of the parameters.
_NERFSTUDIO: dict[str, tuple[str, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": ("OPENCV", ("f", "cx", "cy")),
    "PINHOLE": ("OPENCV", ("fl_x", "fl_y", "cx", "cy")),
    "SIMPLE_RADIAL": ("OPENCV", ("f", "cx", "cy", "k1")),
    "RADIAL": ("OPENCV", ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": ("OPENCV", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("f", "cx", "cy", "k1")),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("f", "cx", "cy", "k1", "k2")),
}


def export(saved: FrozenMap, kind: str, output: Path) -> Path:
    """Write a map for another program.

    Arguments:
        kind: "colmap" writes a model (binary) into the folder ``output``; "ply" the points, and
            the camera centres in red, into the file ``output``; "nerfstudio" the file
            ``output``, whose image paths count from ``images/`` beside it.

    Returns:
        ``output``.

    Raises:
        SamfeatError: an unknown kind, something at ``output`` already, or intrinsics that the
            other program has no words for.
    """
    if kind not in KINDS:
        raise SamfeatError(f"--to {kind}", "unknown", f"choose from {', '.join(KINDS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SamfeatError(output, "exists already", "give another name")
    if kind == "colmap":
        model = to_colmap(saved)
        output.mkdir(parents=True, exist_ok=True)
        model.write_binary(str(output))
        return output
    if kind == "ply":
        return write_atomically(output, to_ply(saved))
    return write_atomically(output, json.dumps(to_nerfstudio(saved), indent=1) + "\n")


def to_colmap(saved: FrozenMap) -> pycolmap.Reconstruction:
    """The map as a COLMAP model: cameras, poses, all keypoints, and the points with their tracks.

    Point ids are the map's, but with pycolmap 3.13, which counts them from 1. Images with equal
    intrinsics share a camera.
    """
    ids: dict[Camera, int] = {}
    entries, poses = {}, {}
    for number, image in enumerate(saved.images, start=1):
        camera_id = ids.setdefault(image.camera, len(ids) + 1)
        entries[image.name] = ImageEntry(number, camera_id, image.camera)
        poses[image.name] = image.pose
    model = empty_model(entries, poses)
    tracks: list[list[tuple[int, int]]] = [[] for _ in saved.xyz]
    for image in saved.images:
        image_id = entries[image.name].image_id
        model.images[image_id].points2D = pycolmap.Point2DList(
            [pycolmap.Point2D(xy) for xy in image.keypoints.astype(np.float64)]
        )
        for keypoint in np.flatnonzero(image.points >= 0):
            tracks[image.points[keypoint]].append((image_id, int(keypoint)))
    for point_id, xyz, track in zip(saved.point_ids, saved.xyz, tracks, strict=True):
        seen = pycolmap.Track([pycolmap.TrackElement(*element) for element in track])
        if hasattr(model, "add_point3D_with_id"):
            model.add_point3D_with_id(int(point_id), pycolmap.Point3D(xyz=xyz, track=seen))
        else:
            model.add_point3D(xyz, seen)
    model.update_point_3d_errors()
    return model


def to_ply(saved: FrozenMap) -> str:
    """The points (grey) and the camera centres (red) as an ASCII PLY point cloud."""
    centres = np.array([image.pose.centre for image in saved.images]).reshape(-1, 3)
    header = [
        "ply", "format ascii 1.0", f"element vertex {len(saved.xyz) + len(centres)}",
        *(f"property double {axis}" for axis in "xyz"),
        *(f"property uchar {color}" for color in ("red", "green", "blue")), "end_header",
    ]  # fmt: skip
    # Of a georeferenced map the first seven digits are the country's.
    lines = [f"{x:.12g} {y:.12g} {z:.12g} 160 160 160" for x, y, z in saved.xyz]
    lines += [f"{x:.12g} {y:.12g} {z:.12g} 220 40 40" for x, y, z in centres]
    return "\n".join([*header, *lines]) + "\n"


def to_nerfstudio(saved: FrozenMap) -> dict[str, Any]:
    """The cameras as nerfstudio's transforms.json has them.

    ``transform_matrix`` is camera to world with OpenGL's axes (x right, y up, z backwards); the
    world is the map's.

    Raises:
        SamfeatError: a camera model that nerfstudio does not know.
    """
    frames = []
    for image in saved.images:
        camera_to_world = np.eye(4)
        camera_to_world[:3, :3] = image.pose.rotation.T * np.array([1.0, -1.0, -1.0])
        camera_to_world[:3, 3] = image.pose.centre
        frames.append(
            {
                "file_path": f"images/{image.name}",
                **_intrinsics(image.camera),
                "transform_matrix": camera_to_world.tolist(),
            }
        )
    return {"frames": frames}


def _intrinsics(camera: Camera) -> dict[str, Any]:
    if camera.model not in _NERFSTUDIO:
        raise SamfeatError(
            "--to nerfstudio",
            f"it has no camera like {camera.model}",
            f"undistort the photos, or use one of {', '.join(_NERFSTUDIO)}",
        )
    model, names = _NERFSTUDIO[camera.model]
    values = dict(zip(names, camera.params, strict=True))
    if "f" in values:
        values["fl_x"] = values["fl_y"] = values.pop("f")
    return {"camera_model": model, "w": camera.width, "h": camera.height, **values}
