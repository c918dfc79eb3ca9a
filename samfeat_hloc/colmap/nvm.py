"""VisualSFM's NVM models, as older benchmarks have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import SamfeatError
from ..files.images import check_name
from ..files.textlines import data_lines, in_line, parse_number
from ..progress import tqdm
from .cameras import Camera
from .model import Model, ModelImage
from .model_changes import assemble
from .poses import Pose

Line = tuple[int, list[str]]

_MOST_NORM_ERROR = 1e-2


def read_nvm(path: Path, camera_of: Callable[[str, float, float], Camera]) -> Model:
    """Read an NVM file: images with poses, points, and which image sees which point.

    Names lose a leading ``./``.

    Args:
        camera_of: intrinsics of an image from its name, its focal length in pixels and its radial
            distortion as the file has it.

    Raises:
        SamfeatError: with the line: not an NVM file, cut off, a malformed line, an image that is
            in it twice or that a point names though it is not in it.
    """
    lines = data_lines(path)
    if not lines or not lines[0][1][0].startswith("NVM_V3"):
        raise SamfeatError(
            path, "not an NVM model: it does not begin with NVM_V3", "check the file"
        )
    place = iter(lines[1:])
    images: dict[str, tuple[Camera, Pose]] = {}
    for number, tokens in _section(path, place, "images"):
        with in_line(path, number, "write 'NAME FOCAL QW QX QY QZ CX CY CZ RADIAL 0'"):
            name = check_name(tokens[0].removeprefix("./"))
            values = [parse_number(token) for token in tokens[1:]]
            if len(values) != 10:
                raise ValueError(f"{len(values)} values where 10 are needed")
            qvec, centre = np.array(values[1:5]), np.array(values[5:8])
            norm = float(np.linalg.norm(qvec))
            if abs(norm - 1) > _MOST_NORM_ERROR:
                raise ValueError(f"its quaternion has length {norm:.6g} instead of 1")
            if name in images:
                raise ValueError(f"'{name}' is in it twice")
            camera = camera_of(name, values[0], values[8])
        pose = Pose(qvec / norm, np.zeros(3))
        images[name] = camera, Pose(pose.qvec, -pose.rotation @ centre)
    if not images:
        raise SamfeatError(path, "no images in it", "copy the file again")
    points: list[list[float]] = []
    seen: list[list[int]] = [[] for _ in images]
    for number, tokens in tqdm(_section(path, place, "points"), desc="read NVM", delay=2):
        try:
            head = [parse_number(token) for token in tokens[:6]]
            if len(tokens) < 7 or len(tokens) != 7 + 4 * int(tokens[6]):
                raise ValueError("its number of values is wrong")
            for image in tokens[7::4]:
                if not 0 <= int(image) < len(seen):
                    raise ValueError(f"there is no image {image}")
                seen[int(image)].append(len(points))
        except ValueError as error:
            raise SamfeatError(
                f"{path}:{number}", error, "write 'X Y Z R G B COUNT' and COUNT observations"
            ) from None
        points.append(head)
    found = np.array(points, dtype=np.float64).reshape(-1, 6)
    return assemble(
        (
            (name, camera, ModelImage(0, 0, name, pose, np.array(rows, dtype=np.int32)))
            for (name, (camera, pose)), rows in zip(images.items(), seen, strict=True)
        ),
        found[:, :3],
        found[:, 3:].clip(0, 255).astype(np.uint8),
        np.ones(len(found)),  # the file has none
    )


def _section(path: Path, place: Iterator[Line], what: str) -> list[Line]:
    """The lines after one that counts them."""
    number, tokens = next(place, (0, [""]))
    if len(tokens) != 1 or not (tokens[0].isascii() and tokens[0].isdigit()):
        where = f"{path}:{number}" if number else path
        raise SamfeatError(where, f"here the number of {what} is missing", "copy the file again")
    rows = list(islice(place, int(tokens[0])))
    if len(rows) < int(tokens[0]):
        raise SamfeatError(
            path, f"cut off: {len(rows)} of {tokens[0]} {what} are there", "copy the file again"
        )
    return rows
