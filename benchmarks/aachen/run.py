"""The Aachen Day-Night v1.1 benchmark, or any dataset in its layout, from photos to a submission.

    python benchmarks/aachen/run.py --dataset DIR --outputs DIR
    python benchmarks/aachen/run.py --demo
    python benchmarks/aachen/run.py --protocol local-features --dataset DIR --outputs DIR

The demo needs no download: it generates a small city, photographs it by day and by night, and runs
everything on that.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from samfeat_hloc.cli import run as run_application
from samfeat_hloc.commands.stages import RayAddress
from samfeat_hloc.errors import SamfeatError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    dataset: Annotated[Path | None, typer.Option(help="Dataset in Aachen's layout.")] = None,
    outputs: Annotated[
        Path | None, typer.Option(help="Folder of all results; outputs/demo for the demo.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Generate a city and run on it.")] = False,
    protocol: Annotated[
        str,
        typer.Option(help="full, or local-features for the benchmark's local-feature track."),
    ] = "full",
    engine: Annotated[str, typer.Option(help="native, or hloc for hloc's own stages.")] = "native",
    conf: Annotated[
        str | None, typer.Option(help="Preset of extraction; samfeat_aachen unless given.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; else the shipped one.")] = None,
    official_weights: Annotated[
        bool, typer.Option("--official-weights", help="--weights is a file of the public release.")
    ] = False,
    db_pairs: Annotated[
        Path | None, typer.Option(help="Database pairs to use, in place of covisibility.")
    ] = None,
    query_pairs: Annotated[
        Path | None, typer.Option(help="Query pairs to use, in place of retrieval.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="All pairs of --protocol local-features, in place of the dataset's."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="samfeat, or rootsift to compare with.")
    ] = "samfeat",
    retrieval: Annotated[
        str, typer.Option(help="vlad, or a global descriptor of hloc's, such as netvlad.")
    ] = "vlad",
    num_covisible: Annotated[int, typer.Option(help="Pairs for each database image.")] = 20,
    num_retrieved: Annotated[
        int | None,
        typer.Option(
            help="Database images for each query; 50, or 20 with --protocol local-features."
        ),
    ] = None,
    places: Annotated[
        bool, typer.Option(help="Leave out retrieved images of lookalike places.")
    ] = True,
    max_error: Annotated[float, typer.Option(help="Of a pose's inliers, in pixels.")] = 12.0,
    method: Annotated[str, typer.Option(help="Name in the submission's file name.")] = "samfeat",
    workers: Annotated[
        str,
        typer.Option(
            help="Threads and processes of a stage; ray for extraction, matching and localization "
            "on a cluster."
        ),
    ] = "2",
    ray_address: RayAddress = None,
    storage: Annotated[
        str | None, typer.Option(help="Of descriptors: half unless given; full or quantised.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Write pictures (the demo always does).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")] = False,
) -> None:
    """Map, localize, write and check the submission; evaluate it where there is ground truth."""
    from samfeat_hloc.parallel.cluster import chosen
    from samfeat_hloc.pipelines.run import run
    from samfeat_hloc.pipelines.run_options import RunOptions

    started = time.perf_counter()
    if protocol not in ("full", "local-features"):
        raise SamfeatError(f"--protocol {protocol}", "choose from full, local-features")
    if demo:
        if dataset is not None:
            raise SamfeatError("--demo", "it makes its own dataset", "leave --dataset out")
        outputs = outputs or Path("outputs/demo")
        dataset = _demo_dataset(outputs / "demo-dataset")
    if dataset is None or outputs is None:
        raise SamfeatError("--dataset and --outputs", "give both, or --demo")
    with chosen(workers, ray_address) as (threads, cluster):
        if protocol == "local-features":
            from samfeat_hloc.pipelines import local_features as track
            from samfeat_hloc.pipelines.reconstruct import ReconstructOptions

            if cluster is not None:
                raise SamfeatError("--workers ray", "it belongs to --protocol full")
            if storage is not None:
                raise SamfeatError("--storage", "it belongs to --protocol full")
            if engine != "native" or retrieval != "vlad" or db_pairs or query_pairs:
                raise SamfeatError(
                    "--protocol local-features",
                    "it has its own stages",
                    (
                        "leave --engine, --retrieval, --db-pairs and --query-pairs out (--pairs "
                        "takes a list of all pairs)"
                    ),
                )
            how = ReconstructOptions(
                method=features,
                conf=conf or "samfeat_aachen",
                weights=weights,
                official_weights=official_weights,
                workers=threads or 2,
                overwrite=overwrite,
            )
            registered = track.run(
                dataset,
                outputs,
                track.ProtocolOptions(
                    features=how,
                    pairs=pairs,
                    num_covisible=num_covisible,
                    num_retrieved=20 if num_retrieved is None else num_retrieved,
                    method=features if method == "samfeat" else method,
                ),
            )
            typer.echo(f"\n{registered.report()}\ndone in {time.perf_counter() - started:.0f} s")
            return
        if pairs:
            raise SamfeatError("--pairs", "it belongs to --protocol local-features")
        if pictures and features != "samfeat":
            raise SamfeatError("--pictures", "they are of SAMFeat", "leave --features out")
        options = RunOptions(
            engine=engine,
            features=features,
            conf=conf or "samfeat_aachen",
            weights=weights,
            official_weights=official_weights,
            pairs_db=db_pairs,
            pairs_query=query_pairs,
            retrieval=retrieval,
            num_covisible=num_covisible,
            num_retrieved=50 if num_retrieved is None else num_retrieved,
            places=places,
            max_error=max_error,
            method=features if method == "samfeat" else method,
            workers=threads or 2,
            storage=storage or "half",
            overwrite=overwrite,
        )
        done = run(dataset, outputs, options, cluster=cluster)
    typer.echo(f"\n{done.summary.table()}\n")
    if done.evaluation is not None:
        typer.echo(f"{done.evaluation.table()}\n")
    if (demo or pictures) and features == "samfeat":
        from samfeat_hloc.pictures.run import write_pictures

        for path in write_pictures(done, options.conf):
            typer.echo(f"picture: {path}")
    typer.echo(f"submission: {done.submission}, all {len(done.result.queries)} queries, checked")
    typer.echo(f"done in {time.perf_counter() - started:.0f} s")


def _demo_dataset(folder: Path) -> Path:
    from samfeat_hloc.scenes import write_demo

    return write_demo(folder)


if __name__ == "__main__":
    run_application(app)
