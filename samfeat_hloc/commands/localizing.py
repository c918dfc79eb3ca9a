"""``samfeat localize``: where photos were taken, in a saved map."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SamfeatError, some_of
from .localizing_rigs import localize_frames
from .options import (
    DEFAULT_MAX_ERROR,
    OWN_PHOTOS,
    Device,
    MapImages,
    MaskFolder,
    MaxError,
    OfficialWeights,
    OverwriteOutput,
    Places,
    Weights,
    max_keypoints_option,
    resize_option,
)

if TYPE_CHECKING:
    from ..colmap.cameras import Camera
    from ..colmap.poses import Pose
    from ..files.masks import Masks
    from ..maps.localization import Localization
    from ..maps.localizer import Localizer

NOT_LOCALIZED = 3  # exit code


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("localize", rich_help_panel=OWN_PHOTOS)(_localize)


def _localize(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO", help="Photos, and folders of photos.")
    ],
    map_dir: Annotated[Path, typer.Option("--map", help="Folder of a saved map.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Poses file to write, a line 'name qw qx qy qz tx ty tz' (world to camera) for "
            "each photo that is localized; names are paths below a folder that is given."
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            help='The photos\' camera, "MODEL width height params...".',
            show_default="from their EXIF",
        ),
    ] = None,
    refine_focal: Annotated[
        bool | None,
        typer.Option(
            "--refine-focal/--no-refine-focal",
            help="Find the focal length with the pose; by default unless --camera is given.",
        ),
    ] = None,
    resize: Annotated[int | None, resize_option("the map's")] = None,
    max_keypoints: Annotated[int | None, max_keypoints_option("the map's")] = None,
    num_retrieved: MapImages = 20,
    max_error: MaxError = DEFAULT_MAX_ERROR,
    places: Places = True,
    min_inliers: Annotated[
        int,
        typer.Option(
            help="Fewest keypoints that have to agree with a pose; a tenth of those matched, where "
            "that is more."
        ),
    ] = 30,
    turns: Annotated[
        bool,
        typer.Option(
            "--turns",
            help="Try photos that are not localized again, turned by 90, 180 and 270 degrees.",
        ),
    ] = False,
    weak: Annotated[
        bool,
        typer.Option(
            "--weak", help="Give the poses of photos that are not localized too; they may be wrong."
        ),
    ] = False,
    rig: Annotated[
        Path | None,
        typer.Option(
            help="Localize together what the cameras of a rig took at once: COLMAP's "
            "rig_config.json, or a COLMAP model or kapture folder with rigs. Translations are in "
            "the units of the map.",
        ),
    ] = None,
    masks: MaskFolder = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    device: Device = None,
    overwrite: OverwriteOutput = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: an object, or a list of them for several photos."),
    ] = False,
) -> None:
    """Tell where photos were taken, in a saved map.

    The exit code is 3 where no photo is localized. It is 1 where photos cannot be read: these are
    named, and the others localized all the same.
    """
    from ..colmap.intrinsics import camera_from_text
    from ..files.atomic import check_place
    from ..files.image_folders import given_images
    from ..files.masks import Masks
    from ..maps.localizer import Localizer

    if output is not None:
        check_place(output, overwrite=overwrite)
    if rig is not None and (turns or refine_focal):
        option = "--turns" if turns else "--refine-focal"
        raise SamfeatError(option, "does not go with --rig", "leave one of them out")
    named = given_images(photos, for_lists=output is not None)
    hidden = None if masks is None else Masks(masks)
    if hidden is not None:
        hidden.check(named)
    given = None if camera is None else camera_from_text(camera)
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights, device=device,
        num_retrieved=num_retrieved, max_error=max_error, places=places, min_inliers=min_inliers,
        refine_focal=refine_focal, turns=turns,
    )  # fmt: skip
    options = localizer.options.limited(resize, max_keypoints)
    localizer.settings = replace(localizer.settings, options=options)
    if rig is not None:
        frames = localize_frames(localizer, rig, named, given, hidden, weak=weak, as_json=as_json)
        if output is not None:
            from ..colmap.poses import write_poses

            write_poses(output, frames.poses)
        _name_unread(frames.unread, frames.total, "frames")
        if not frames.localized:
            raise typer.Exit(NOT_LOCALIZED)
        return
    if len(photos) == 1 and photos[0].is_file():
        (name,) = named
        mask = None if hidden is None else hidden.path(name)
        found = {name: localizer.localize(photos[0], given, mask=mask)}
        if as_json:
            typer.echo(json.dumps(found[name].as_json(weak=weak), indent=1))
        else:
            typer.echo(in_full(photos[0], found[name], weak=weak))
        unread: dict[str, SamfeatError] = {}
    else:
        found, unread = _localize_all(localizer, named, given, hidden, weak=weak, quiet=as_json)
        if as_json:
            listed = [
                {"photo": str(path), **found[name].as_json(weak=weak)}
                if name in found
                else {"photo": str(path), "localized": False, "error": unread[name].problem}
                for name, path in named.items()
            ]
            typer.echo(json.dumps(listed, indent=1))
    poses = {name: pose for name in found if (pose := _given(found[name], weak)) is not None}
    if output is not None:
        from ..colmap.poses import write_poses

        write_poses(output, poses)
    _name_unread([str(named[name]) for name in unread], len(named), "photos")
    if all(one.pose is None for one in found.values()):
        raise typer.Exit(NOT_LOCALIZED)


def _name_unread(unread: Sequence[str], total: int, what: str) -> None:
    """Refuse to end well where some could not be tried."""
    if unread:
        raise SamfeatError(
            f"{len(unread)} of {total} {what}",
            f"could not be tried: {some_of(unread)}",
            "their lines say why; the others are done",
        )


def _localize_all(
    localizer: Localizer,
    named: Mapping[str, Path],
    camera: Camera | None,
    masks: Masks | None,
    *,
    weak: bool,
    quiet: bool,
) -> tuple[dict[str, Localization], dict[str, SamfeatError]]:
    """What was found by name, and why others were not tried; a line a photo as it goes."""
    from ..progress import tqdm

    found: dict[str, Localization] = {}
    unread: dict[str, SamfeatError] = {}
    photos = (
        (path, camera, None if masks is None else masks.path(name)) for name, path in named.items()
    )
    results = zip(named.items(), localizer.localize_many(photos), strict=True)
    for (name, path), one in tqdm(
        results, total=len(named), desc="localize", unit="photo", delay=2
    ):
        if isinstance(one, SamfeatError):
            unread[name] = one
            line = f"{path}: could not be tried, {one.problem}"
        else:
            found[name] = one
            line = in_a_line(path, one, weak=weak)
        if not quiet:
            tqdm.write(line)
    if not quiet:
        count = sum(one.pose is not None for one in found.values())
        typer.echo(f"{count} of {len(named)} photos localized")
    return found, unread


def _given(found: Localization, weak: bool) -> Pose | None:
    return found.pose or (found.weak_pose if weak else None)


def _values(pose: Pose) -> str:
    return " ".join(f"{value:.9g}" for value in [*pose.qvec, *pose.tvec])


def in_a_line(path: Path, found: Localization, *, weak: bool = False) -> str:
    """What became of one of several photos."""
    pose = _given(found, weak)
    parts = [f"not localized, {found.refused}" if found.pose is None else "localized"]
    if pose is not None:
        parts.append(f"{'pose' if found.pose else 'weak pose'} {_values(pose)}")
    if found.pose is not None:
        parts.append(f"{found.num_inliers} inliers, confidence {found.confidence:.2f}")
        if found.turned:
            parts.append(f"turned by {found.turned} degrees")
    return f"{path}: {'; '.join(parts)}"


def in_full(path: Path, found: Localization, *, weak: bool = False) -> str:
    """What became of a single photo, in several lines."""
    lines = []
    if found.refused is not None:
        lines.append(f"{path}: not localized, {found.refused}")
    elif found.turned:
        lines.append(f"{path}: turned by {found.turned} degrees, clockwise")
    pose = _given(found, weak)
    if pose is not None:
        centre = ", ".join(f"{value:.3f}" for value in pose.centre)
        lines.append(f"pose (qw qx qy qz tx ty tz, world to camera): {_values(pose)}")
        lines.append(f"camera centre: {centre}")
    if found.pose is not None and found.focal_deviation is not None:
        focal = found.camera.to_pycolmap().mean_focal_length()
        lines.append(f"focal length: {focal:.1f} pixels, +- {found.focal_deviation:.1f}")
    lines.append(
        f"{found.num_inliers} inliers of {found.num_correspondences} correspondences, "
        f"{found.num_matches} matches; confidence {found.confidence:.2f}"
    )
    stages = ", ".join(f"{name} {value:.2f}" for name, value in found.seconds.items())
    lines.append(f"seconds: {stages}")
    return "\n".join(lines)
