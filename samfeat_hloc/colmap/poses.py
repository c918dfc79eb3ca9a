"""Camera poses and their text file, ``name qw qx qy qz tx ty tz`` (world to camera)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..files.atomic import write_atomically
from ..files.images import check_name
from ..files.textlines import data_lines, in_line, parse_number

# Rounded to three decimals a quaternion keeps its norm within this; beyond it, the columns are
# rather not a quaternion, and normalising them would hide that.
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a camera is: ``x_camera = R(qvec) @ x_world + tvec``.

    Attributes:
        qvec: (4,) float64, rotation quaternion w, x, y, z.
        tvec: (3,) float64, translation in metres (in the units of the reference model).
    """

    qvec: np.ndarray
    tvec: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "qvec", np.array(self.qvec, dtype=np.float64).reshape(4))
        object.__setattr__(self, "tvec", np.array(self.tvec, dtype=np.float64).reshape(3))

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) float64 rotation matrix from world to camera; the quaternion is normalised."""
        w, x, y, z = self.qvec / np.linalg.norm(self.qvec)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )

    @property
    def centre(self) -> np.ndarray:
        """(3,) float64, the camera's centre in the world."""
        return -self.rotation.T @ self.tvec

    def inverse(self) -> Pose:
        """The camera-to-world transform in the same form."""
        qvec = self.qvec / np.linalg.norm(self.qvec) * np.array([1.0, -1.0, -1.0, -1.0])
        return Pose(qvec, self.centre)

    def __matmul__(self, other: Pose) -> Pose:
        """First ``other``, then this one: ``b_from_a @ a_from_world`` is b_from_world."""
        w, (x, y, z) = self.qvec[0], self.qvec[1:]
        turned = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
        return Pose(turned @ other.qvec, self.rotation @ other.tvec + self.tvec)

    @classmethod
    def from_matrix(cls, rotation: np.ndarray, tvec: np.ndarray) -> Pose:
        """From a (3, 3) rotation matrix, which is taken as one, and a translation (3,)."""
        from .library import pycolmap

        x, y, z, w = pycolmap.Rotation3d(np.ascontiguousarray(rotation, dtype=np.float64)).quat
        return cls(np.array([w, x, y, z]), tvec)

    @classmethod
    def from_rigid3d(cls, cam_from_world: Any) -> Pose:
        """From a ``pycolmap.Rigid3d`` (whose quaternion is x, y, z, w)."""
        x, y, z, w = cam_from_world.rotation.quat
        return cls(np.array([w, x, y, z]), cam_from_world.translation)

    def to_rigid3d(self) -> Any:
        """As a ``pycolmap.Rigid3d``."""
        from .library import pycolmap

        return pycolmap.Rigid3d(pycolmap.Rotation3d(self.qvec[[1, 2, 3, 0]]), self.tvec)


def pose_json(pose: Pose | None, prefix: str = "") -> dict[str, list[float] | None]:
    """``qvec`` and ``tvec``, with a prefix, as plain JSON values; None where there is no pose."""
    return {
        f"{prefix}qvec": None if pose is None else pose.qvec.tolist(),
        f"{prefix}tvec": None if pose is None else pose.tvec.tolist(),
    }


def read_poses(path: Path) -> dict[str, Pose]:
    """Read a poses file; names are taken as they are (full or base names), order is kept.

    Quaternions within ``NORM_TOLERANCE`` of unit length are normalised, others refused.

    Raises:
        SamfeatError: with file and line: malformed line, duplicate name, NaN or infinity,
            a quaternion that is zero or not of unit length; without a line: no such file.
    """
    poses: dict[str, Pose] = {}
    first_line: dict[str, int] = {}
    for number, tokens in data_lines(path):
        where = f"{path}:{number}"
        if len(tokens) != 8:
            raise SamfeatError(
                where,
                f"{len(tokens)} values where 8 are needed",
                "write 'name qw qx qy qz tx ty tz', and no white space in names",
            )
        with in_line(path, number, "write 'name qw qx qy qz tx ty tz' in numbers"):
            name = check_name(tokens[0])
            values = np.array([parse_number(token) for token in tokens[1:]])
        if name in poses:
            raise SamfeatError(
                where,
                f"'{name}' has a pose on line {first_line[name]} already",
                "keep one line for each image",
            )
        norm = length(values[:4])
        if abs(norm - 1) > NORM_TOLERANCE:
            raise SamfeatError(
                where,
                f"the quaternion of '{name}' has length {norm:.6g} instead of 1",
                "check the columns: name qw qx qy qz tx ty tz",
            )
        poses[name] = Pose(_unit(values[:4]), values[4:])
        first_line[name] = number
    return poses


def write_poses(path: Path, poses: Mapping[str, Pose]) -> Path:
    """Write poses in the order given, with all digits, whole or not at all. Returns ``path``.

    Raises:
        SamfeatError: a name that no text list can hold, NaN, infinity or a zero quaternion.
    """
    return write_atomically(Path(path), poses_text(poses, path))


def poses_text(poses: Mapping[str, Pose], path: Path) -> str:
    """The content of a poses file with unit quaternions; ``path`` is only named in errors."""
    lines = []
    for name, pose in poses.items():
        try:
            check_name(name)
        except SamfeatError as error:
            raise SamfeatError(path, error) from None
        values = np.concatenate([_unit(pose.qvec), pose.tvec])
        if not np.isfinite(values).all() or not values[:4].any():
            raise SamfeatError(
                path,
                f"the pose of '{name}' is not valid (NaN, infinity or a zero quaternion)",
                "localize this image again",
            )
        lines.append(" ".join([name, *(repr(float(value)) for value in values)]) + "\n")
    return "".join(lines)


def _unit(qvec: np.ndarray) -> np.ndarray:
    """Of unit length; one that is so up to rounding is kept, so that files round-trip exactly."""
    norm = length(qvec)
    return qvec if norm == 0 or abs(norm - 1) < 1e-14 else qvec / norm


def length(qvec: np.ndarray) -> float:
    """Length without overflow or underflow; infinity and NaN pass through."""
    largest = float(np.abs(qvec).max())
    if not np.isfinite(largest) or largest == 0:
        return largest
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(qvec / largest) * largest)
