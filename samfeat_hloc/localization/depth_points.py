"""A map whose points lie where depth maps of its images say: triangulation of indoor photos is
noisy, and 7Scenes comes with rendered depth.

Each image that sees a point where it has a depth gives a place for it; the point moves to their
median. Points without any are dropped.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..colmap.model import open_in_pycolmap
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..files import provenance
from ..files.outputs import Output
from ..progress import tqdm

logger = logging.getLogger(__name__)

_NO_DEPTH = (0, 65535)  # as Kinect and the rendered maps write it
_MILLIMETRES = 1000.0


def main(
    map_dir: Path, depth_of: Callable[[str], Path], output: Path, *, overwrite: bool = False
) -> Path:
    """Move the points of a map onto the depth maps of its images.

    Args:
        map_dir: the map, a binary COLMAP model in metres.
        depth_of: the depth map of an image: 16 bits, millimetres along the optical axis, of the
            image's size; 0 and 65535 are no depth.
        output: folder of the new map; written beside it first and then renamed.

    Returns:
        `output`.

    Raises:
        SamfeatError: a depth map is missing, no image, or of another size than the image; no
            point has a depth; `output` was created with other settings.
    """
    model = open_in_pycolmap(map_dir)
    images = {image.name: image for image in model.images.values() if image.has_pose}
    files = {name: depth_of(name) for name in images}
    for name, path in files.items():
        if not path.is_file():
            raise SamfeatError(path, f"no such depth map, of {name}", "unpack them all")
    made_by = provenance.made_by(
        "depth",
        {},
        {
            "map": provenance.file_hash(map_dir / "points3D.bin"),
            "depth": provenance.names_hash(f"{n} {p.stat().st_size}" for n, p in files.items()),
        },
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    places: dict[int, list[np.ndarray]] = defaultdict(list)
    for name, image in tqdm(images.items(), desc="depth", unit="image", delay=2):
        camera = model.cameras[image.camera_id]
        depth = read_depth(files[name])
        if depth.shape != (camera.height, camera.width):
            raise SamfeatError(
                files[name],
                f"it is {depth.shape[1]}x{depth.shape[0]} and {name} {camera.width}x"
                f"{camera.height}",
                "take the depth maps of these photos",
            )
        observed = [point.point3D_id for point in image.points2D if point.has_point3D()]
        if not observed:
            continue
        pose = Pose.from_rigid3d(image.cam_from_world())
        xyz = np.array([model.points3D[point].xyz for point in observed])
        in_camera = xyz @ pose.rotation.T + pose.tvec
        pixels = np.full((len(xyz), 2), np.nan)
        front = in_camera[:, 2] > 0
        if front.any():
            pixels[front] = np.asarray(camera.img_from_cam(in_camera[front]))
        found = at_pixels(depth, pixels - 0.5)
        there = np.isfinite(found)
        moved = np.full((len(xyz), 3), np.nan)
        if there.any():
            rays = np.asarray(camera.cam_from_img(pixels[there])).reshape(-1, 2)
            rays = np.column_stack([rays, np.ones(len(rays))])
            moved[there] = (rays * found[there, None] - pose.tvec) @ pose.rotation
        for point, place, has in zip(observed, moved, there, strict=True):
            if has:
                places[point].append(place)
    for point in list(model.points3D):
        if point in places:
            model.points3D[point].xyz = np.median(places[point], axis=0)
        else:
            model.delete_point3D(point)
    if not len(model.points3D):
        raise SamfeatError(
            map_dir, "no point has a depth", "check that the depth maps are of these photos"
        )
    logger.info("map: %d points on the depth maps", len(model.points3D))
    with result.making() as work:
        folder = work / "model"
        folder.mkdir()
        model.write_binary(str(folder))
        return result.put(folder)


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float64 metres, NaN where there is no depth.

    Raises:
        SamfeatError: not an image of one channel.
    """
    try:
        with Image.open(path) as image:
            raw = np.array(image)
    except (OSError, ValueError) as error:
        raise SamfeatError(path, f"cannot be read ({error})", "unpack it again") from None
    if raw.ndim != 2:
        raise SamfeatError(path, "not a depth map: it has several channels", "check the path")
    return np.where(np.isin(raw, _NO_DEPTH), np.nan, raw.astype(np.float64) / _MILLIMETRES)


def at_pixels(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values between pixels, bilinear; those of the nearest pixel where a neighbour has none.

    Args:
        values: (H, W) or (H, W, C), NaN where there is none.
        pixels: (N, 2) xy, the centre of the top-left pixel is (0, 0).

    Returns:
        (N,) or (N, C); NaN outside, and where the nearest pixel has none.
    """
    height, width = values.shape[:2]
    found = np.full((len(pixels), *values.shape[2:]), np.nan)
    inside = np.isfinite(pixels).all(axis=1)
    inside[inside] = ((pixels[inside] >= 0) & (pixels[inside] <= [width - 1, height - 1])).all(1)
    x, y = pixels[inside].T
    left = np.clip(np.floor(x).astype(int), 0, max(width - 2, 0))
    top = np.clip(np.floor(y).astype(int), 0, max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    shape = (-1, *[1] * (values.ndim - 2))
    u, v = (x - left).reshape(shape), (y - top).reshape(shape)
    mixed = (values[top, left] * (1 - u) + values[top, right] * u) * (1 - v) + (
        values[bottom, left] * (1 - u) + values[bottom, right] * u
    ) * v
    nearest = values[np.rint(y).astype(int), np.rint(x).astype(int)]
    found[inside] = np.where(np.isnan(mixed), nearest, mixed)
    return found
