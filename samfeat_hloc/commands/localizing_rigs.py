"""``samfeat localize --rig``: photos that the cameras of a rig took at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ..errors import SamfeatError, some_of

if TYPE_CHECKING:
    from ..colmap.cameras import Camera
    from ..colmap.poses import Pose
    from ..colmap.rig_config import Frame
    from ..files.masks import Masks
    from ..maps.localizer import Localizer
    from ..maps.rigs import RigLocalization


class Frames(NamedTuple):
    """What became of frames.

    poses: cam_from_world of the photos of those that have one. total, localized: how many.
    unread: those that could not be tried; their lines say why.
    """

    poses: dict[str, Pose]
    total: int
    localized: int
    unread: list[str]


def localize_frames(
    localizer: Localizer,
    rig: Path,
    named: Mapping[str, Path],
    camera: Camera | None,
    masks: Masks | None,
    *,
    weak: bool,
    as_json: bool,
) -> Frames:
    """Localize the frames of photos by name, and say a line of each.

    Args:
        rig: which photos were taken at once, see `datasets.rigs.frames_from`.
        camera: intrinsics of the cameras for which that has none; None takes those of the EXIF.
        weak: give poses of frames that are not localized too.
        as_json: print JSON in place of lines.

    Raises:
        SamfeatError: no such file, or photos that it does not have.
    """
    from ..datasets.rigs import frames_from
    from ..progress import tqdm

    frames, others = frames_from(rig, list(named))
    if others:
        raise SamfeatError(
            rig,
            f"it does not have {len(others)} of {len(named)} photos: {some_of(others)}",
            "a name is the path below a folder that is given; give the folder of the rig",
        )
    poses: dict[str, Pose] = {}
    listed = []
    localized = 0
    unread = []
    for frame in tqdm(frames, desc="localize", unit="frame", delay=2):
        try:
            found = _localize(localizer, frame, named, camera, masks)
        except SamfeatError as error:
            unread.append(frame.name)
            listed.append({"frame": frame.name, "localized": False, "error": str(error)})
            if not as_json:
                tqdm.write(f"{frame.name}: {error}")
            continue
        localized += found.pose is not None
        pose = found.pose or (found.weak_pose if weak else None)
        if pose is not None:
            names = [name for _, name in frame.photos]
            poses.update(zip(names, found.poses_of(pose), strict=True))
        listed.append(_as_json(frame, found, poses, weak=weak))
        if not as_json:
            tqdm.write(_in_a_line(frame, found, pose))
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
    else:
        typer.echo(f"{localized} of {len(frames)} frames localized")
    return Frames(poses, len(frames), localized, unread)


def _localize(
    localizer: Localizer,
    frame: Frame,
    named: Mapping[str, Path],
    camera: Camera | None,
    masks: Masks | None,
) -> RigLocalization:
    from ..files.images import image_size

    paths = [named[name] for _, name in frame.photos]
    cameras = [
        rig_camera.intrinsics(*image_size(path)) or camera
        for (rig_camera, _), path in zip(frame.photos, paths, strict=True)
    ]
    hidden = None if masks is None else [masks.path(name) for _, name in frame.photos]
    poses = [rig_camera.cam_from_rig for rig_camera, _ in frame.photos]
    return localizer.localize_rig(paths, cameras, poses, masks=hidden)


def _as_json(
    frame: Frame, found: RigLocalization, poses: Mapping[str, Pose], *, weak: bool
) -> dict[str, Any]:
    from ..colmap.poses import pose_json

    photos = [
        {
            "photo": name,
            **pose_json(poses.get(name)),
            "num_agreeing": found.num_agreeing[row],
            "retrieved": found.retrieved[row],
        }
        for row, (_, name) in enumerate(frame.photos)
    ]
    return {"frame": frame.name, **found.as_json(weak=weak), "photos": photos}


def _in_a_line(frame: Frame, found: RigLocalization, pose: Pose | None) -> str:
    parts = [f"not localized, {found.refused}" if found.pose is None else "localized"]
    if pose is not None:
        values = " ".join(f"{value:.9g}" for value in [*pose.qvec, *pose.tvec])
        parts.append(f"{'pose' if found.pose else 'weak pose'} of the rig {values}")
    agreeing = ", ".join(
        f"{count} in {name}"
        for (_, name), count in zip(frame.photos, found.num_agreeing, strict=True)
    )
    parts.append(f"{sum(found.num_agreeing)} keypoints agree ({agreeing})")
    if found.pose is not None:
        parts.append(f"confidence {found.confidence:.2f}")
    return f"{frame.name}: {'; '.join(parts)}"
