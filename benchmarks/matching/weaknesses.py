"""Where SAMFeat stops matching: how far the camera may roll, zoom or wait for the night.

    python benchmarks/matching/weaknesses.py --outputs outputs/weaknesses

Photographs the demo's city from a few places, each time twice from the very same spot, so that a
homography relates the two exactly: rolled by more and more, zoomed in by more and more, or by
night. Prints the share of mutual nearest neighbours within 3 pixels beside RootSIFT's, and writes
the curves and a picture of the matches where SAMFeat does worst. "Turned" is
``samfeat_hloc.match(..., turned=True)``, which turns one of the two photos by quarters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure

from samfeat_hloc.cli import run_program
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.evaluation import curves
from samfeat_hloc.evaluation.matching import (
    CachedFeatures,
    accuracy,
    mutual_nearest,
    reprojection_errors,
)
from samfeat_hloc.evaluation.palette import BLUE, GREEN, SKY, VERMILION
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.feature.extraction import extract_batch
from samfeat_hloc.feature.local_features import FeatureArrays
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.feature.presets import MULTISCALE
from samfeat_hloc.feature.rootsift import extract_rootsift
from samfeat_hloc.feature.two_images import match
from samfeat_hloc.files.atomic import write_atomically
from samfeat_hloc.pictures.pairs import RIGHT_WITHIN, matches_figure
from samfeat_hloc.progress import tqdm
from samfeat_hloc.scenes.city import City, build_city
from samfeat_hloc.scenes.demo import Shot, plan_shots
from samfeat_hloc.scenes.lighting import (
    DAY,
    NIGHT,
    day_exposure,
    illuminate,
    night_exposure,
    photograph,
)
from samfeat_hloc.scenes.render import intrinsics, render, rolled

SIZE = (800, 600)
SWEEPS = {
    "roll, degrees": (0, 15, 30, 45, 60, 75, 90, 135, 180),
    "zoom": (1, 1.5, 2, 2.5, 3, 4, 5),
    "night": (0, 1),
}
KEYPOINTS = 2048
WAYS = {  # colour and line of each
    "SAMFeat": (BLUE, "-"),
    "SAMFeat, turned": (GREEN, "-."),
    "SAMFeat, multiscale": (SKY, "--"),
    "RootSIFT": (VERMILION, ":"),
}


@dataclass(frozen=True)
class Pair:
    """Two photographs from one spot, uint8 (H, W, 3), and the homography (3, 3) between them."""

    images: tuple[np.ndarray, np.ndarray]
    homography: np.ndarray


def main(
    outputs: Annotated[Path, typer.Option(help="Folder of all results.")] = Path(
        "outputs/weaknesses"
    ),
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint; the shipped one by default.")
    ] = None,
    places: Annotated[int, typer.Option(min=1, help="Number of places to photograph from.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the city and the places.")] = 0,
) -> None:
    """Measure and draw how far SAMFeat's matches reach."""
    model = SAMFeat.from_pretrained(weights)
    plain = ExtractOptions(max_keypoints=KEYPOINTS)
    several = replace(plain, scales=MULTISCALE, scales_up_to=1024)
    city = build_city(seed)
    lit = {"day": illuminate(city, DAY, seed), "night": illuminate(city, NIGHT, seed)}
    step = -(-40 // places)
    shots = plan_shots(seed, 40, 1, SIZE)[1:40:step]
    by_day = [render(lit["day"], shot.camera, shot.pose).image for shot in shots]
    total = len(shots) * sum(len(values) for values in SWEEPS.values())
    shares: dict[str, dict[str, list[float]]] = {}
    worst: dict[str, tuple[float, Pair, str]] = {}
    with tqdm(total=total, desc="pairs", unit="pair") as bar:
        for sweep, values in SWEEPS.items():
            found = shares[sweep] = {name: [] for name in WAYS}
            for value in values:
                results: dict[str, list[float]] = {name: [] for name in found}
                for index, (shot, plain_view) in enumerate(zip(shots, by_day, strict=True)):
                    rng = np.random.default_rng((seed, index))
                    pair = take(lit, shot, plain_view, sweep, value, rng)
                    turned = match(*pair.images, preset=plain, model=model, turned=True)
                    keypoints = turned.keypoints0, turned.keypoints1
                    results["SAMFeat, turned"].append(
                        share_within(*keypoints, turned.matches, pair.homography)
                    )
                    ways = {
                        "SAMFeat": _samfeat(model, pair, plain),
                        "SAMFeat, multiscale": _samfeat(model, pair, several),
                        "RootSIFT": _rootsift(pair),
                    }
                    for name, features in ways.items():
                        results[name].append(share_right(features, pair.homography))
                    share = results["SAMFeat"][-1]
                    if sweep not in worst or share < worst[sweep][0]:
                        worst[sweep] = (share, pair, f"{sweep}: {value:g}")
                    bar.update()
                for name, of_places in results.items():
                    found[name].append(round(100 * float(np.mean(of_places)), 1))
    outputs.mkdir(parents=True, exist_ok=True)
    for sweep, (share, pair, what) in worst.items():
        title = f"{what}, {100 * share:.0f}% of the matches within {RIGHT_WITHIN:g} pixels"
        features = _samfeat(model, pair, plain)
        figure = matches_figure(pair.images, features, title, pair.homography)
        curves.save(figure, outputs / f"weakness-{sweep.split(',')[0]}.png")
    curves.save(draw(shares), outputs / "weaknesses.png")
    record = {"sweeps": SWEEPS, "shares": shares,
              "made_by": measurement({"weights": weights, "places": places, "seed": seed,
                                      "keypoints": KEYPOINTS, "size": SIZE})}  # fmt: skip
    write_atomically(outputs / "weaknesses.json", json.dumps(record, indent=1) + "\n")
    for sweep, found in shares.items():
        typer.echo(f"{sweep:22}" + "".join(f"{value:7g}" for value in SWEEPS[sweep]))
        for name, row in found.items():
            typer.echo(f"  {name:20}" + "".join(f"{share:7.1f}" for share in row))
    typer.echo(f"written: {outputs}")


def take(
    lit: dict[str, City], shot: Shot, by_day: np.ndarray, sweep: str, value: float,
    rng: np.random.Generator,
) -> Pair:  # fmt: skip
    """The photograph of ``shot`` by day (rendered already), and the one that the sweep asks for."""
    camera, pose, city = shot.camera, shot.pose, lit["day"]
    exposure = day_exposure(rng)
    if sweep == "zoom":
        focal = camera.params[0] * value
        camera = Camera("PINHOLE", *SIZE, (focal, focal, *camera.params[2:]))
    elif sweep == "night" and value:
        city, exposure = lit["night"], night_exposure(rng)
    elif sweep.startswith("roll"):
        pose = rolled(pose, np.deg2rad(value))
    first = photograph(by_day, day_exposure(rng), rng)
    second = photograph(render(city, camera, pose).image, exposure, rng)
    turn = pose.rotation @ shot.pose.rotation.T
    matrix = intrinsics(camera) @ turn @ np.linalg.inv(intrinsics(shot.camera))
    # Cameras count from the corner of the first pixel, keypoints from its centre.
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    return Pair((first, second), np.linalg.inv(to_corner) @ matrix @ to_corner)


def share_right(features: tuple[CachedFeatures, CachedFeatures], homography: np.ndarray) -> float:
    """Share of the mutual nearest neighbours within :data:`RIGHT_WITHIN` pixels."""
    first, second = features
    matches = mutual_nearest(first.descriptors, second.descriptors)
    return share_within(first.keypoints, second.keypoints, matches, homography)


def share_within(
    keypoints0: np.ndarray, keypoints1: np.ndarray, matches: np.ndarray, homography: np.ndarray
) -> float:
    """Share of matches (K, 2) of keypoints (N, 2) and (M, 2) within :data:`RIGHT_WITHIN` pixels."""
    errors = reprojection_errors(keypoints0, keypoints1, matches, homography)
    return float(accuracy(errors, (RIGHT_WITHIN,))[0])


def _samfeat(
    model: SAMFeat, pair: Pair, options: ExtractOptions
) -> tuple[CachedFeatures, CachedFeatures]:
    first, second = extract_batch(model, pair.images, options)
    return _features(first), _features(second)


def _rootsift(pair: Pair) -> tuple[CachedFeatures, CachedFeatures]:
    first, second = (extract_rootsift(image, max_keypoints=KEYPOINTS) for image in pair.images)
    return _features(first), _features(second)


def _features(found: FeatureArrays) -> CachedFeatures:
    return CachedFeatures(found["keypoints"].astype(np.float64), found["descriptors"])


def draw(shares: dict[str, dict[str, list[float]]]) -> Figure:
    """One panel a sweep: share of right matches against what is swept."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(shares), sharey=True, width_ratios=(3, 3, 1))
    for panel, (sweep, found) in zip(axes, shares.items(), strict=True):
        for name, row in found.items():
            colour, line = WAYS[name]
            panel.plot(SWEEPS[sweep], row, color=colour, linestyle=line, marker=".", label=name)
        panel.set(xlabel=sweep, ylim=(0, 100))
        panel.grid(alpha=0.3)
    axes[-1].set_xticks((0, 1), ("day", "night"))
    axes[0].set_ylabel(f"matches within {RIGHT_WITHIN:g} px, %")
    axes[0].legend(fontsize=9, frameon=False)
    return figure


if __name__ == "__main__":
    run_program(main)
