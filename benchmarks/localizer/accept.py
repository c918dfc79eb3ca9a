"""Which photos a localizer takes for the map's: photos of the place against photos of elsewhere.

    python benchmarks/localizer/accept.py --place town.map=TOWN --place square.map=PHOTOS \
        --strangers ELSEWHERE --json accept.json --plot accept.svg

A place is a saved map and its photos: a folder, or a dataset in Aachen's layout, whose queries are
localized too. Every photo of a map is localized in the map without it, and in the other maps as a
photo of elsewhere. All are tried with fewer and fewer keypoints as well: photos that are hard to
localize are rare where photos are few, and they are the ones that the rule has to decide.

A pose is right within a twentieth of the distance to what the photo shows, and 5 degrees.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import typer

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from samfeat_hloc.cli import run_program
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.atomic import write_whole
from samfeat_hloc.files.image_folders import list_images
from samfeat_hloc.files.images import image_size
from samfeat_hloc.localization.acceptance import MIN_SQUARES, least_inliers
from samfeat_hloc.localization.global_descriptors import vlad
from samfeat_hloc.maps import saved_map
from samfeat_hloc.maps.localizer import Localizer
from samfeat_hloc.maps.query import QueryFeatures
from samfeat_hloc.maps.saved_map import FrozenMap
from samfeat_hloc.progress import tqdm

_SHARES = (1.0, 1 / 4, 1 / 16, 1 / 32)  # of the keypoints, the best first
_GUESSED_FOCAL = 1.2  # times the longer side, where nothing is known
_RIGHT = 0.05, 5.0  # of the distance to what is seen; degrees


@dataclass(frozen=True)
class Photo:
    """A photo, the place that it shows (None for elsewhere), and its pose there."""

    path: Path
    name: str
    camera: Camera
    place: str | None = None
    truth: Pose | None = None


def main(
    places: Annotated[
        list[str], typer.Option("--place", help="MAP=PHOTOS; repeat. Photos or a dataset.")
    ],
    strangers: Annotated[Path, typer.Option(help="Folder of photos of elsewhere.")],
    num_strangers: Annotated[int, typer.Option(help="So many of them, drawn at random.")] = 150,
    unknown_focal: Annotated[
        bool, typer.Option("--unknown-focal", help="Find the focal lengths with the poses.")
    ] = False,
    records: Annotated[
        Path, typer.Option(help="What was found of each, a line each; goes on from there.")
    ] = Path("accept.jsonl"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here.")] = None,
) -> None:
    """Localize, count, and fit the confidence."""
    model = SAMFeat.from_pretrained()
    maps = {}
    photos: list[Photo] = []
    for place in places:
        name, _, folder = place.partition("=")
        if not folder:
            raise SamfeatError(f"--place {place}", "no photos", "write MAP=PHOTOS")
        maps[name] = saved_map.read(Path(name))
        photos += list(_photos_of(name, maps[name], Path(folder)))
    names = list_images(strangers)
    drawn = np.random.default_rng(0).permutation(len(names))[:num_strangers]
    for name in sorted(names[i] for i in drawn):
        width, height = image_size(strangers / name)
        guess = (_GUESSED_FOCAL * max(width, height), width / 2, height / 2)
        photos.append(Photo(strangers / name, name, Camera("SIMPLE_PINHOLE", width, height, guess)))
    _localize_all(photos, maps, model, records, unknown_focal)
    found = [json.loads(line) for line in records.read_text().splitlines()]
    figures = _figures(found)
    typer.echo(_table(figures))
    if json_file is not None:
        configuration = {
            "places": places,
            "strangers": strangers,
            "num_strangers": len(drawn),
            "unknown_focal": unknown_focal,
        }
        content = {**figures, **measurement(configuration)}
        write_whole(json_file, json.dumps(content, indent=1) + "\n")
    if plot is not None:
        _draw(found, figures, plot)


def _photos_of(place: str, frozen: FrozenMap, folder: Path) -> Iterator[Photo]:
    images = folder
    if (folder / "images_upright").is_dir():
        dataset = AachenDataset.open(folder)
        images = dataset.image_dir
        for query in dataset.queries:
            truth = (dataset.ground_truth or {}).get(query.name)
            yield Photo(images / query.name, query.name, query.camera, place, truth)
    for image in frozen.images:
        yield Photo(images / image.name, image.name, image.camera, place, image.pose)


def _localize_all(
    photos: Sequence[Photo],
    maps: dict[str, FrozenMap],
    model: SAMFeat,
    records: Path,
    unknown_focal: bool,
) -> None:
    done = set()
    if records.is_file():
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        done = {(line["photo"], line["map"], line["share"]) for line in lines}
    any_map = next(iter(maps.values()))
    extractor = Localizer(any_map, model)
    with records.open("a") as file:
        for photo in tqdm(photos, unit="photo"):
            left = [
                (name, share)
                for name in maps
                for share in _SHARES
                if (str(photo.path), name, share) not in done
            ]
            if not left:
                continue
            features, camera, _ = extractor.extract(photo.path, photo.camera)
            for name, frozen in maps.items():
                itself = photo.place == name and any(i.name == photo.name for i in frozen.images)
                used = _without(frozen, photo.name) if itself else frozen
                localizer = Localizer(used, model, refine_focal=unknown_focal)
                for share in _SHARES:
                    if (name, share) in left:
                        line = _record(photo, name, localizer, features, camera, share)
                        file.write(json.dumps(line) + "\n")
                        file.flush()


def _record(
    photo: Photo,
    name: str,
    localizer: Localizer,
    features: QueryFeatures,
    camera: Camera,
    share: float,
) -> dict[str, Any]:
    count = max(1, round(share * len(features.keypoints)))  # they come best first
    descriptors = features.descriptors[:count]
    few = replace(
        features,
        keypoints=features.keypoints[:count],
        descriptors=descriptors,
        global_descriptor=vlad(descriptors.astype(np.float32), localizer.map.vocabulary),
    )
    found, matches, inliers = localizer.localize_features(
        few, camera, refine_focal=bool(localizer.settings.refine_focal)
    )
    pose, right = found.pose or found.weak_pose, None
    if photo.place == name and photo.truth is not None:
        right = False
        if pose is not None:
            seen = localizer.map.xyz[matches.points[inliers]]
            distance = np.median(np.linalg.norm(seen - photo.truth.centre, axis=1))
            right = bool(
                position_error(pose, photo.truth) <= _RIGHT[0] * distance
                and rotation_error(pose, photo.truth) <= _RIGHT[1]
            )
    return {
        "photo": str(photo.path), "map": name, "share": share, "keypoints": count,
        "stranger": photo.place != name, "right": right, "matched": found.num_matched,
        "agreeing": found.num_agreeing, "squares": found.num_squares,
        "correspondences": found.num_correspondences,
        "inliers": found.num_inliers, "ransacs": found.num_ransacs,
        "accepted": found.refused is None,
    }  # fmt: skip


def _without(frozen: FrozenMap, name: str) -> FrozenMap:
    """The map without an image and without what is then seen once."""
    kept = [i for i, image in enumerate(frozen.images) if image.name != name]
    views = np.zeros(len(frozen.xyz) + 1, dtype=int)  # the last for no point
    for i in kept:
        views[np.unique(frozen.images[i].points)] += 1
    views[-1] = 0
    images = [
        replace(image, points=np.where(views[image.points] > 1, image.points, -1).astype(np.int32))
        for image in (frozen.images[i] for i in kept)
    ]
    return replace(frozen, images=images, global_descriptors=frozen.global_descriptors[kept])


def _figures(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts with all keypoints and with fewer, the curve, and the confidence's fit."""
    shares: dict[str, Any] = {}
    for share in _SHARES:
        of = [line for line in found if line["share"] == share]
        strange, true = ([x for x in of if x["stranger"] is kind] for kind in (True, False))
        right = [x for x in true if x["right"]]
        shares[f"{share:g}"] = {
            "strangers": len(strange),
            "strangers_accepted": sum(x["accepted"] for x in strange),
            "strongest_stranger": max(map(_times, strange), default=0.0),
            "true": len(true),
            "true_accepted": sum(x["accepted"] for x in true),
            "right": len(right),
            "right_lost": sum(not x["accepted"] for x in right),
            "wrong_accepted": sum(x["accepted"] and not x["right"] for x in true),
            "weakest_right": min(map(_times, right), default=0.0),
        }
    thresholds = np.geomspace(0.1, 10, 81)
    times = np.array([_times(x) for x in found])
    elsewhere = np.array([x["stranger"] for x in found])
    good = np.array([bool(x["right"]) for x in found])
    whole = np.array([x["share"] == 1 for x in found])
    curve = [
        {
            "times": float(t),
            "strangers_accepted": float((times[elsewhere] >= t).mean()),
            "right_lost": float((times[good] < t).mean()),
            "right_lost_all_keypoints": float((times[good & whole] < t).mean()),
        }
        for t in thresholds
    ]
    # a wrong pose of a photo of the map is a lookalike's, or chance as the strangers' are
    fit = elsewhere | good
    calibration = _calibration(times[fit], good[fit])
    return {"by_share": shares, "curve": curve, "confidence": calibration}


def _times(line: dict[str, Any]) -> float:
    """How many times the least number of inliers a pose has."""
    return min(line["agreeing"] / least_inliers(line["matched"]), line["squares"] / MIN_SQUARES)


def _calibration(times: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """The logistic curve in log(times) by maximum likelihood, right poses and strangers weighing
    half, and how often poses were right in bins of it."""
    x = np.log(np.maximum(times, 0.01))
    weight = np.where(good, 0.5 / good.sum(), 0.5 / (~good).sum())
    design = np.stack([np.ones_like(x), x], axis=1)
    beta = np.zeros(2)
    for _ in range(100):  # Newton's steps
        p = 1 / (1 + np.exp(-design @ beta))
        hessian = design.T @ (design * (weight * p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (weight * (good - p)))
        beta += np.clip(step, -1, 1)
    bins = []
    edges = (0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0001)
    sure = 1 / (1 + np.exp(-design @ beta))
    for low, high in pairwise(edges):
        inside = (sure >= low) & (sure < high)
        total = weight[inside].sum()
        bins.append(
            {
                "from": low, "to": min(high, 1.0), "poses": int(inside.sum()),
                "right": float((weight * good)[inside].sum() / total) if total else None,
            }
        )  # fmt: skip
    return {
        "half_sure": float(np.exp(-beta[0] / beta[1])),
        "steepness": float(beta[1]),
        "bins": bins,
    }


def _table(figures: dict[str, Any]) -> str:
    lines = ["keypoints  strangers  accepted  strongest   true  accepted  right  lost  weakest"]
    lines += [
        f"{share:>9}  {f['strangers']:9}  {f['strangers_accepted']:8}  "
        f"{f['strongest_stranger']:9.2f}  {f['true']:5}  {f['true_accepted']:8}  {f['right']:5}  "
        f"{f['right_lost']:4}  {f['weakest_right']:7.2f}"
        for share, f in figures["by_share"].items()
    ]
    fit = figures["confidence"]
    lines.append(f"half sure at {fit['half_sure']:.2f} times, steepness {fit['steepness']:.1f}")
    lines += [
        f"  confidence {b['from']:.2f} to {b['to']:.2f}: {b['poses']} poses"
        + ("" if b["right"] is None else f", right {b['right']:.3f}")
        for b in fit["bins"]
    ]
    return "\n".join(lines)


def _draw(found: Sequence[dict[str, Any]], figures: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for label, colour, keep in (
        ("elsewhere", "#c0392b", lambda x: x["stranger"]),
        ("of the map, pose right", "#1f6f8b", lambda x: x["right"]),
        ("of the map, pose wrong", "#e59866", lambda x: not x["stranger"] and not x["right"]),
    ):
        chosen = [x for x in found if keep(x)]
        left.scatter(
            [x["matched"] for x in chosen], [max(x["agreeing"], 1) for x in chosen],
            s=7, alpha=0.5, color=colour, label=label,
        )  # fmt: skip
    matched = np.arange(1, max(x["matched"] for x in found) + 2)
    left.plot(matched, [least_inliers(int(m)) for m in matched], "k-", label="least number")
    left.set(
        xscale="log", yscale="log", xlabel="keypoints with a match", ylabel="that agree with a pose"
    )
    left.legend(fontsize=8)
    times = [point["times"] for point in figures["curve"]]
    for key, label in (
        ("strangers_accepted", "elsewhere, accepted"),
        ("right_lost", "right poses lost, also of few keypoints"),
        ("right_lost_all_keypoints", "right poses lost, all keypoints"),
    ):
        right.plot(times, [100 * point[key] for point in figures["curve"]], label=label)
    right.axvline(1, color="k", lw=0.8)
    right.set(xscale="log", xlabel="times the least number", ylabel="%")
    right.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    run_program(main)
