"""A reconstruction in metres and upright: a similarity to known positions of its photos.

Without positions its scale stays arbitrary, and it is turned so that z points up: where the
accelerometer says so that some phones write into their photos, else where the photos' own upright
directions point on average. (COLMAP's alignment by vanishing points is not in pycolmap.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..files.orientation import upright_direction
from .library import pycolmap

_LEAST = 3  # positions; two leave a turn about their line
_LINE = 0.05  # spread across a line to that along it: photos on it leave the turn about it open
_EXACT_LINE = 0.005  # of positions: a single wrong one makes a line of all others
_FINEST = 0.05  # metres: within which positions are asked to agree first, then in twice that, ...
_ROUGHEST = 100.0
_LEVEL = 10.0  # degrees: the accelerometer of a phone in the hand is exact to a few
_AGREEMENT = 0.3  # length of the mean of upright directions; photos at random have less


@dataclass(frozen=True)
class Alignment:
    """How a model came to its coordinates.

    Attributes:
        method: "positions"; or "gravity" for the accelerometers of its photos alone, "upright" for
            their mean upright direction, "none".
        metric: its unit is the metre.
        source: "gps", or the file of the positions.
        positions: how many photos of the model have a known position.
        agreeing: how many of these the similarity was estimated from; the others are outliers.
        disagreement: median distance of all these from the photos' centres in the model, metres.
        scale_deviation: relative standard deviation of the scale, as the disagreement tells it.
        tilt: degrees between z and the mean upright direction of the photos; None where they have
            none in common.
        levelled: how many photos' accelerometers z comes from; 0 where it does not.
        level_deviation: median angle between z and up as each of these has it, degrees.
    """

    method: str
    metric: bool
    source: str | None = None
    positions: int = 0
    agreeing: int = 0
    disagreement: float | None = None
    scale_deviation: float | None = None
    tilt: float | None = None
    levelled: int = 0
    level_deviation: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_positions(positions: np.ndarray, total: int, subject: object) -> None:
    """Refuse positions (N, 3) of photos that leave a model's scale or orientation open.

    Arguments:
        total: photos that there are, for the message.
        subject: where the positions are from, likewise.

    Raises:
        SamfeatError: fewer than three, all at one place, or on a line.
    """
    why = None
    if len(positions) < _LEAST:
        why = f"{len(positions)} of {total} photos have a position, and {_LEAST} are needed"
    else:
        along, across = _spreads(positions)
        if not along > 1e-6:
            why = f"the positions of all {len(positions)} photos are the same"
        elif across < _EXACT_LINE * along:
            why = (
                f"the {len(positions)} positions lie on a line ({along:.3g} m along it, "
                f"{across:.2g} m across, standard deviations), which leaves the turn about it open"
            )
    if why is not None:
        raise SamfeatError(subject, why, "give more positions with --align FILE, or leave it out")


def align(
    model: pycolmap.Reconstruction,
    positions: Mapping[str, np.ndarray],
    orientations: Mapping[str, int],
    source: str,
) -> Alignment:
    """Bring a model to known positions of its photos, in place.

    A similarity by LO-RANSAC, with the smallest error bound, of 5 cm and its doubles, within which
    more than half of the positions agree.

    Arguments:
        positions: (3,) metres by photo name; others than the model's play no part.
        orientations: of each photo, as EXIF has it, by name.
        source: where the positions are from.

    Raises:
        SamfeatError: as `check_positions`, for the photos of the model; or positions that do not
            agree with it. The model is as it was.
    """
    images = [image for image in _registered(model) if image.name in positions]
    target = np.array([positions[image.name] for image in images]).reshape(-1, 3)
    centres = np.array([image.projection_center() for image in images]).reshape(-1, 3)
    total = model.num_reg_images()
    check_positions(target, total, source)
    _check_off_line(centres, source)
    origin = target.mean(axis=0)  # large coordinates cost digits
    found, error = None, _FINEST
    while error <= _ROUGHEST:
        options = pycolmap.RANSACOptions(max_error=error)
        if hasattr(options, "random_seed"):
            options.random_seed = 0
        found = pycolmap.estimate_sim3d_robust(centres, target - origin, options)
        if found is not None and 2 * found["num_inliers"] > len(images):
            break
        found, error = None, error * 2
    if found is None:
        raise SamfeatError(
            source,
            f"no half of the {len(images)} positions agrees with the model within {_ROUGHEST:g} m",
            "check that they are of these photos, and in metres",
        )
    inliers = np.asarray(found["inlier_mask"], dtype=bool)
    _check_off_line(centres[inliers], source)
    local = found["tgt_from_src"]
    moved = pycolmap.Sim3d(local.scale, local.rotation, local.translation + origin)
    model.transform(moved)
    distances = np.linalg.norm(moved * centres - target, axis=1)
    chosen = target[inliers] - target[inliers].mean(axis=0)
    noise = np.sqrt((distances[inliers] ** 2).sum() / max(3 * inliers.sum() - 7, 1))
    return Alignment(
        "positions",
        True,
        source=source,
        positions=len(images),
        agreeing=int(inliers.sum()),
        disagreement=float(np.median(distances)),
        scale_deviation=float(noise / np.sqrt((chosen**2).sum())),
        tilt=_tilt(model, orientations),
    )


def make_upright(
    model: pycolmap.Reconstruction,
    orientations: Mapping[str, int],
    downs: Mapping[str, np.ndarray] | None = None,
) -> Alignment:
    """Turn a model so that z is up, in place: the median of what its photos' accelerometers say,
    where these agree; else the mean upright direction of its photos.

    Arguments:
        orientations: of each photo, as EXIF has it, by name.
        downs: (3,) down in the camera's frame, of the photos that tell it, by name.
    """
    measured = _measured_up(model, downs or {})
    up = _up(model, orientations) if measured is None else measured[0]
    if up is None:
        return Alignment("none", False)
    axis = np.cross(up, [0, 0, 1])
    sine = np.linalg.norm(axis)
    # about x where it is upside down
    axis = axis / sine if sine > 1e-12 else np.array([1.0, 0, 0])
    turn = np.arctan2(sine, up[2]) / 2
    quaternion = np.append(np.sin(turn) * axis, np.cos(turn))
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(quaternion), np.zeros(3)))
    tilt = _tilt(model, orientations)
    if measured is None:
        return Alignment("upright", False, tilt=tilt)
    _, count, deviation = measured
    return Alignment("gravity", False, tilt=tilt, levelled=count, level_deviation=deviation)


def _check_off_line(centres: np.ndarray, source: str) -> None:
    along, across = _spreads(centres)
    if across < _LINE * along:
        raise SamfeatError(
            source,
            f"the {len(centres)} photos that it has positions of stand on a line, which leaves the "
            "turn about it open",
            "give positions of others with --align FILE, or leave it out",
        )


def _registered(model: pycolmap.Reconstruction) -> list[Any]:
    return [model.images[image_id] for image_id in sorted(model.reg_image_ids())]


def _spreads(points: np.ndarray) -> tuple[float, float]:
    """Standard deviations of points (N, 3) along the line through them, and across it."""
    values = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    return float(values[0]), float(values[1])


def _up(model: pycolmap.Reconstruction, orientations: Mapping[str, int]) -> np.ndarray | None:
    """The mean upright direction (3,) of a model's photos, of unit length."""
    total, count = np.zeros(3), 0
    for image in _registered(model):
        up = np.append(upright_direction(orientations.get(image.name, 1)), 0.0)
        total += np.asarray(image.cam_from_world().rotation.matrix()).T @ up
        count += 1
    length = np.linalg.norm(total)
    return total / length if length > _AGREEMENT * count else None


def _measured_up(
    model: pycolmap.Reconstruction, downs: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, int, float] | None:
    """Up (3,) as the photos' accelerometers have it, of how many photos, and the median angle
    between it and theirs in degrees; None where fewer than three tell it, or most contradict."""
    told = np.array(
        [
            -np.asarray(image.cam_from_world().rotation.matrix()).T @ downs[image.name]
            for image in _registered(model)
            if image.name in downs
        ]
    ).reshape(-1, 3)
    if len(told) < _LEAST:
        return None
    up = np.median(told, axis=0)
    up /= max(np.linalg.norm(up), 1e-12)
    angles = np.degrees(np.arccos(np.clip(told @ up, -1, 1)))
    agree = angles < _LEVEL
    if not 2 * agree.sum() > len(told):
        return None
    up = told[agree].mean(axis=0)
    return up / np.linalg.norm(up), int(agree.sum()), float(np.median(angles))


def _tilt(model: pycolmap.Reconstruction, orientations: Mapping[str, int]) -> float | None:
    up = _up(model, orientations)
    return None if up is None else float(np.degrees(np.arccos(np.clip(up[2], -1, 1))))
