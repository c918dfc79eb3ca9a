"""``samfeat map build``, ``add``, ``remove``, ``info``, and ``samfeat localize``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .application import Application

_Map = Annotated[Path, typer.Option("--map", help="Folder of the saved map.")]
_Weights = Annotated[
    Path | None, typer.Option("--weights", help="The map's checkpoint; the shipped one by default.")
]
_Official = Annotated[
    bool, typer.Option("--official-weights", help="--weights is of the public release.")
]
NOT_LOCALIZED = 3  # exit code of `samfeat localize`

_NumRetrieved = Annotated[
    int, typer.Option("--num-retrieved", help="Database images to match with each photo.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    maps = Application(help="Saved maps, to localize single photos in.")
    maps.command("build")(_build)
    maps.command("add")(_add)
    maps.command("remove")(_remove)
    maps.command("info")(_info)
    app.add_typer(maps, name="map")
    app.command("localize")(_localize)


def _build(
    outputs: Annotated[Path, typer.Option("--outputs", help="Outputs of a finished run.")],
    map_dir: _Map,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Without keypoints that have no point: a few times smaller, poses a little worse.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a map.")] = False,
) -> None:
    """Save the map of a finished run in one folder."""
    from ..maps import building

    frozen = building.build(outputs, map_dir, compact=compact, overwrite=overwrite)
    size = sum(path.stat().st_size for path in map_dir.rglob("*") if path.is_file())
    typer.echo(
        f"{map_dir}: {len(frozen.images)} images, {len(frozen.xyz)} points, "
        f"{frozen.num_observations} observations, {size / 2**20:.1f} MB"
    )


def _add(
    map_dir: _Map,
    images: Annotated[Path, typer.Option("--images", help="Folder of the photos to add.")],
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list",
            help="The photos, 'name MODEL width height params...' lines; else all in the folder, "
            "with intrinsics from their EXIF.",
        ),
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option("--poses", help="Known poses, 'name qw qx qy qz tx ty tz' (world to camera)."),
    ] = None,
    min_inliers: Annotated[
        int, typer.Option("--min-inliers", help="Photos localized with fewer are left out.")
    ] = 30,
    weights: _Weights = None,
    official_weights: _Official = False,
    num_retrieved: _NumRetrieved = 20,
) -> None:
    """Add photos to a map, localized in it unless their poses are given, and points that only
    they show; nothing that is there is recomputed."""
    from ..colmap.cameras import Camera
    from ..colmap.poses import read_poses
    from ..datasets.queries import read_queries
    from ..files.image_folders import list_images
    from ..maps import building
    from ..maps.localizer import Localizer

    cameras: dict[str, Camera | None]
    if listed is None:
        cameras = dict.fromkeys(list_images(images))
    else:
        cameras = {query.name: query.camera for query in read_queries(listed, "")}
    if not cameras:
        raise SamfeatError(images, "no photos to add", "check the folder")
    known = {} if poses is None else read_poses(poses)
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights, num_retrieved=num_retrieved
    )
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
    names: Annotated[list[str], typer.Argument(help="Names of the images, as db/1.jpg.")],
) -> None:
    """Remove images from a map: poses, keypoints and descriptors."""
    from ..maps import saved_map

    saved_map.drop(map_dir, names)
    typer.echo(f"{map_dir}: {len(set(names))} images removed")


def _info(map_dir: _Map) -> None:
    """Say what a map holds, after comparing its files with their hashes."""
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
    map_dir: _Map,
    image: Annotated[Path, typer.Option("--image", help="The photo.")],
    camera: Annotated[
        str | None,
        typer.Option("--camera", help='"MODEL width height params..."; else from the EXIF.'),
    ] = None,
    refine_focal: Annotated[
        bool | None,
        typer.Option(
            "--refine-focal/--no-refine-focal",
            help="Find the focal length with the pose; by default unless --camera is given.",
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option("--resize", help="Longer side in pixels, instead of the map's.")
    ] = None,
    max_keypoints: Annotated[
        int | None, typer.Option("--max-keypoints", help="Instead of the map's.")
    ] = None,
    num_retrieved: _NumRetrieved = 20,
    max_error: Annotated[
        float, typer.Option("--max-error", help="Of a pose's inliers, in pixels.")
    ] = 12.0,
    places: Annotated[
        bool, typer.Option("--places/--no-places", help="Leave out images of lookalike places.")
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
    weights: _Weights = None,
    official_weights: _Official = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Localize one photo in a saved map; writes nothing.

    The exit code is 3 where the map does not show what the photo shows, as far as it can tell.
    """
    from ..colmap.intrinsics import camera_from_text
    from ..maps.localizer import Localizer

    given = None if camera is None else camera_from_text(camera)
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights,
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
