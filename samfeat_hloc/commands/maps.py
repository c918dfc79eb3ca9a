"""``samfeat map add``, ``remove`` and ``info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError, some_of
from . import map_files
from .application import add_commands, group
from .options import (
    OWN_PHOTOS,
    Device,
    Images,
    KnownPoses,
    MapImages,
    MaskFolder,
    OfficialWeights,
    SavedMap,
    Weights,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    maps = group(app, "map", "Save a map in one folder, look into it, change it.", OWN_PHOTOS)
    map_files.register(maps)
    add_commands(maps, {"add": _add, "remove": _remove, "info": _info})


def _add(
    map_dir: SavedMap,
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
    poses: KnownPoses = None,
    min_inliers: Annotated[
        int, typer.Option(help="Leave out photos localized with fewer inliers.")
    ] = 30,
    masks: MaskFolder = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    num_retrieved: MapImages = 20,
    device: Device = None,
) -> None:
    """Add photos to a map, and the points that only they show; what is there stays as it is.

    A photo without a known pose is localized in the map.
    """
    from ..colmap.cameras import Camera
    from ..colmap.poses import read_poses
    from ..datasets.queries import read_queries
    from ..files.image_folders import list_images
    from ..files.masks import Masks
    from ..maps import building
    from ..maps.localizer import Localizer
    from ..parallel.image_checks import refuse_broken

    cameras: dict[str, Camera | None]
    if lists is None:
        cameras = dict.fromkeys(list_images(images))
    else:
        cameras = {q.name: q.camera for path in lists for q in read_queries(path, "")}
    if not cameras:
        raise SamfeatError(images, "no photos to add", "check the folder")
    known = {} if poses is None else read_poses(poses)
    if others := [name for name in known if name not in cameras]:
        if len(others) == len(known):
            raise SamfeatError(
                poses,
                f"no photo to add is called {some_of(others)}",
                "a name is the path below the folder",
            )
        typer.echo(f"{poses}: has {len(others)} poses of photos that are not added")
    localizer = Localizer.load(
        map_dir, weights=weights, official_weights=official_weights, device=device,
        num_retrieved=num_retrieved,
    )  # fmt: skip
    if lists is None:
        there = cameras.keys() & {image.name for image in localizer.map.images}
        cameras = {name: camera for name, camera in cameras.items() if name not in there}
        if not cameras:
            raise SamfeatError(images, f"all its photos are in {map_dir} already", "add others")
        if there:
            typer.echo(f"{map_dir}: has {len(there)} of the photos already, these stay as they are")
    refuse_broken(images, list(cameras))
    added = building.add(
        map_dir, localizer, images, cameras, poses=known, min_inliers=min_inliers,
        masks=None if masks is None else Masks(masks),
    )  # fmt: skip
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
    map_dir: SavedMap,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Names of images, such as db/1.jpg.")
    ],
) -> None:
    """Remove images from a map, with their keypoints and descriptors."""
    from ..maps import saved_map

    saved_map.drop(map_dir, names)
    count = len(set(names))
    typer.echo(f"{map_dir}: {count} image{'s' if count > 1 else ''} removed")


def _info(map_dir: SavedMap) -> None:
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
