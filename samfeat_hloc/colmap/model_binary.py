"""The binary files of a COLMAP model, walked by their own counts.

COLMAP's readers abort the process, loop forever or allocate without limit on broken files. Here
every count is checked against what is left of the file, which has to end where the walk ends.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import SamfeatError
from .cameras import CAMERA_MODELS, Camera
from .model_parts import OBSERVATION, POINT, FrameRecord, ImageRecord, RigRecord, unit_pose
from .poses import Pose

_MODELS = {number: (name, params) for name, (number, params, _) in CAMERA_MODELS.items()}
_TRACK_AT = POINT.itemsize - 8  # of the track's length, within a point
_CAMERA_SENSOR = 0  # the other kind is an inertial unit


class _Cursor:
    """A position in a mapped file that cannot run past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def count(self, smallest: int) -> int:
        """A 64-bit count of items of at least ``smallest`` bytes that fit into the rest."""
        number = int(self.take("Q")[0])
        if number * smallest > len(self.data) - self.at:
            raise ValueError(f"it is cut off or its count of {number} is wrong")
        return number

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + 4096)
        if end < 0:
            raise ValueError("a name in it has no end")
        name = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return name


@contextmanager
def _walk(path: Path) -> Iterator[_Cursor]:
    """A cursor on a file that has to end exactly where the walk ends."""
    mend = "copy the model again, or make the map again"
    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise ValueError("it is empty")
            # Not closed here: an array that an error keeps alive may still look at it.
            cursor = _Cursor(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
            yield cursor
            if cursor.at != len(cursor.data):
                raise ValueError(f"{len(cursor.data) - cursor.at} bytes too many at its end")
    except struct.error:
        raise SamfeatError(path, "damaged or not a COLMAP file (it is cut off)", mend) from None
    except ValueError as error:
        raise SamfeatError(path, f"damaged or not a COLMAP file ({error})", mend) from None
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error.strerror})", "check the file") from None


def cameras(path: Path) -> dict[int, Camera]:
    """Intrinsics by camera id."""
    found = {}
    with _walk(path) as cursor:
        for _ in range(cursor.count(24 + 16)):
            camera, number, width, height = cursor.take("IiQQ")
            if number not in _MODELS:
                raise ValueError(f"camera {camera} has the unknown model number {number}")
            if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
                raise ValueError(f"camera {camera} has the impossible size {width} x {height}")
            name, num_params = _MODELS[number]
            params = cursor.take(f"{num_params}d")
            if not np.isfinite(params).all():
                raise ValueError(f"camera {camera} has parameters that are not finite")
            found[camera] = Camera(name, width, height, params)
    return found


def images(path: Path, observations: bool) -> list[ImageRecord]:
    """All images, with the points they see where ``observations`` are asked for."""
    found = []
    with _walk(path) as cursor:
        for _ in range(cursor.count(64 + 1 + 8)):
            image_id, *pose, camera_id = cursor.take("I7dI")
            name = cursor.name()
            size = cursor.count(OBSERVATION.itemsize)
            observed = None
            if observations:
                entries = np.frombuffer(cursor.data, OBSERVATION, size, cursor.at)
                observed = entries["point3D_id"].copy()
            cursor.at += size * OBSERVATION.itemsize
            where = f"image '{name[:120]}'"
            found.append(ImageRecord(image_id, camera_id, name, unit_pose(where, pose), observed))
    return found


def points(path: Path) -> np.ndarray:
    """All points, (P,) of `POINT`, in the order of the file."""
    with _walk(path) as cursor:
        # The records differ in length, as their tracks do, so their places have to be walked ...
        starts = np.array(_point_starts(cursor), dtype=np.int64)
        # ... and the heads are then taken out in one go.
        heads = np.empty((len(starts), POINT.itemsize), dtype=np.uint8)
        raw = np.frombuffer(cursor.data, dtype=np.uint8)
        for column in range(POINT.itemsize):
            heads[:, column] = raw[starts + column]
        found = heads.reshape(-1).view(POINT)
        if not np.isfinite(found["xyz"]).all():
            raise ValueError("the place of a point is not finite")
    return found


def num_points(path: Path) -> int:
    """How many points there are; the file is walked to its end."""
    with _walk(path) as cursor:
        return len(_point_starts(cursor))


def _point_starts(cursor: _Cursor) -> list[int]:
    """Where each point begins; the cursor is moved past all of them."""
    number = cursor.count(POINT.itemsize)
    track_length, data, at = struct.Struct("<Q").unpack_from, cursor.data, cursor.at
    starts: list[int] = []
    append = starts.append
    for _ in range(number):  # Millions: no calls but these two.
        append(at)
        at += POINT.itemsize + 8 * track_length(data, at + _TRACK_AT)[0]
        if at > len(data):
            raise ValueError("it is cut off")
    cursor.at = at
    return starts


def rigs(path: Path) -> dict[int, RigRecord]:
    """All rigs by id."""
    found = {}
    with _walk(path) as cursor:
        for _ in range(cursor.count(8)):
            rig, num_sensors = cursor.take("II")
            sensors: dict[int, Pose | None] = {}
            for number in range(num_sensors):
                kind, sensor = cursor.take("iI")
                pose: Pose | None = None
                if number == 0:  # the reference sensor: the rig's own frame
                    pose = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3))
                elif cursor.take("B")[0]:
                    pose = unit_pose(f"sensor {sensor} of rig {rig}", cursor.take("7d"))
                if kind == _CAMERA_SENSOR:
                    sensors[sensor] = pose
            found[rig] = RigRecord(sensors)
    return found


def frames(path: Path) -> list[FrameRecord]:
    """All frames."""
    found = []
    with _walk(path) as cursor:
        for _ in range(cursor.count(68)):
            frame, rig, *pose = cursor.take("II7d")
            data = [cursor.take("iIQ") for _ in range(cursor.take("I")[0])]
            seen = [(sensor, image) for kind, sensor, image in data if kind == _CAMERA_SENSOR]
            found.append(FrameRecord(frame, rig, unit_pose(f"frame {frame}", pose), seen))
    return found
