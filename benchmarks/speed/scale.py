"""Whether cost grows as the work does: a city of random features, at several sizes.

    python benchmarks/speed/scale.py --aachen DIR --outputs DIR [--sizes 0.1,1,10] [--output FILE]

Names, intrinsics and pairs are those of Aachen Day-Night v1.1 (its metadata alone: the benchmark's
``database_v1_1.db`` and ``image_pairs_to_match_v1_1.txt``, and hloc's
``pairs-query-netvlad50.txt``); a size below 1 takes the first queries with the images retrieved for
them, one above 1 repeats everything under other names. Features are random, few, and quick to make:
what is measured is the work around them. Localization has a map of its own (`city.write_map`), with
places to tell apart and poses to find. Every stage runs in a process of its own, whose peak
memory is its own. A run that was interrupted goes on with the stage that it was in, from its
beginning: half a stage has no time. ``OUTPUTS/measured.jsonl`` has what is done.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import city
import numpy as np
import pycolmap
import typer

from samfeat_hloc.cli import run_program
from samfeat_hloc.colmap import triangulation
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation import speed
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.files import provenance
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader
from samfeat_hloc.files.h5store import Group, SegmentWriter
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import global_descriptors, localize, matches, pairs, places
from samfeat_hloc.localization.inputs import LocalizationInputs
from samfeat_hloc.progress import tqdm

DIM = 128
CLUSTERS = 16
CACHE_BYTES = 32 << 20  # of matching: less than the smallest city has
WHOLE = "city.whole"  # a file that says that the lists are
OUTPUTS = {
    "features": ["features.h5"],
    "global descriptors": ["global-descriptors.h5"],
    "retrieval": ["retrieved.txt"],
    "matching": ["matches-"],
    "verification": ["database.db"],
    "map": ["map", "matches-map.h5"],  # made for the next, and not measured
    "localization": ["pairs-places.txt", "poses.txt"],
}
STAGES = tuple(name for name in OUTPUTS if name != "map")


def main(
    aachen: Annotated[Path, typer.Option(help="Folder of Aachen v1.1's metadata.")],
    outputs: Annotated[Path, typer.Option(help="Folder for the generated cities.")],
    sizes: Annotated[
        str, typer.Option(help="Sizes as multiples of Aachen's, separated by commas.")
    ] = "0.1,1,10",
    keypoints: Annotated[int, typer.Option(help="Number of random keypoints of each image.")] = 128,
    keep: Annotated[bool, typer.Option(help="Keep the files of finished cities.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the record as JSON to this file.")
    ] = None,
    stage: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure every stage at every size; print seconds an item and peak memory."""
    if stage is not None:
        return _measure(stage, outputs, keypoints)
    before = speed.load()
    listed = sizes.split(",")
    log = outputs / "measured.jsonl"
    done = _measured(log, keypoints)
    for size in listed:  # a city whose files are gone, half measured, begins anew
        keys = [(float(size), name) for name in STAGES]
        if not (outputs / f"city-{size}" / WHOLE).is_file() and not done.keys() >= set(keys):
            done = {key: entry for key, entry in done.items() if key not in keys}
    found: list[dict[str, Any]] = []
    steps = [(size, name) for size in listed for name in STAGES]
    with tqdm(total=len(steps), desc="stages") as progress:
        for size, name in steps:
            progress.set_postfix_str(f"size {size}, {name}")
            if (float(size), name) not in done:
                work = outputs / f"city-{size}"
                if not (work / WHOLE).is_file():
                    shutil.rmtree(work, ignore_errors=True)
                    work.mkdir(parents=True)
                    city.write_city(aachen, work, float(size))
                    (work / WHOLE).touch()
                if name == "localization":
                    _in_its_process(aachen, work, keypoints, "map")
                entry = {"size": float(size), "stage": name, "keypoints": keypoints}
                entry |= _in_its_process(aachen, work, keypoints, name)
                with log.open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                done[float(size), name] = entry
                if name == STAGES[-1] and not keep:
                    shutil.rmtree(work)
            found.append(done[float(size), name])
            progress.write(line(found[-1]))
            progress.update()
    typer.echo("\nlargest size beside the smallest, and the middle one")
    for name in STAGES:
        of_stage = [entry for entry in found if entry["stage"] == name]
        for key in ("seconds_an_item", "processor_seconds_an_item", "peak_mb"):
            values = [float(entry[key]) for entry in of_stage]
            ratios = " ".join(f"{value / values[0]:.2f}" for value in values[1:])
            typer.echo(f"  {name:20} {key:26} {ratios}")
    if output is not None:
        record = measurement({"sizes": sizes, "keypoints": keypoints})
        record |= {"stages": found, "load": {"before": before, "after": speed.load()}}
        write_atomically(output, json.dumps(record, indent=1) + "\n")


def _measured(log: Path, keypoints: int) -> dict[tuple[float, str], dict[str, Any]]:
    """What an earlier run has measured with as many keypoints, by size and stage."""
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    if lines and not lines[-1].endswith("\n"):  # a kill has cut it
        lines.pop()
        write_atomically(log, "".join(lines))
    entries = [json.loads(text) for text in lines]
    return {(e["size"], e["stage"]): e for e in entries if e["keypoints"] == keypoints}


def _in_its_process(aachen: Path, work: Path, keypoints: int, stage: str) -> dict[str, Any]:
    for output in OUTPUTS[stage]:  # of a stage that was interrupted
        for path in work.glob(f"{output}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    command = [sys.executable, __file__, "--aachen", str(aachen), "--outputs", str(work),
               "--keypoints", str(keypoints), "--stage", stage]  # fmt: skip
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if finished.returncode:
        raise SamfeatError(work, f"stage {stage} failed", "its error is above")
    size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    entry: dict[str, Any] = json.loads(finished.stdout.split(b"\n")[-2])
    return {**entry, "disk_mb": size / 2**20}


def line(entry: dict[str, Any]) -> str:
    return (
        f"{entry['size']:6} {entry['stage']:20} {entry['items']:>8} {entry['unit']:7}"
        f" {1000 * float(entry['seconds_an_item']):9.3f} ms by the clock,"
        f" {1000 * float(entry['processor_seconds_an_item']):9.3f} ms of processors an item,"
        f" peak {entry['peak_mb']:.0f} MB"
    )


def _measure(stage: str, work: Path, keypoints: int) -> None:
    """One stage in this process; a line of JSON on standard output."""
    images = (work / "images.txt").read_text().split()
    queries = [query.name for query in city.queries_of(work)]
    features, descriptors = work / "features.h5", work / "global-descriptors.h5"
    stages: dict[str, Callable[[], tuple[int, str]]] = {
        "features": lambda: _features([*images, *queries], features, keypoints),
        "global descriptors": lambda: _describe(images, queries, features, descriptors),
        "retrieval": lambda: _retrieve(images, queries, descriptors, work),
        "matching": lambda: _match(features, work),
        "verification": lambda: _verify(features, work),
        "map": lambda: _map(features, work, keypoints),
        "localization": lambda: _localize(features, work),
    }
    start, used = time.perf_counter(), time.process_time()
    items, unit = stages[stage]()
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    entry = {"items": items, "unit": unit, "seconds": seconds, "seconds_an_item": seconds / items,
             "processor_seconds_an_item": processor / items, "peak_mb": peak}  # fmt: skip
    typer.echo("\n" + json.dumps(entry))


def _features(names: list[str], output: Path, keypoints: int) -> tuple[int, str]:
    random = np.random.default_rng(0)
    made_by = provenance.made_by("features", {"random": keypoints}, {})
    with SegmentWriter(output, made_by) as writer:
        for name in names:
            rows = random.standard_normal((keypoints, DIM), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            group = Group(
                {
                    "keypoints": random.uniform(0, 700, (keypoints, 2)).astype(np.float32),
                    "keypoint_scores": random.random(keypoints, dtype=np.float32),
                    "descriptors": rows.T.astype(np.float16),
                }
            )
            writer.add({name: group})
        writer.finish()
    return len(names), "images"


def _describe(
    images: list[str], queries: list[str], features: Path, output: Path
) -> tuple[int, str]:
    global_descriptors.main(features, images, queries, output, clusters=CLUSTERS)
    return len(images) + len(queries), "images"


def _retrieve(
    images: list[str], queries: list[str], descriptors: Path, work: Path
) -> tuple[int, str]:
    pairs.from_retrieval(descriptors, queries, images, work / "retrieved.txt", num_matched=50)
    return len(images) + len(queries), "images"


def _match(features: Path, work: Path) -> tuple[int, str]:
    count = 0
    for kind in ("query", "db"):
        matches.main(
            work / f"pairs-{kind}.txt", features, work / f"matches-{kind}.h5",
            cache_bytes=CACHE_BYTES,
        )  # fmt: skip
        count += sum(1 for _ in (work / f"pairs-{kind}.txt").open())
    return count, "pairs"


def _verify(features: Path, work: Path) -> tuple[int, str]:
    reference = pycolmap.Reconstruction(str(work / "reference"))
    listed = read_pairs(work / "pairs-db.txt")
    with FeatureReader(features) as read, MatchReader(work / "matches-db.h5") as matched:
        triangulation.fill_database(
            work / "database.db", reference, listed, read, matched, triangulation.MappingConfig()
        )
    return len(listed), "pairs"


def _map(features: Path, work: Path, keypoints: int) -> tuple[int, str]:
    city.write_map(work, features, keypoints)
    return 1, "maps"


def _localize(features: Path, work: Path) -> tuple[int, str]:
    queries = city.queries_of(work)
    model, matched = work / "map", work / "matches-map.h5"
    inputs = LocalizationInputs(model, queries, work / "pairs-query.txt", features, matched)
    kept = places.main(inputs, work / "pairs-places.txt", workers=1)
    found = localize.main(replace(inputs, pairs=kept), work / "poses.txt", workers=1)
    right = [
        q.localized and float(np.linalg.norm(q.pose.centre)) < 0.01 for q in found.queries.values()
    ]
    if not all(right):
        raise SamfeatError(work, f"{right.count(False)} queries are not where they should be")
    return len(queries), "queries"


if __name__ == "__main__":
    run_program(main)
