"""What the files of a COLMAP model hold, binary or text: records, and the checks they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .poses import Pose, length

# Quaternions of published models are rounded, to three digits in some. Beyond this the numbers are
# rather not a quaternion, and normalising them would hide that.
NORM_TOLERANCE = 1e-2

OBSERVATION = np.dtype([("xy", "<f8", (2,)), ("point3D_id", "<i8")])
POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", (3,)), ("rgb", "u1", (3,)), ("error", "<f8"), ("track", "<u8")]
)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image of a model.

    observed: (N,) int64, the id of the point that each keypoint sees, -1 for none; None where the
    observations were passed over.
    """

    image_id: int
    camera_id: int
    name: str
    pose: Pose
    observed: np.ndarray | None


@dataclass(frozen=True)
class RigRecord:
    """A rig: by camera id sensor_from_rig, None where it is unknown."""

    sensor_from_rig: dict[int, Pose | None]


@dataclass(frozen=True)
class FrameRecord:
    """A frame: where its rig is, and its images as (camera id, image id)."""

    frame_id: int
    rig_id: int
    rig_from_world: Pose
    images: list[tuple[int, int]]


def unit_pose(what: str, values: Sequence[float]) -> Pose:
    """A pose from qw, qx, qy, qz, tx, ty, tz, its quaternion normalised.

    Raises:
        ValueError: not finite, or a quaternion far from unit length; ``what`` has it.
    """
    pose = Pose(np.array(values[:4]), np.array(values[4:]))
    if not np.isfinite(values).all():
        raise ValueError(f"the pose of {what} is not finite")
    norm = length(pose.qvec)
    if abs(norm - 1) > NORM_TOLERANCE:
        raise ValueError(f"the quaternion of {what} has length {norm:.6g} instead of 1")
    # One that is of unit length up to rounding stays, so that poses are kept to the bit.
    return pose if abs(norm - 1) < 1e-14 else Pose(pose.qvec / norm, pose.tvec)
