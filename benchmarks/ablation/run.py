"""Does the teacher teach? What each part of the paper brings, with people as the teacher.

    python benchmarks/ablation/run.py --photos PHOTOS --label-maps SEGMENTS --measure PAIRS --measure PLANAR
    python benchmarks/ablation/run.py --tables

Teaches (`samfeat teach --teacher labels`), then trains and measures every arm of `samfeat ablate` with
every seed, all beginning with ``start.safetensors`` beside this file. Each run's result is a JSON file
in docs/ablation, in a folder for its number of pairs and their size; runs whose result is there are
not done again, whatever machine did them, and a run that was interrupted goes on. docs/ablation has
what was expected.
"""  # noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samfeat_hloc.cli import run_program
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.teachers import teach
from samfeat_hloc.teachers.registry import TeacherOptions
from samfeat_hloc.training import ablation, ablation_tables
from samfeat_hloc.training.recipe import read_recipe

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START = HERE / "start.safetensors"


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of photos.")] = None,
    label_maps: Annotated[
        Path | None, typer.Option(help="Folder of label maps of some of them.")
    ] = None,
    measure: Annotated[
        list[Path] | None, typer.Option(help="A folder in HPatches' layout; repeat it.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Of each run; a multiple of --batch.")] = 960,
    crop: Annotated[int, typer.Option(min=32, help="Side of a view, pixels.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 3,
    arm: Annotated[list[str] | None, typer.Option(help="Of samfeat ablate; repeat it.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the results, in docs/ablation if not given.")
    ] = None,
    work: Annotated[Path, typer.Option(help="For the teacher's cache and the runs.")] = Path(
        "runs/ablation"
    ),
    tables: Annotated[
        bool, typer.Option("--tables", help="Only print the results' tables.")
    ] = False,
) -> None:
    """Train and measure what is not done yet, and print the tables."""
    results = results or ROOT / "docs" / "ablation" / f"{pairs}-pairs-{crop}px"
    if not tables:
        if photos is None or label_maps is None or not measure:
            raise SamfeatError(
                "--photos, --label-maps, --measure",
                "all are needed to train",
                "--tables without them",
            )
        if pairs % batch:
            raise SamfeatError(f"--pairs {pairs}", f"is no multiple of --batch {batch}")
        cache = work / "people.h5"
        work.mkdir(parents=True, exist_ok=True)
        teach.main(photos, cache, teacher="labels", skip_unlabelled=True, device="cpu",
                   options=TeacherOptions(label_dir=label_maps))  # fmt: skip
        recipe = read_recipe(ROOT / "configs" / "ablation.yaml", [
            f"data.images={photos}", f"data.teacher={cache}", f"start_from={START}",
            f"data.packed={work / 'photos.pack'}", f"output={work / results.name}",
            f"train.steps={pairs // batch}", f"train.batch={batch}", f"pairs.crop={crop}",
        ])  # fmt: skip
        ablation.ablate(
            recipe, arms=arm or list(ablation.TEACHERS_ARMS), seeds=range(1, seeds + 1),
            measured=measure, results=results,
        )  # fmt: skip
    text = ablation_tables.tables(ablation.read_results(results))
    typer.echo(text)
    write_atomically(results / "tables.md", text + "\n")


if __name__ == "__main__":
    run_program(main)
