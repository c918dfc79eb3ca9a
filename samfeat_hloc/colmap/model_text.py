"""The text files of a COLMAP model; errors name the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import SamfeatError
from ..files.textlines import data_lines, parse_number, read_text
from .cameras import CAMERA_MODELS, Camera
from .model_parts import POINT, FrameRecord, ImageRecord, RigRecord, unit_pose
from .poses import Pose

Record = TypeVar("Record")

_IMAGE_FORM = "write 'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME'"


def _parsed(path: Path, parse: Callable[[list[str]], Record], form: str) -> list[Record]:
    """Every line that says something, parsed; ValueErrors and the like become errors with it."""
    found = []
    for number, tokens in data_lines(path):
        try:
            found.append(parse(tokens))
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            why = error if type(error) is ValueError else f"'{' '.join(tokens)[:80]}'"
            raise SamfeatError(
                f"{path}:{number}", f"not a line of this file's format ({why})", form
            ) from None
    return found


def cameras(path: Path) -> dict[int, Camera]:
    """Intrinsics by camera id."""

    def parse(tokens: list[str]) -> tuple[int, Camera]:
        width, height = int(tokens[2]), int(tokens[3])
        params = tuple(parse_number(token) for token in tokens[4:])
        if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
            raise ValueError(f"the size {width} x {height} is not possible")
        if tokens[1] not in CAMERA_MODELS:
            raise ValueError(f"unknown camera model '{tokens[1][:60]}'")
        if len(params) != CAMERA_MODELS[tokens[1]][1]:
            raise ValueError(f"{len(params)} parameters are not those of {tokens[1]}")
        return int(tokens[0]), Camera(tokens[1], width, height, params)

    return dict(_parsed(path, parse, "write 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS'"))


def images(path: Path, observations: bool) -> list[ImageRecord]:
    """All images, with the points they see where ``observations`` are asked for.

    Every second line holds the observations, and is empty for an image without any. A file that
    leaves these lines out would lose every second image: it is refused.
    """
    lines = read_text(path).removeprefix("\ufeff").split("\n")
    numbered = [(i, line.strip()) for i, line in enumerate(lines, 1) if not line.startswith("#")]
    while numbered and not numbered[0][1]:
        numbered.pop(0)
    last = max((at for at, rest in numbered if rest), default=0)
    found = []
    for (number, line), (below, seen) in zip(
        numbered[::2], [*numbered[1::2], (0, "")], strict=False
    ):
        if number > last:
            break
        try:
            record = _image(line.split())
        except (ValueError, OverflowError) as error:
            raise SamfeatError(f"{path}:{number}", error, _IMAGE_FORM) from None
        try:
            observed = _observed(seen.split(), observations)
        except ValueError as error:
            raise SamfeatError(
                f"{path}:{below}",
                f"no line of observations of image '{record.name[:120]}' ({error})",
                "write 'X Y POINT3D_ID ...' or an empty line below every image",
            ) from None
        found.append(
            ImageRecord(record.image_id, record.camera_id, record.name, record.pose, observed)
        )
    return found


def _image(tokens: list[str]) -> ImageRecord:
    if len(tokens) != 10:
        raise ValueError(f"{len(tokens)} values where 10 are needed")
    values = [parse_number(token) for token in tokens[1:8]]
    pose = unit_pose(f"image '{tokens[9][:120]}'", values)
    return ImageRecord(int(tokens[0]), int(tokens[8]), tokens[9], pose, None)


def _observed(tokens: list[str], wanted: bool) -> np.ndarray | None:
    if len(tokens) % 3:
        raise ValueError(f"{len(tokens)} values are not triples")
    if not wanted:
        return None
    try:
        np.array(tokens[0::3] + tokens[1::3], dtype=np.float64)
        return np.array(tokens[2::3], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("its values are not numbers") from None


def points(path: Path) -> np.ndarray:
    """All points, (P,) of `POINT`, in the order of the file."""

    def parse(tokens: list[str]) -> tuple:
        if len(tokens) < 8 or len(tokens) % 2:
            raise ValueError(f"{len(tokens)} values are not those of a point")
        point, colors = int(tokens[0]), [int(token) for token in tokens[4:7]]
        if not (0 <= point < 1 << 63 and all(0 <= color < 256 for color in colors)):
            raise ValueError("its id or colour is out of range")
        xyz = [parse_number(token) for token in tokens[1:4]]
        return point, xyz, colors, float(tokens[7]), (len(tokens) - 8) // 2

    return np.array(
        _parsed(path, parse, "write 'POINT3D_ID X Y Z R G B ERROR TRACK...'"), dtype=POINT
    )


def num_points(path: Path) -> int:
    """How many points there are."""
    return len(data_lines(path))


def rigs(path: Path) -> dict[int, RigRecord]:
    """All rigs by id."""

    def parse(tokens: list[str]) -> tuple[int, RigRecord]:
        rig, num_sensors, rest = int(tokens[0]), int(tokens[1]), tokens[2:]
        sensors: dict[int, Pose | None] = {}
        for number in range(num_sensors):
            kind, sensor, rest = rest[0], int(rest[1]), rest[2:]
            pose: Pose | None = None
            if number == 0:  # the reference sensor: the rig's own frame
                pose = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3))
            else:
                has_pose, rest = int(rest[0]), rest[1:]
                if has_pose:
                    values = [parse_number(token) for token in rest[:7]]
                    pose, rest = unit_pose(f"sensor {sensor} of rig {rig}", values), rest[7:]
            if kind == "CAMERA":
                sensors[sensor] = pose
        return rig, RigRecord(sensors)

    return dict(_parsed(path, parse, "write the model again with COLMAP"))


def frames(path: Path) -> list[FrameRecord]:
    """All frames."""

    def parse(tokens: list[str]) -> FrameRecord:
        frame, rig, count = int(tokens[0]), int(tokens[1]), int(tokens[9])
        pose = unit_pose(f"frame {frame}", [parse_number(token) for token in tokens[2:9]])
        data = [tokens[10 + 3 * i : 13 + 3 * i] for i in range(count)]
        seen = [(int(sensor), int(image)) for kind, sensor, image in data if kind == "CAMERA"]
        return FrameRecord(frame, rig, pose, seen)

    return _parsed(path, parse, "write the model again with COLMAP")
