"""How SAMFeat matches, beside RootSIFT, on any number of folders in HPatches' layout.

    python benchmarks/matching/run.py FOLDER FOLDER --outputs outputs/matching
    python benchmarks/matching/run.py --photos DIR --seed 0
    python benchmarks/matching/run.py FOLDER --posed DATASET --weights default --weights FILE

Every set of weights that comes with the package, at one scale and several, unless --weights names
others. Mutual nearest neighbours of 2,048 keypoints, longer side at most 1,024 pixels. For each
folder and each kind of sequence (the letter before the underscore): mean matching accuracy at 1, 3,
5 and 10 pixels, matches a pair, those of them within 3 pixels ("right"), the share of keypoints
found again ("repeated"), and the area under the curve of the homography's corner errors. With
--posed, matches of posed photos near their epipolar lines, 4,096 keypoints an image. trade.png:
right matches against wrong ones as dissimilar ones are left out. Features are kept in the outputs
folder.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from samfeat_hloc.cli import run_program
from samfeat_hloc.commands.evaluation import (
    FeatureFiles,
    FeatureTypes,
    MaxKeypoints,
    OfficialWeights,
    Overwrite,
    Resize,
    ShortSide,
)
from samfeat_hloc.commands.measured_features import METHODS, named_files, open_methods
from samfeat_hloc.commands.options import Outputs
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation import curves, hpatches, matching, posed_matches, trade
from samfeat_hloc.evaluation.homography import RANSAC_THRESHOLD
from samfeat_hloc.evaluation.photo_pairs import make_pairs
from samfeat_hloc.evaluation.predictions import FeatureFile, Predictions
from samfeat_hloc.evaluation.record import measurement
from samfeat_hloc.feature.checkpoints import shipped_names
from samfeat_hloc.files.atomic import write_atomically

DEFAULT = "default"  # --weights
POSED_KEYPOINTS = 4096  # as maps are made
PAPER = "published for the 108 sequences: SAMFeat MMA@3 82.1 (its paper)"


def main(
    folders: Annotated[list[Path] | None, typer.Argument(help="HPatches-layout folders.")] = None,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photos to make illumination, night and viewpoint sets of."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sets made of --photos.")] = 0,
    count: Annotated[int, typer.Option(help="Number of photos to make sets of.")] = 25,
    posed: Annotated[
        Path | None,
        typer.Option(
            help="Dataset in Aachen's layout to count right matches on, by epipolar lines."
        ),
    ] = None,
    feature_type: FeatureTypes = None,
    features: FeatureFiles = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights to measure: default, the name of others that come with the package, or a "
            "checkpoint file; can be repeated.",
            show_default="all that come with the package",
        ),
    ] = None,
    official_weights: OfficialWeights = False,
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 1024,
    short_side: ShortSide = 0,
    outputs: Outputs = Path("outputs/matching"),
    overwrite: Overwrite = False,
) -> None:
    """Measure SAMFeat, with all its weights, and RootSIFT, and other features, in one run."""
    folders = list(folders or [])
    if photos is not None:
        made = outputs / f"photos-seed{seed}"
        folders.append(make_pairs(photos, made, seed=seed, count=count, overwrite=overwrite))
    if not folders and posed is None:
        raise SamfeatError(
            "folders", "none given", "give folders in HPatches' layout, --photos or --posed DIR"
        )
    if len({folder.resolve().name for folder in folders}) < len(folders):
        raise SamfeatError("folders", "two have the same name", "rename one, or measure them apart")
    rows = _rows(weights)
    measured: dict[str, list[matching.PairResult]] = {}
    notes: list[str] = []
    for folder in folders:
        for name, results in _measure(
            folder, outputs / folder.resolve().name, feature_type or list(METHODS), features,
            rows, official_weights, max_keypoints or None, resize or None, short_side or None,
            overwrite, notes,
        ).items():  # fmt: skip
            measured.setdefault(name, []).extend(results)
    right: dict[str, posed_matches.RightMatches] = {}
    if posed is not None:
        right = _measure_posed(
            posed, outputs / f"posed-{posed.resolve().name}", feature_type or list(METHODS),
            features, rows, official_weights, resize or None, overwrite,
        )  # fmt: skip
    comparison = hpatches.Comparison(
        title="matching accuracy and homographies, in percent",
        results={
            name: {k: r for k, r in matching.by_kind(results).items() if k != "all"}
            for name, results in measured.items()
        },
        note="; ".join(dict.fromkeys(notes)),
    )
    configuration = {
        "folders": folders, "photos": photos, "posed": posed, "seed": seed,
        "count": count, "weights": {name: path or "default" for name, path in rows.items()},
        "official": official_weights, "max_keypoints": max_keypoints or None,
        "resize": resize or None,
        "features": features, "short_side": short_side or None,
        "ransac_threshold": RANSAC_THRESHOLD,
    }  # fmt: skip
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, results in measured.items():
        for kind in dict.fromkeys(pair.kind for pair in results):
            of_kind = [pair for pair in results if pair.kind == kind]
            panels.setdefault(kind, {})[name] = trade.trade_of(of_kind)
    if posed is not None:
        panels[posed.resolve().name] = {name: list(found.trade) for name, found in right.items()}
    document: dict[str, Any] = {
        **comparison.as_json(),
        "pairs": {name: hpatches.pairs_as_json(results) for name, results in measured.items()},
        "posed": {name: found.as_json() for name, found in right.items()},
        "trade": {"least_similarity": trade.LEAST, "matches_and_right": panels},
        "made_by": measurement(configuration),
    }
    shown = [comparison.table()] if folders else []
    shown += [posed_matches.table(posed.resolve().name, right)] if posed is not None else []
    typer.echo("\n\n".join(shown))
    write_atomically(outputs / "matching.txt", "\n\n".join(shown) + "\n")
    write_atomically(outputs / "matching.json", json.dumps(document, indent=1) + "\n")
    curves.save(trade.trade_figure(panels), outputs / "trade.png")
    written = f"{outputs / 'matching.json'}, matching.txt, trade.png"
    if folders:
        curves.save(curves.accuracy_figure(comparison), outputs / "matching.png")
        written += ", matching.png"
    typer.echo(f"written: {written}")


def _measure(
    folder: Path, outputs: Path, method: list[str], features: list[str] | None,
    rows: dict[str, Path | None], official: bool, limit: int | None, resize: int | None,
    short_side: int | None, overwrite: bool, notes: list[str],
) -> dict[str, list[matching.PairResult]]:  # fmt: skip
    """Results of all methods on one folder; kinds are named after the folder and the prefix."""
    pairs = hpatches.read_pairs(folder)
    label = folder.resolve().name
    pairs = [
        hpatches.Pair(pair.images, f"{label} {pair.kind}", pair.homography, pair.sizes)
        for pair in pairs
    ]
    if not hpatches.missing_sequences(folder):
        notes.append(PAPER)
    names = hpatches.image_names(pairs)
    usable = []
    for name, path in named_files(features, "--features"):
        with FeatureFile(path, folder=label) as file:
            missing = sum(not file.has(image) for image in names)
        if missing:
            notes.append(f"{name} left out on {label}: no features of {missing} images")
        else:
            usable.append(f"{name}={path}")
    with contextlib.ExitStack() as stack:
        methods = _open_rows(
            stack, folder, names, outputs, rows, method=method, features=usable,
            official=official, limit=limit, resize=resize, overwrite=overwrite,
        )  # fmt: skip
        return {
            name: hpatches.evaluate(
                pairs, predictions, label=f"{label} {name}", short_side=short_side
            )
            for name, predictions in methods.items()
        }


def _rows(weights: list[str] | None) -> dict[str, Path | None]:
    """The weights to measure by what their rows are called; None for the default ones.

    Raises:
        SamfeatError: two of one name.
    """
    rows: dict[str, Path | None] = {}
    for given in weights or [DEFAULT, *shipped_names()]:
        name = Path(given).stem
        if name in rows:
            raise SamfeatError("--weights", f"two are called {name}", "rename a file")
        rows[name] = None if given == DEFAULT else Path(given)
    return rows


def _open_rows(
    stack: contextlib.ExitStack, root: Path, names: list[str], outputs: Path,
    rows: dict[str, Path | None], *, method: list[str], features: list[str] | None,
    **options: Any,
) -> dict[str, Predictions]:  # fmt: skip
    """The methods with every set of weights; what has none comes once, after them."""
    opened: dict[str, Predictions] = {}
    ours = [name for name in method if name.startswith("samfeat")]
    for label, weights in rows.items() if ours else ():
        found = open_methods(
            stack, root, names, outputs / label, method=ours, weights=weights, **options
        )
        opened |= {name.replace("samfeat", label): each for name, each in found.items()}
    others = [name for name in method if name not in ours]
    if others or features:
        opened |= open_methods(
            stack, root, names, outputs, method=others, features=features, **options
        )
    return opened


def _measure_posed(
    dataset: Path, outputs: Path, method: list[str], features: list[str] | None,
    rows: dict[str, Path | None], official: bool, resize: int | None, overwrite: bool,
) -> dict[str, posed_matches.RightMatches]:  # fmt: skip
    """Right matches of all methods on the database photos of a dataset."""
    opened = AachenDataset.open(dataset)
    pairs = posed_matches.posed_pairs(opened.reference_model)
    with contextlib.ExitStack() as stack:
        methods = _open_rows(
            stack, opened.image_dir, opened.db_names, outputs, rows, method=method,
            features=features, official=official, limit=POSED_KEYPOINTS, resize=resize,
            overwrite=overwrite,
        )  # fmt: skip
        return {
            name: posed_matches.evaluate(pairs, predictions, label=f"posed {name}")
            for name, predictions in methods.items()
        }


if __name__ == "__main__":
    run_program(main)
