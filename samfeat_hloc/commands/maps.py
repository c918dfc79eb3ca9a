"""``samfeat map add``, ``remove``, ``info``, and ``samfeat localize``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from . import map_files
from .application import group
from .options import (
    DEFAULT_MAX_ERROR,
    OWN_PHOTOS,
    Device,
    Images,
    MaxError,
    OfficialWeights,
    Weights,
)

NOT_LOCALIZED = 3  # exit code of `samfeat localize`

_Map = Annotated[Path, typer.Argument(metavar="MAP", help="Folder of a saved map.")]
_NumRetrieved = Annotated[
    int, typer.Option("--num-retrieved", help="Database images matched with each photo.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("localize", rich_help_panel=OWN_PHOTOS)(_localize)
    maps = group(app, "map", "Save a map in one folder, look into it, change it.", OWN_PHOTOS)
    map_files.register(maps)
    maps.command("add")(_add)
    maps.command("remove")(_remove)
    maps.command("info")(_info)


def _add(
    map_dir: _Map,
    images: Images,
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--queries",
            help="List of the photos to add with their intrinsics, a line 'name MODEL width height "
            "params...' each; can be repeated.",
            show_default="all photos of the folder, with intrinsics from their EXIF",
        ),
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(
            "--poses",
            help="Known poses, a line 'name qw qx qy qz tx ty tz' (world to camera) each.",
            show_default="the photos are localized in the map",
        ),
    ] = None,
    min_inliers: Annotated[
        int, typer.Option("--min-inliers", help="Leave out photos localized with fewer inliers.")
    ] = 30,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    num_retrieved: _NumRetrieved = 20,
    device: Device = None,
) -> None:
    """Add photos to a map, and the points that only they show; what is there stays as it is.

    A photo without a known pose is localized in the map.
    """
    from ..colmap.cameras import Camera
    from ..colmap.poses import read_poses
    from ..datasets.queries import read_queries
    from ..files.image_folders import list_images
    from ..maps import building
    from ..maps.localizer import Localizer

    cameras: dict[str, Camera | None]
    if lists is None:
        cameras = dict.fromkeys(list_images(images))
    else:
        cameras = {q.name: q.camera for path in lists for q in read_queries(path, "")}
    if not cameras:
        raise SamfeatError(images, "no photos to add", "check the folder")
    known = {} if poses is None else read_poses(poses)
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights, device=device,
        num_retrieved=num_retrieved,
    )  # fmt: skip
    added = building.add(map_dir, localizer, images, cameras, poses=known, min_inliers=min_inliers)
    for entry in added:
        typer.echo(
            f"{entry.name}: left out, {entry.refused}"
            if entry.refused
            else f"{entry.name}: {entry.observations} observations, {entry.new_points} new points"
        )
    count = sum(entry.refused is None for entry in added)
    typer.echo(f"{map_dir}: {count} of {len(added)} images added")
    if not count:
        raise SamfeatError(images, "no photo could be added", "give their poses with --poses")


def _remove(
    map_dir: _Map,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Names of images, such as db/1.jpg.")
    ],
) -> None:
    """Remove images from a map, with their keypoints and descriptors."""
    from ..maps import saved_map

    saved_map.drop(map_dir, names)
    typer.echo(f"{map_dir}: {len(set(names))} images removed")


def _info(map_dir: _Map) -> None:
    """Verify the files of a map and list what it holds."""
    from ..maps import saved_map

    frozen = saved_map.read(map_dir)
    typer.echo(
        f"{map_dir}: version {saved_map.VERSION}, {len(frozen.images)} images, "
        f"{len(frozen.xyz)} points, {frozen.num_observations} observations, "
        f"weights {frozen.weights_sha256[:12]}"
    )
    for image in frozen.images:
        typer.echo(f"  {image.name}: {int((image.points >= 0).sum())} observations")


def _localize(
    image: Annotated[Path, typer.Argument(metavar="PHOTO", help="The photo.")],
    map_dir: Annotated[Path, typer.Option("--map", help="Folder of a saved map.")],
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            help='The photo\'s camera, "MODEL width height params...".',
            show_default="from its EXIF",
        ),
    ] = None,
    refine_focal: Annotated[
        bool | None,
        typer.Option(
            "--refine-focal/--no-refine-focal",
            help="Find the focal length with the pose; by default unless --camera is given.",
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option("--resize", help="Longer side in pixels.", show_default="the map's"),
    ] = None,
    max_keypoints: Annotated[
        int | None,
        typer.Option(
            "--max-keypoints", help="Keypoints an image at most.", show_default="the map's"
        ),
    ] = None,
    num_retrieved: _NumRetrieved = 20,
    max_error: MaxError = DEFAULT_MAX_ERROR,
    places: Annotated[
        bool,
        typer.Option(
            "--places/--no-places",
            help="Leave out retrieved images of places that only look like the photo's.",
        ),
    ] = True,
    min_inliers: Annotated[
        int,
        typer.Option(
            "--min-inliers",
            help="Keypoints that have to agree with a pose, at least; a tenth of those matched, "
            "where that is more.",
        ),
    ] = 30,
    turns: Annotated[
        bool,
        typer.Option(
            "--turns", help="Try a photo that is not localized turned by 90, 180, 270 degrees too."
        ),
    ] = False,
    weak: Annotated[
        bool, typer.Option("--weak", help="Give the pose of a photo that is not localized too.")
    ] = False,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell where a photo was taken, in a saved map; writes nothing.

    The exit code is 3 where the map does not show what the photo shows, as far as it can tell.
    """
    from ..colmap.intrinsics import camera_from_text
    from ..maps.localizer import Localizer

    given = None if camera is None else camera_from_text(camera)
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights, device=device,
        num_retrieved=num_retrieved, max_error=max_error, places=places, min_inliers=min_inliers,
        refine_focal=refine_focal, turns=turns,
    )  # fmt: skip
    options = localizer.options
    if resize is not None:
        options = replace(options, resize=resize)
    if max_keypoints is not None:
        options = replace(options, max_keypoints=max_keypoints)
    localizer.options = options
    found = localizer.localize(image, given)
    if as_json:
        typer.echo(json.dumps(found.as_json(weak=weak), indent=1))
    else:
        if found.refused is not None:
            typer.echo(f"{image}: not localized, {found.refused}")
        elif found.turned:
            typer.echo(f"{image}: turned by {found.turned} degrees, clockwise")
        pose = found.pose or (found.weak_pose if weak else None)
        if pose is not None:
            values = " ".join(f"{value:.9g}" for value in [*pose.qvec, *pose.tvec])
            centre = ", ".join(f"{value:.3f}" for value in pose.centre)
            typer.echo(f"pose (qw qx qy qz tx ty tz, world to camera): {values}")
            typer.echo(f"camera centre: {centre}")
        if found.pose is not None and found.focal_deviation is not None:
            focal = found.camera.to_pycolmap().mean_focal_length()
            typer.echo(f"focal length: {focal:.1f} pixels, +- {found.focal_deviation:.1f}")
        typer.echo(
            f"{found.num_inliers} inliers of {found.num_correspondences} correspondences, "
            f"{found.num_matches} matches; confidence {found.confidence:.2f}"
        )
        stages = ", ".join(f"{name} {value:.2f}" for name, value in found.seconds.items())
        typer.echo(f"seconds: {stages}")
    if found.pose is None:
        raise typer.Exit(NOT_LOCALIZED)
