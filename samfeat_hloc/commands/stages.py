"""``samfeat features``, ``global-descriptors``, ``pairs ...`` and ``matches``: stages alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .application import group
from .options import (
    DEFAULT_PREFIXES,
    DEFAULT_PRESET,
    STAGES,
    Device,
    Features,
    Images,
    MaskFolder,
    Motion,
    OfficialWeights,
    Output,
    Overlap,
    Overwrite,
    Pairs,
    Preset,
    RayAddress,
    ReferenceModel,
    Weights,
)

_Lists = Annotated[
    list[Path] | None,
    typer.Option(
        "--list",
        help="Text file of the images' names, the first word of each line; can be repeated.",
        show_default="all images of the folder",
    ),
]
_PairsOutput = Annotated[Path, typer.Option("--output", help="List of pairs to write.")]
_QueryLists = Annotated[
    list[Path] | None,
    typer.Option("--query-list", help="List of the queries' names; can be repeated."),
]
_QueryPrefix = Annotated[
    str | None,
    typer.Option(
        "--query-prefix",
        help="The queries are the images whose names start with this.",
        show_default=DEFAULT_PREFIXES["query"],
    ),
]
_DbLists = Annotated[
    list[Path] | None,
    typer.Option("--db-list", help="List of the database images' names; can be repeated."),
]
_DbPrefix = Annotated[
    str | None,
    typer.Option(
        "--db-prefix",
        help="The database images are those whose names start with this.",
        show_default=DEFAULT_PREFIXES["db"],
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("frames", rich_help_panel=STAGES)(_frames)
    app.command("features", rich_help_panel=STAGES)(_features)
    app.command("global-descriptors", rich_help_panel=STAGES)(_global_descriptors)
    app.command("matches", rich_help_panel=STAGES)(_matches)
    pairs = group(app, "pairs", "List pairs of images to match.", STAGES)
    pairs.command("covisibility")(_covisibility)
    pairs.command("retrieval")(_retrieval)
    pairs.command("poses")(_near)
    pairs.command("exhaustive")(_exhaustive)
    pairs.command("sequence")(_sequence)


def _features(
    images: Images,
    output: Output,
    lists: _Lists = None,
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    resize: Annotated[
        int | None,
        typer.Option("--resize", help="Longer side in pixels.", show_default="the preset's"),
    ] = None,
    max_keypoints: Annotated[
        int | None,
        typer.Option(
            "--max-keypoints", help="Keypoints an image at most.", show_default="the preset's"
        ),
    ] = None,
    masks: MaskFolder = None,
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            help="How descriptors are stored: full, half (half the size) or quantised (smaller).",
        ),
    ] = "half",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images in the network at once.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", help="Threads that decode images; ray for a cluster.")
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
    options = PRESETS[preset]
    if resize is not None:
        options = replace(options, resize=resize)
    if max_keypoints is not None:
        options = replace(options, max_keypoints=max_keypoints)
    names = list_images(images) if lists is None else _names_in(lists)
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
    db_list: _DbLists = None,
    db_prefix: _DbPrefix = None,
    query_list: _QueryLists = None,
    query_prefix: _QueryPrefix = None,
    clusters: Annotated[
        int, typer.Option("--clusters", help="Visual words of the VLAD vocabulary.")
    ] = 64,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe each image by one vector, the VLAD of its local features, for retrieval."""
    from ..localization import global_descriptors

    database = _chosen("db", features, "descriptors", db_list, db_prefix)
    queries = _chosen("query", features, "descriptors", query_list, query_prefix)
    global_descriptors.main(
        features, database, queries, output, clusters=clusters, device=device, overwrite=overwrite
    )


def _covisibility(
    reference_model: ReferenceModel,
    output: _PairsOutput,
    num_covisible: Annotated[
        int, typer.Option("--num-covisible", help="Covisible images paired with each image.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Pair images that see the same points of a COLMAP model."""
    from ..localization import pairs

    pairs.from_covisibility(reference_model, output, num_matched=num_covisible, overwrite=overwrite)


def _retrieval(
    descriptors: Annotated[
        Path,
        typer.Option(
            "--global-descriptors",
            help="File of global descriptors (HDF5, as hloc's and `samfeat global-descriptors`').",
        ),
    ],
    output: _PairsOutput,
    db_list: _DbLists = None,
    db_prefix: _DbPrefix = None,
    query_list: _QueryLists = None,
    query_prefix: _QueryPrefix = None,
    num_retrieved: Annotated[
        int, typer.Option("--num-retrieved", help="Database images paired with each query.")
    ] = 50,
    overwrite: Overwrite = False,
) -> None:
    """Pair queries with the database images that look most similar."""
    from ..localization import pairs

    database = _chosen("db", descriptors, "global_descriptor", db_list, db_prefix)
    queries = _chosen("query", descriptors, "global_descriptor", query_list, query_prefix)
    pairs.from_retrieval(
        descriptors, queries, database, output, num_matched=num_retrieved, overwrite=overwrite
    )


def _matches(
    pairs: Pairs,
    features: Features,
    output: Output,
    features_ref: Annotated[
        Path | None,
        typer.Option(
            "--features-ref",
            help="Feature file of the pairs' second images.",
            show_default="--features",
        ),
    ] = None,
    mutual: Annotated[
        bool, typer.Option("--mutual/--no-mutual", help="Keep mutual nearest neighbours only.")
    ] = True,
    distance_threshold: Annotated[
        float | None,
        typer.Option(
            "--distance-threshold",
            help="Drop matches whose descriptors are farther apart (0 to 2).",
            show_default="none",
        ),
    ] = None,
    ratio_threshold: Annotated[
        float | None,
        typer.Option(
            "--ratio-threshold",
            help="Drop matches whose distance is more than this share of the second nearest's.",
            show_default="none",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", help="Pairs matched at a time on a CPU; ray for a cluster."),
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


def _near(
    reference_model: ReferenceModel,
    output: _PairsOutput,
    num_near: Annotated[
        int, typer.Option("--num-near", help="Nearest images paired with each image.")
    ] = 20,
    max_angle: Annotated[
        float,
        typer.Option(
            "--max-angle", help="Largest angle between their viewing directions, in degrees."
        ),
    ] = 30.0,
    overwrite: Overwrite = False,
) -> None:
    """Pair images whose cameras are near each other and look the same way; no points needed."""
    from ..localization import pairs_by_rule

    pairs_by_rule.from_poses(
        reference_model, output, num_matched=num_near, most_angle=max_angle, overwrite=overwrite
    )


def _exhaustive(
    lists: Annotated[
        list[Path],
        typer.Option(
            "--list", help="List of images, the first word of each line; can be repeated."
        ),
    ],
    output: _PairsOutput,
    db_list: Annotated[
        list[Path] | None,
        typer.Option(
            "--db-list", help="Pair with these images, not with each other; can be repeated."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pair every image with every other, or every query with every database image."""
    from ..localization import pairs_by_rule

    others = None if db_list is None else _names_in(db_list)
    pairs_by_rule.exhaustive(_names_in(lists), output, others=others, overwrite=overwrite)


def _sequence(
    output: _PairsOutput,
    lists: _Lists = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, in place of lists.")
    ] = None,
    overlap: Overlap = 10,
    descriptors: Annotated[
        Path | None,
        typer.Option(
            "--global-descriptors",
            help="File of global descriptors, to pair images too that look alike and are far apart "
            "in the sequence: loop closure.",
        ),
    ] = None,
    num_retrieved: Annotated[
        int, typer.Option("--num-retrieved", help="Such images paired with each image at most.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Pair images with those that follow them, in the order of their names (2 before 10).

    Each folder is a sequence of its own.
    """
    from ..files.image_folders import list_images
    from ..localization import sequences

    if (lists is None) == (images is None):
        raise SamfeatError("--images", "give it or --list", "one of them names the images")
    names = _names_in(lists or []) if images is None else list_images(images)
    sequences.main(
        names, output, overlap=overlap, descriptors=descriptors, num_retrieved=num_retrieved,
        overwrite=overwrite,
    )  # fmt: skip


def _frames(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The video.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of frames to write.")],
    motion: Motion = 0.1,
    overwrite: Overwrite = False,
) -> None:
    """Take the sharpest frames of a video between which the picture has moved."""
    from ..localization import video_frames

    frames = video_frames.main(video, output, motion=motion, overwrite=overwrite)
    typer.echo(f"{output}: {len(frames)} frames, to {frames[-1].seconds:.1f} s")


def _chosen(
    what: str, file: Path, dataset: str, lists: list[Path] | None, prefix: str | None
) -> list[str]:
    """Names from lists, or those in an HDF5 file that start with a prefix ("db/", "query/")."""
    from ..files.h5arrays import group_names, open_hdf5

    if lists is not None:
        if prefix is not None:
            raise SamfeatError(f"--{what}-prefix", f"give it or --{what}-list, not both")
        return _names_in(lists)
    prefix = DEFAULT_PREFIXES[what] if prefix is None else prefix
    with open_hdf5(file) as opened:
        names = [name for name in group_names(opened, dataset) if name.startswith(prefix)]
    if not names:
        raise SamfeatError(
            file,
            f"no image whose name starts with '{prefix}'",
            f"give --{what}-list or --{what}-prefix",
        )
    return names


def _names_in(lists: list[Path]) -> list[str]:
    """The first words of the lines of lists; lists of queries with intrinsics are such lists."""
    from ..files.images import check_name
    from ..files.textlines import data_lines

    names = []
    for path in lists:
        for number, tokens in data_lines(path):
            try:
                names.append(check_name(tokens[0]))
            except SamfeatError as error:
                raise SamfeatError(f"{path}:{number}", error) from None
    if not names:
        raise SamfeatError(lists[0], "it has no image name", "check the list")
    return names
