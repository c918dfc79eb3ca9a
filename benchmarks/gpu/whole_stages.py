"""Rows of the GPU benchmark: the features stage, the demo's city, and training."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import cv2
import numpy as np
import torch
import typer
from bench import DIM, Bench, photo

from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.feature.extraction import prepare
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.h5store import Group, SegmentWriter
from samfeat_hloc.localization import features, global_descriptors
from samfeat_hloc.maps import building
from samfeat_hloc.maps.localizer import Localizer
from samfeat_hloc.maps.sources import sources_in
from samfeat_hloc.pipelines import run as pipeline
from samfeat_hloc.pipelines.run_options import RunOptions
from samfeat_hloc.scenes import write_demo
from samfeat_hloc.training.homography_pairs import HomographySource
from samfeat_hloc.training.photos import PhotoSet
from samfeat_hloc.training.recipe import Recipe
from samfeat_hloc.training.sources import batches_ahead
from samfeat_hloc.training.stepping import Clock, adam
from samfeat_hloc.training.trainer import training_step


def stage(bench: Bench) -> None:
    """The features stage, photos in JPEG files to the feature file, and what it could be held up
    by: decoding and writing alone."""
    folder = bench.work / "photos"
    folder.mkdir()
    names = [f"{number}.jpg" for number in range(bench.size.files)]
    some = [photo(bench.size.photo, seed) for seed in range(4)]
    for number, name in enumerate(names):
        pixels = np.roll(some[number % len(some)], 7 * number, axis=1)
        cv2.imwrite(str(folder / name), pixels[..., ::-1])
    model = SAMFeat.from_pretrained(device=bench.device)
    options, output = bench.presets["samfeat_aachen"], bench.work / "features.h5"

    def extract() -> None:
        features.main(folder, names, output, model=model, options=options, overwrite=True)

    def decode() -> None:
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda name: prepare(folder / name, options), names))

    def write() -> None:
        blank = np.zeros((DIM, bench.size.keypoints), np.float16)
        with SegmentWriter(bench.work / "blank.h5", {}, overwrite=True) as writer:
            for name in names:
                writer.add({name: Group({"descriptors": blank})})
            writer.finish()

    ways = {"samfeat": extract, "decoding alone": decode, "writing alone": write}
    repeats = min(3, bench.size.repeats)
    bench.time("features stage, files to file", "images", len(names), ways, 262, repeats=repeats)


def city(bench: Bench) -> None:
    """The demo: a whole run, its global descriptors, and its map's queries one after another."""
    num_db, num_queries, size = bench.size.city
    dataset_dir = write_demo(bench.work / "city", num_db=num_db, num_queries=num_queries, size=size)
    dataset, outputs = AachenDataset.open(dataset_dir), bench.work / "run"
    device, workers = str(bench.device), os.cpu_count() or 1

    def run() -> None:
        shutil.rmtree(outputs, ignore_errors=True)
        pipeline.run(dataset_dir, outputs, RunOptions(device=device, workers=workers))

    bench.time("whole demo run", "runs", 1, {"samfeat": run}, 1 / 7, repeats=1)

    def describe() -> None:
        global_descriptors.main(
            outputs / "features.h5", dataset.db_names, dataset.query_names,
            bench.work / "global.h5", device=device, overwrite=True,
        )  # fmt: skip

    described = len(dataset.db_names) + len(dataset.query_names)  # in a second
    ways = {"samfeat": describe}
    bench.time("global descriptors of the demo", "images", described, ways, described)

    building.build(sources_in(outputs), bench.work / "map")
    for name in ("samfeat_aachen", "samfeat_fast"):
        _localizer(bench, dataset, name)


def _localizer(bench: Bench, dataset: AachenDataset, preset: str) -> None:
    """The city's queries one after another."""
    localizer = Localizer.load(
        bench.work / "map",
        device=str(bench.device),
        options=bench.presets[preset],
        num_retrieved=20,
    )
    taken: dict[str, list[float]] = {}
    localized: list[bool] = []

    def localize() -> None:
        localized.clear()
        for query in dataset.queries:
            found = localizer.localize(dataset.image_dir / query.name, query.camera)
            localized.append(found.pose is not None)
            for part, seconds in found.seconds.items():
                taken.setdefault(part, []).append(seconds)

    for query in 2 * dataset.queries[:1]:  # the first two prepare the device
        localizer.localize(dataset.image_dir / query.name, query.camera)
    name = f"localizer, 20 retrieved, {preset}"
    ways = {"samfeat": localize}
    bench.time(name, "queries", len(dataset.queries), ways, 30, repeats=1)
    bench.check(f"queries localized, {preset}", sum(localized), len(localized))
    parts = ", ".join(f"{part} {np.median(seconds):.4f}" for part, seconds in taken.items())
    typer.echo(f"{name}, median seconds: {parts}")


def training(bench: Bench) -> None:
    """The trainer's step on homographies of generated photos, batches made ahead as it does."""
    config = SAMFeat.from_pretrained(device="cpu").config
    photos = [photo((480, 480), seed) for seed in range(16)]
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()
    names = tuple(f"{number}.png" for number in range(len(photos)))
    sizes = torch.full((len(photos), 2), 480)
    for crop, pairs in bench.size.training:
        recipe = Recipe(output=bench.work)
        recipe.pairs = replace(recipe.pairs, crop=crop)
        source = HomographySource(PhotoSet(pixels, sizes, names), recipe.homographies)
        model = SAMFeat(**config).train()
        model.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = adam(model.parameters(), 1e-4, 0.0)
        generators = (torch.Generator(bench.device).manual_seed(seed) for seed in count(0))
        ahead = 2 if bench.device.type == "cuda" else 0
        batches = batches_ahead(source, pairs, recipe.pairs, generators, ahead=ahead)
        clock = Clock(bench.device)

        def steps(
            model: SAMFeat = model, optimizer: Any = optimizer, batches: Any = batches,
            clock: Clock = clock, recipe: Recipe = recipe,
        ) -> None:  # fmt: skip
            for _ in range(bench.size.steps):
                with clock.measure("data"):
                    batch = next(batches)
                training_step(model, optimizer, batch, recipe, clock)

        label = f"training, {crop} px, {pairs} pairs a step"
        bench.time(label, "pairs", pairs * bench.size.steps, {"samfeat": steps},
                   800 if crop == 400 else 1500, repeats=min(3, bench.size.repeats))  # fmt: skip
        whole = sum(clock.seconds.values())
        shares = ", ".join(f"{part} {value / whole:.0%}" for part, value in clock.seconds.items())
        typer.echo(f"{label}: {shares}")
