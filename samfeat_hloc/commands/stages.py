"""``samfeat frames``, ``features``, ``global-descriptors`` and ``matches``: stages alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .application import add_commands
from .image_lists import DbLists, DbPrefix, Lists, QueryLists, QueryPrefix, chosen_names, names_in
from .options import (
    DEFAULT_PRESET,
    DEFAULT_STORAGE,
    STAGES,
    Device,
    Features,
    Images,
    MaskFolder,
    Motion,
    OfficialWeights,
    Output,
    Overwrite,
    Pairs,
    Preset,
    RayAddress,
    Storage,
    Weights,
    max_keypoints_option,
    resize_option,
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    add_commands(
        app,
        {
            "frames": _frames,
            "features": _features,
            "global-descriptors": _global_descriptors,
            "matches": _matches,
        },
        STAGES,
    )


def _features(
    images: Images,
    output: Output,
    lists: Lists = None,
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    resize: Annotated[int | None, resize_option("the preset's")] = None,
    max_keypoints: Annotated[int | None, max_keypoints_option("the preset's")] = None,
    masks: MaskFolder = None,
    storage: Storage = DEFAULT_STORAGE,
    batch_size: Annotated[int | None, typer.Option(help="Images in the network at once.")] = None,
    workers: Annotated[
        str | None, typer.Option(help="Threads that decode images; ray for a cluster.")
    ] = None,
    ray_address: RayAddress = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Extract the local features of all images of a folder, or of those listed."""
    from ..feature.network import SAMFeat
    from ..feature.presets import PRESETS
    from ..files.image_folders import list_images
    from ..files.masks import Masks
    from ..localization import features
    from ..parallel.cluster import chosen

    if preset not in PRESETS:
        raise SamfeatError(
            f"--preset {preset}", "no such preset", f"choose from {', '.join(PRESETS)}"
        )
    options = PRESETS[preset].limited(resize, max_keypoints)
    names = list_images(images) if lists is None else names_in(lists)
    with chosen(workers, ray_address, device) as (threads, cluster):
        model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
        features.main(
            images,
            names,
            output,
            model=model,
            options=options,
            batch_size=batch_size,
            workers=threads,
            storage=storage,
            overwrite=overwrite,
            cluster=cluster,
            masks=None if masks is None else Masks(masks),
        )


def _global_descriptors(
    features: Features,
    output: Output,
    db_list: DbLists = None,
    db_prefix: DbPrefix = None,
    query_list: QueryLists = None,
    query_prefix: QueryPrefix = None,
    clusters: Annotated[int, typer.Option(help="Visual words of the VLAD vocabulary.")] = 64,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe each image by one vector, the VLAD of its local features, for retrieval."""
    from ..localization import global_descriptors

    database = chosen_names("db", features, "descriptors", db_list, db_prefix)
    queries = chosen_names("query", features, "descriptors", query_list, query_prefix)
    global_descriptors.main(
        features, database, queries, output, clusters=clusters, device=device, overwrite=overwrite
    )


def _matches(
    pairs: Pairs,
    features: Features,
    output: Output,
    features_ref: Annotated[
        Path | None,
        typer.Option(help="Feature file of the pairs' second images.", show_default="--features"),
    ] = None,
    mutual: Annotated[
        bool, typer.Option("--mutual/--no-mutual", help="Keep mutual nearest neighbours only.")
    ] = True,
    distance_threshold: Annotated[
        float | None,
        typer.Option(
            help="Drop matches whose descriptors are farther apart (0 to 2).", show_default="none"
        ),
    ] = None,
    ratio_threshold: Annotated[
        float | None,
        typer.Option(
            help="Drop matches whose distance is more than this share of the second nearest's.",
            show_default="none",
        ),
    ] = None,
    workers: Annotated[
        str | None, typer.Option(help="Pairs matched at a time on a CPU; ray for a cluster.")
    ] = None,
    ray_address: RayAddress = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Match the features of image pairs."""
    from ..feature.presets import MATCH_DISTANCE_THRESHOLD
    from ..localization import matches
    from ..parallel.cluster import chosen

    if distance_threshold is None:
        distance_threshold = MATCH_DISTANCE_THRESHOLD
    config = matches.MatchConfig(mutual, distance_threshold, ratio_threshold)
    with chosen(workers, ray_address, device) as (threads, cluster):
        matches.main(
            pairs,
            features,
            output,
            features_ref=features_ref,
            config=config,
            device=device,
            workers=threads,
            overwrite=overwrite,
            cluster=cluster,
        )


def _frames(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The video.")],
    output: Annotated[Path, typer.Option(help="Folder of frames to write.")],
    motion: Motion = 0.1,
    overwrite: Overwrite = False,
) -> None:
    """Take the sharpest frames of a video between which the picture has moved."""
    from ..localization import video_frames

    frames = video_frames.main(video, output, motion=motion, overwrite=overwrite)
    typer.echo(f"{output}: {len(frames)} frames, to {frames[-1].seconds:.1f} s")
