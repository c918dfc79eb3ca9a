"""Looking into a COLMAP model without COLMAP: is it whole, and which images does it pose?

COLMAP's readers abort the process or allocate without limit on broken binaries, and read the
whole model (gigabytes for Aachen). Walking the files' own counts is quick, independent of the
version of pycolmap, and ends in an error that names the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samfeat_hloc.colmap.cameras import CAMERA_MODELS

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines, parse_number, read_text
from .poses import Pose

_PARAMS_BY_ID = {number: params for number, params, _ in CAMERA_MODELS.values()}
_FILES = ("cameras", "images", "points3D")


@dataclass(frozen=True)
class ModelContent:
    """What a COLMAP model holds: the poses by image name, sorted by name, and the point count."""

    poses: dict[str, Pose]
    num_points: int


def find_model(folder: Path) -> Path:
    """The model in ``folder/aachen_v_1_1``, ``folder`` itself, or its only sub folder with one.

    Raises:
        SamfeatError: no such folder, no model, an incomplete one, or a choice between several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SamfeatError(
            folder, "no such folder", f"the reference model belongs in {folder / 'aachen_v_1_1'}"
        )
    for candidate in (folder / "aachen_v_1_1", folder):
        if _is_model(candidate):
            return candidate
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_model(path))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise SamfeatError(folder, f"several models ({names})", "rename one to aachen_v_1_1")
    for candidate in (folder / "aachen_v_1_1", folder):
        missing = [name for name in _FILES if not (candidate / f"{name}.bin").is_file()]
        if 0 < len(missing) < len(_FILES):
            files = ", ".join(f"{name}.bin" for name in missing)
            raise SamfeatError(candidate, f"the model lacks {files}", "copy the whole model")
    raise SamfeatError(
        folder,
        ("no COLMAP model (cameras, images and points3D, .bin or .txt) in it or in a folder below"),
        "unpack the reference model to aachen_v_1_1",
    )


def read_model(model: Path) -> ModelContent:
    """Check that a COLMAP model (binary, else text) is whole, and read its images' poses.

    Raises:
        SamfeatError: a file that is cut off, has another length than its counts say or holds
            impossible values; no images; no points; image names that ``check_name`` refuses.
    """
    model = Path(model)
    if all((model / f"{name}.bin").is_file() for name in _FILES):
        cameras = _binary_cameras(model / "cameras.bin")
        listed = _binary_images(model / "images.bin", cameras)
        num_points = _binary_points(model / "points3D.bin")
        _binary_rigs(model / "rigs.bin")
        _binary_frames(model / "frames.bin")
        images_file = model / "images.bin"
    elif _is_model(model):
        cameras = _text_cameras(model / "cameras.txt")
        listed = _text_images(model / "images.txt", cameras)
        num_points = len(data_lines(model / "points3D.txt"))
        images_file = model / "images.txt"
    else:
        raise SamfeatError(model, "no COLMAP model here", "check the path")
    poses = dict(sorted(listed))
    if not listed:
        raise SamfeatError(model, "the model has no images", "take a model with posed images")
    if len(poses) != len(listed):
        raise SamfeatError(images_file, "two images have the same name", "rebuild the model")
    for name in poses:
        try:
            check_name(name)
        except SamfeatError as error:
            raise SamfeatError(images_file, error) from None
    if num_points == 0:
        raise SamfeatError(model, "the model has no points", "triangulate it first")
    return ModelContent(poses, num_points)


def _is_model(folder: Path) -> bool:
    return any(
        all((folder / f"{name}{ext}").is_file() for name in _FILES) for ext in (".bin", ".txt")
    )


class _Cursor:
    """A position in a mapped binary file that cannot run past its end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def count(self, smallest: int) -> int:
        """A 64-bit count of items of at least ``smallest`` bytes that fit into the rest."""
        number = int(self.take("Q")[0])
        self.fits(number, smallest)
        return number

    def fits(self, number: int, size: int) -> None:
        if number * size > len(self.data) - self.at:
            raise ValueError(f"it is cut off or its count of {number} is wrong")

    def skip(self, number: int, size: int) -> None:
        self.fits(number, size)
        self.at += number * size


@contextmanager
def _walk(path: Path) -> Iterator[_Cursor]:
    """A cursor on a file that has to end exactly where the walk ends."""
    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise ValueError("it is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                cursor = _Cursor(data)
                yield cursor
                if cursor.at != len(data):
                    raise ValueError(f"{len(data) - cursor.at} bytes too many at its end")
    except struct.error:
        raise SamfeatError(path, "it is cut off", "copy the model again") from None
    except ValueError as error:
        raise SamfeatError(
            path, f"not a whole COLMAP file ({error})", "copy the model again"
        ) from None
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error.strerror})", "check it") from None


def _binary_cameras(path: Path) -> set[int]:
    cameras = set()
    with _walk(path) as cursor:
        for _ in range(cursor.count(24 + 16)):
            camera, model, width, height = (int(v) for v in cursor.take("IiQQ"))
            if model not in _PARAMS_BY_ID:
                raise ValueError(f"camera {camera} has the unknown model number {model}")
            if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
                raise ValueError(f"camera {camera} has the impossible size {width} x {height}")
            if not np.isfinite(cursor.take(f"{_PARAMS_BY_ID[model]}d")).all():
                raise ValueError(f"camera {camera} has parameters that are not finite")
            cameras.add(camera)
    return cameras


def _binary_images(path: Path, cameras: set[int]) -> list[tuple[str, Pose]]:
    images = []
    with _walk(path) as cursor:
        for _ in range(cursor.count(64 + 1 + 8)):
            image, *values, camera = cursor.take("I7dI")
            end = cursor.data.find(b"\0", cursor.at, cursor.at + 4096)
            if end < 0:
                raise ValueError(f"the name of image {image} has no end")
            name = cursor.data[cursor.at : end].decode("utf-8")
            cursor.at = end + 1
            images.append(_checked_image(name, values, int(camera), cameras))
            cursor.skip(cursor.count(24), 24)
    return images


def _binary_points(path: Path) -> int:
    with _walk(path) as cursor:
        number = cursor.count(43 + 8)
        track_length, data, at = struct.Struct("<Q").unpack_from, cursor.data, cursor.at
        for _ in range(number):  # Millions: no calls but this one.
            at += 43 + 8 + 8 * track_length(data, at + 43)[0]
            if at > len(data):
                raise ValueError("it is cut off")
        cursor.at = at
    return number


def _binary_rigs(path: Path) -> None:
    if not path.is_file():
        return
    with _walk(path) as cursor:
        for _ in range(cursor.count(8)):
            _, num_sensors = cursor.take("II")
            cursor.skip(1 if num_sensors else 0, 8)
            for _ in range(int(num_sensors) - 1):
                has_pose = cursor.take("iIB")[2]
                cursor.skip(1 if has_pose else 0, 56)


def _binary_frames(path: Path) -> None:
    if not path.is_file():
        return
    with _walk(path) as cursor:
        for _ in range(cursor.count(68)):
            cursor.skip(1, 64)
            cursor.skip(int(cursor.take("I")[0]), 16)


def _text_cameras(path: Path) -> set[int]:
    cameras = set()
    for number, tokens in data_lines(path):
        try:
            camera, (width, height) = int(tokens[0]), (int(t) for t in tokens[2:4])
            params = [parse_number(token) for token in tokens[4:]]
            if width <= 0 or height <= 0 or len(params) != CAMERA_MODELS[tokens[1]][1]:
                raise ValueError
        except (ValueError, KeyError, IndexError):
            raise SamfeatError(
                f"{path}:{number}", "not a camera", "write 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS'"
            ) from None
        cameras.add(camera)
    return cameras


def _text_images(path: Path, cameras: set[int]) -> list[tuple[str, Pose]]:
    lines = read_text(path).removeprefix("\ufeff").split("\n")
    numbered = [(i, line.strip()) for i, line in enumerate(lines, 1) if not line.startswith("#")]
    while numbered and not numbered[0][1]:
        numbered.pop(0)
    images = []
    # Every second line holds the observations, and is empty for an image without any.
    for number, line in numbered[::2]:
        tokens = line.split()
        if not tokens and not any(rest for at, rest in numbered if at > number):
            break
        try:
            if len(tokens) != 10:
                raise ValueError(f"{len(tokens)} values where 10 are needed")
            values = [parse_number(token) for token in tokens[1:8]]
            images.append(_checked_image(tokens[9], values, int(tokens[8]), cameras))
        except ValueError as error:
            raise SamfeatError(
                f"{path}:{number}", error, "write 'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME'"
            ) from None
    return images


def _checked_image(
    name: str, values: list[float], camera: int, cameras: set[int]
) -> tuple[str, Pose]:
    """``(name, pose)``; ValueError when they make no sense."""
    pose = Pose(np.array(values[:4]), np.array(values[4:]))
    norm = float(np.linalg.norm(pose.qvec))
    if not np.isfinite(values).all() or abs(norm - 1) > 1e-2:
        raise ValueError(f"image '{name[:120]}' has no valid pose")
    if camera not in cameras:
        raise ValueError(f"image '{name[:120]}' has camera {camera}, which is not in the model")
    return name, Pose(pose.qvec / norm, pose.tvec)
