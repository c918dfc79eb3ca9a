"""``samfeat run`` and ``samfeat demo``: a benchmark's dataset from photos to a submission."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SamfeatError
from .options import (
    BENCHMARK_PANEL,
    DEFAULT_BENCHMARK,
    DEFAULT_PRESET,
    DEFAULT_STORAGE,
    Benchmark,
    Device,
    FeatureType,
    LocalWorkers,
    MaskFolder,
    Method,
    OfficialWeights,
    Outputs,
    OverwriteStages,
    Places,
    Preset,
    Queries,
    RayAddress,
    Scene,
    Storage,
    Truth,
    Weights,
    Workers,
)

if TYPE_CHECKING:
    from ..parallel.cluster import Cluster
    from ..pipelines.run_options import RunOptions

PROTOCOLS = ("full", "local-features")
DEMO = Path("outputs/demo")

_Engine = Annotated[str, typer.Option(help="native, or hloc for hloc's own stages.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("run", rich_help_panel=BENCHMARK_PANEL)(_run)
    app.command("demo", rich_help_panel=BENCHMARK_PANEL)(_demo)


def _run(
    dataset: Annotated[
        Path | None,
        typer.Argument(metavar="DATASET", help="Dataset folder in the benchmark's layout."),
    ] = None,
    benchmark: Benchmark = DEFAULT_BENCHMARK,
    scene: Scene = None,
    queries: Queries = None,
    truth: Truth = None,
    outputs: Annotated[
        Path | None, typer.Option(help="Folder of all results; a run goes on where it stopped.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="full, or local-features for the benchmark's local-feature track.")
    ] = "full",
    engine: _Engine = "native",
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    db_pairs: Annotated[
        Path | None, typer.Option(help="Pairs of database images, in place of covisible ones.")
    ] = None,
    query_pairs: Annotated[
        Path | None,
        typer.Option(help="Pairs of queries and database images, in place of retrieved ones."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="All pairs of --protocol local-features, in place of the dataset's."),
    ] = None,
    feature_type: FeatureType = "samfeat",
    masks: MaskFolder = None,
    retrieval: Annotated[
        str | None,
        typer.Option(
            help="vlad, or one of hloc's global descriptors, such as netvlad.",
            show_default="the list that comes with the dataset, else vlad",
        ),
    ] = None,
    num_covisible: Annotated[
        int | None,
        typer.Option(
            help="Covisible images matched with each database image.",
            show_default="as hloc on the benchmark: 20 on Aachen",
        ),
    ] = None,
    num_retrieved: Annotated[
        int | None,
        typer.Option(
            help="Database images matched with each query.",
            show_default="as hloc on the benchmark: 50 on Aachen; "
            "20 with --protocol local-features",
        ),
    ] = None,
    places: Places = True,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest reprojection error of an inlier, in pixels.",
            show_default="as hloc on the benchmark: 12",
        ),
    ] = None,
    rig: Annotated[
        str | None,
        typer.Option(
            help="Localize together what the cameras of a rig took at once: COLMAP's "
            "rig_config.json, a COLMAP model or kapture folder with rigs, or dataset for the rigs "
            "of the dataset (robotcar, colmap).",
        ),
    ] = None,
    method: Method = "samfeat",
    workers: Workers = "2",
    ray_address: RayAddress = None,
    device: Device = None,
    storage: Storage = DEFAULT_STORAGE,
    depth: Annotated[
        bool, typer.Option("--depth", help="Put the map's points on the dataset's depth maps.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Draw matches, keypoints and the map.")
    ] = False,
    overwrite: OverwriteStages = False,
    demo: Annotated[bool, typer.Option("--demo", hidden=True)] = False,
) -> None:
    """Localize a benchmark's queries: map, poses, submission, and recalls where poses are known.

    An interrupted run goes on when the same command is given again.
    """
    from ..parallel.cluster import chosen
    from ..pipelines.run_options import RunOptions

    started = time.perf_counter()
    if protocol not in PROTOCOLS:
        raise SamfeatError(f"--protocol {protocol}", f"choose from {', '.join(PROTOCOLS)}")
    if demo:
        if dataset is not None:
            raise SamfeatError("--demo", "it makes its own dataset", "leave DATASET out")
        outputs = outputs or DEMO
        dataset = _demo_dataset(outputs)
    if dataset is None or outputs is None:
        raise SamfeatError("DATASET and --outputs", "give both")
    method = feature_type if method == "samfeat" else method
    with chosen(workers, ray_address, device) as (threads, cluster):
        if protocol == "local-features":
            for option, given in (
                ("--workers ray", cluster is not None),
                ("--storage", storage != DEFAULT_STORAGE),
                (f"--benchmark {benchmark}", benchmark != DEFAULT_BENCHMARK),
                (f"--engine {engine}", engine != "native"),
                (f"--retrieval {retrieval}", retrieval not in (None, "vlad")),
                ("--db-pairs", db_pairs),
                ("--query-pairs", query_pairs),
                ("--rig", rig),
            ):
                if given:
                    raise SamfeatError(
                        option,
                        "--protocol local-features has stages of its own, without this option",
                        "leave it out (--pairs takes a list of all pairs)",
                    )
            from ..pipelines import local_features as track
            from ..pipelines.reconstruct import ReconstructOptions

            how = ReconstructOptions(
                method=feature_type, preset=preset, weights=weights,
                official_weights=official_weights, workers=threads or 2, device=device,
                overwrite=overwrite, masks=masks,
            )  # fmt: skip
            registered = track.run(
                dataset,
                outputs,
                track.ProtocolOptions(
                    features=how,
                    pairs=pairs,
                    num_covisible=20 if num_covisible is None else num_covisible,
                    num_retrieved=20 if num_retrieved is None else num_retrieved,
                    method=method,
                ),
            )
            typer.echo(f"\n{registered.report()}\ndone in {time.perf_counter() - started:.0f} s")
            return
        if pairs:
            raise SamfeatError("--pairs", "it belongs to --protocol local-features")
        if pictures and feature_type != "samfeat":
            raise SamfeatError("--pictures", "they are of SAMFeat", "leave --feature-type out")
        options = RunOptions(
            engine=engine,
            features=feature_type,
            preset=preset,
            weights=weights,
            official_weights=official_weights,
            pairs_db=db_pairs,
            pairs_query=query_pairs,
            retrieval=retrieval,
            num_covisible=num_covisible,
            num_retrieved=num_retrieved,
            places=places,
            max_error=max_error,
            method=method,
            workers=threads or 2,
            storage=storage,
            device=device,
            overwrite=overwrite,
            benchmark=benchmark,
            scene=scene,
            queries=queries,
            truth=truth,
            depth=depth,
            masks=masks,
            rig=rig,
        )
        _whole(dataset, outputs, options, cluster, pictures=demo or pictures, started=started)


def _demo(
    outputs: Outputs = DEMO,
    engine: _Engine = "native",
    preset: Preset = DEFAULT_PRESET,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    num_db: Annotated[int, typer.Option(min=2, help="Photos of the city to map.")] = 40,
    num_queries: Annotated[int, typer.Option(min=1, help="Queries by day, and by night.")] = 10,
    size: Annotated[
        tuple[int, int], typer.Option(min=64, help="Width and height of the photos, in pixels.")
    ] = (640, 480),
    workers: LocalWorkers = 2,
    device: Device = None,
    overwrite: OverwriteStages = False,
) -> None:
    """Generate a small city, photograph it by day and by night, and run everything on that.

    Needs no download. Takes a few minutes on two cores; --preset samfeat_fast takes less.
    """
    from ..pipelines.run_options import RunOptions

    started = time.perf_counter()
    options = RunOptions(
        engine=engine, preset=preset, weights=weights, official_weights=official_weights,
        workers=workers, device=device, overwrite=overwrite,
    )  # fmt: skip
    dataset = _demo_dataset(outputs, num_db, num_queries, size)
    _whole(dataset, outputs, options, pictures=True, started=started)


def _demo_dataset(
    outputs: Path, num_db: int = 40, num_queries: int = 10, size: tuple[int, int] = (640, 480)
) -> Path:
    from ..scenes import write_demo

    folder = outputs / "demo-dataset"
    return write_demo(folder, num_db=num_db, num_queries=num_queries, size=size)


def _whole(
    dataset: Path,
    outputs: Path,
    options: RunOptions,
    cluster: Cluster | None = None,
    *,
    pictures: bool,
    started: float,
) -> None:
    """Run all stages and print what came out."""
    from ..pipelines.scenes import run_scenes, scenes_table, submit_all

    runs = run_scenes(dataset, outputs, options, cluster=cluster)
    for done in runs:
        named = f"{done.dataset.scene}\n" if len(runs) > 1 else ""
        typer.echo(f"\n{named}{done.summary.table()}\n")
        if done.evaluation is not None and len(runs) == 1:
            typer.echo(f"{done.evaluation.table()}\n")
        if pictures and options.features == "samfeat":
            from ..pictures.run import write_pictures

            for path in write_pictures(done, options.preset):
                typer.echo(f"picture: {path}")
    measured = {
        done.dataset.scene or "": done.evaluation for done in runs if done.evaluation is not None
    }
    if len(runs) > 1 and measured:
        typer.echo(f"{scenes_table(measured)}\n")
    submitted = [submit_all(runs, outputs, options.method)]
    if submitted[0] is None:
        submitted = [done.submission for done in runs]
    for path in filter(None, submitted):
        queries = sum(len(done.dataset.to_submit) for done in runs)
        typer.echo(f"submission: {path}, all {queries} queries, checked")
    typer.echo(f"done in {time.perf_counter() - started:.0f} s")
