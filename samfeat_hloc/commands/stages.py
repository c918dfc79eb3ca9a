"""``samfeat features``, ``global-descriptors``, ``pairs ...`` and ``matches``: stages alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SamfeatError
from .application import Application

_Output = Annotated[Path, typer.Option("--output", help="File to write.")]
_Features = Annotated[Path, typer.Option("--features", help="Feature file.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what was made differently.")]
_Lists = Annotated[
    list[Path] | None,
    typer.Option("--list", help="Text file of image names, the first word of each line; repeat."),
]
_QueryLists = Annotated[
    list[Path] | None, typer.Option("--query-list", help="List of the queries' names; repeat.")
]
_QueryPrefix = Annotated[
    str | None, typer.Option("--query-prefix", help="Queries are the names starting so.")
]
_DbLists = Annotated[
    list[Path] | None, typer.Option("--db-list", help="List of database images' names; repeat.")
]
_DbPrefix = Annotated[
    str | None, typer.Option("--db-prefix", help="Database images are the names starting so.")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="Ray cluster of --workers ray; RAY_ADDRESS by default."),
]
_NumMatched = Annotated[int, typer.Option("--num-matched", help="At most so many pairs an image.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("features")(_features)
    app.command("global-descriptors")(_global_descriptors)
    app.command("matches")(_matches)
    pairs = Application(help="Lists of image pairs to match.")
    pairs.command("covisibility")(_covisibility)
    pairs.command("retrieval")(_retrieval)
    app.add_typer(pairs, name="pairs")


def _features(
    images: Annotated[Path, typer.Option("--images", help="Folder of the images.")],
    output: _Output,
    lists: _Lists = None,
    config: Annotated[
        str, typer.Option("--config", help="Preset, such as samfeat_aachen.")
    ] = "samfeat_aachen",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint; the shipped one by default.")
    ] = None,
    official_weights: Annotated[
        bool, typer.Option("--official-weights", help="--weights is of the public release.")
    ] = False,
    resize: Annotated[
        int | None, typer.Option("--resize", help="Longer side in pixels, instead of the preset's.")
    ] = None,
    max_keypoints: Annotated[
        int | None, typer.Option("--max-keypoints", help="Instead of the preset's.")
    ] = None,
    storage: Annotated[
        str, typer.Option("--storage", help="Of descriptors: full, half or quantised.")
    ] = "half",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images through the network at once.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", help="Threads that decode images; ray for a cluster.")
    ] = None,
    ray_address: RayAddress = None,
    overwrite: _Overwrite = False,
) -> None:
    """Extract local features of all images of a folder, or of those listed."""
    from ..feature.network import SAMFeat
    from ..feature.presets import PRESETS
    from ..files.image_folders import list_images
    from ..localization import features
    from ..parallel.cluster import chosen

    if config not in PRESETS:
        raise SamfeatError(
            f"--config {config}", "no such preset", f"choose from {', '.join(PRESETS)}"
        )
    options = PRESETS[config]
    if resize is not None:
        options = replace(options, resize=resize)
    if max_keypoints is not None:
        options = replace(options, max_keypoints=max_keypoints)
    names = list_images(images) if lists is None else _names_in(lists)
    with chosen(workers, ray_address) as (threads, cluster):
        model = SAMFeat.from_pretrained(weights, official=official_weights)
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
        )


def _global_descriptors(
    features: _Features,
    output: _Output,
    db_list: _DbLists = None,
    db_prefix: _DbPrefix = None,
    query_list: _QueryLists = None,
    query_prefix: _QueryPrefix = None,
    clusters: Annotated[int, typer.Option("--clusters", help="Size of the vocabulary.")] = 64,
    overwrite: _Overwrite = False,
) -> None:
    """Describe images by one vector each (VLAD of their local features), for retrieval."""
    from ..localization import global_descriptors

    database = _chosen("db", features, "descriptors", db_list, db_prefix)
    queries = _chosen("query", features, "descriptors", query_list, query_prefix)
    global_descriptors.main(
        features, database, queries, output, clusters=clusters, overwrite=overwrite
    )


def _covisibility(
    model: Annotated[Path, typer.Option("--model", help="Folder of a COLMAP model.")],
    output: _Output,
    num_matched: _NumMatched = 20,
    overwrite: _Overwrite = False,
) -> None:
    """Pair images that see the same points of a COLMAP model."""
    from ..localization import pairs

    pairs.from_covisibility(model, output, num_matched=num_matched, overwrite=overwrite)


def _retrieval(
    descriptors: Annotated[Path, typer.Option("--descriptors", help="Global descriptor file.")],
    output: _Output,
    db_list: _DbLists = None,
    db_prefix: _DbPrefix = None,
    query_list: _QueryLists = None,
    query_prefix: _QueryPrefix = None,
    num_matched: _NumMatched = 50,
    overwrite: _Overwrite = False,
) -> None:
    """Pair queries with the database images that look most similar."""
    from ..localization import pairs

    database = _chosen("db", descriptors, "global_descriptor", db_list, db_prefix)
    queries = _chosen("query", descriptors, "global_descriptor", query_list, query_prefix)
    pairs.from_retrieval(
        descriptors, queries, database, output, num_matched=num_matched, overwrite=overwrite
    )


def _matches(
    pairs: Annotated[Path, typer.Option("--pairs", help="Pairs file, 'name0 name1' a line.")],
    features: _Features,
    output: _Output,
    features_ref: Annotated[
        Path | None, typer.Option("--features-ref", help="Features of the second images.")
    ] = None,
    mutual: Annotated[bool, typer.Option(help="Keep mutual nearest neighbours only.")] = True,
    distance_threshold: Annotated[
        float | None,
        typer.Option("--distance-threshold", help="Of sqrt(2 - 2 cos); the preset's by default."),
    ] = None,
    ratio_threshold: Annotated[
        float | None, typer.Option("--ratio-threshold", help="Of nearest to second nearest.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", help="Pairs at a time on a processor; ray for a cluster."),
    ] = None,
    ray_address: RayAddress = None,
    overwrite: _Overwrite = False,
) -> None:
    """Match the features of image pairs."""
    from ..feature.presets import MATCH_DISTANCE_THRESHOLD
    from ..localization import matches
    from ..parallel.cluster import chosen

    if distance_threshold is None:
        distance_threshold = MATCH_DISTANCE_THRESHOLD
    config = matches.MatchConfig(mutual, distance_threshold, ratio_threshold)
    with chosen(workers, ray_address) as (threads, cluster):
        matches.main(
            pairs,
            features,
            output,
            features_ref=features_ref,
            config=config,
            workers=threads,
            overwrite=overwrite,
            cluster=cluster,
        )


def _chosen(
    what: str, file: Path, dataset: str, lists: list[Path] | None, prefix: str | None
) -> list[str]:
    """Names from lists, or those in an HDF5 file that start with a prefix ("db/", "query/")."""
    from ..files.h5arrays import group_names
    from ..files.provenance import open_hdf5

    if lists is not None:
        if prefix is not None:
            raise SamfeatError(f"--{what}-prefix", f"give it or --{what}-list, not both")
        return _names_in(lists)
    prefix = f"{what}/" if prefix is None else prefix
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
        raise SamfeatError(lists[0], "there is no image name in it", "check the list")
    return names
