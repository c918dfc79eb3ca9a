"""``samfeat eval hpatches`` and ``samfeat eval pairs``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SamfeatError
from ..files.atomic import write_atomically
from .application import group
from .measured_features import METHODS, named_files, open_methods
from .options import EVAL, LOOK, Device, Images, MaxError, Outputs, Weights

if TYPE_CHECKING:
    from ..evaluation.predictions import Predictions

FeatureTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--feature-type",
        help=f"Features to extract and measure: {', '.join(METHODS)}; can be repeated.",
        show_default="samfeat, unless --features is given",
    ),
]
FeatureFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        help="Feature file to measure (HDF5, as hloc's), or NAME=FILE; can be repeated.",
    ),
]
OfficialWeights = Annotated[
    bool,
    typer.Option(
        "--official-weights",
        help="--weights is a file of the paper's public release; extract as the release does.",
    ),
]
MaxKeypoints = Annotated[
    int, typer.Option("--max-keypoints", min=0, help="Keypoints per image at most; 0 for all.")
]
Resize = Annotated[
    int, typer.Option("--resize", min=0, help="Longer side in pixels; 0 for the images' own.")
]
ShortSide = Annotated[
    int,
    typer.Option(
        "--short-side",
        min=0,
        help="Shorter side in pixels when measuring homographies; 0 for the images' own.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Extract the features again.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application's ``eval`` group."""
    results = group(app, "eval", EVAL, LOOK)
    results.command("hpatches")(_hpatches)
    results.command("pairs")(_pairs)


def _hpatches(
    dataset: Annotated[Path, typer.Option(help="Folder of the sequences, in HPatches' layout.")],
    feature_type: FeatureTypes = None,
    features: FeatureFiles = None,
    npz: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure the files 1.ppm.NAME beside the images, as D2-Net writes them; can be "
            "repeated."
        ),
    ] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE.npy: add a published curve to table and plot; can be repeated."
        ),
    ] = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 0,
    short_side: ShortSide = 480,
    max_error: MaxError = 3.0,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Allow an incomplete dataset, and mark the results as partial."
        ),
    ] = False,
    outputs: Outputs = Path("outputs/hpatches"),
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure matching accuracy and homographies on HPatches, of any local features.

    D2-Net's protocol: 108 sequences, mutual nearest neighbours, mean matching accuracy at 1 to 10
    pixels of the images at full size. A folder with other sequences needs --partial.
    """
    from ..evaluation import curves, hpatches
    from ..evaluation.matching import by_kind
    from ..evaluation.published import read_curve
    from ..evaluation.record import measurement

    if not dataset.is_dir():
        raise SamfeatError(dataset, "no such folder", "give the folder of the sequences")
    missing = hpatches.missing_sequences(dataset)
    if missing and not partial:
        raise SamfeatError(
            dataset,
            (
                f"{len(missing)} of the {len(hpatches.SEQUENCES)} sequences are missing: "
                f"{', '.join(missing)}"
            ),
            "complete the folder, or give --partial to measure what is there",
        )
    pairs = hpatches.read_pairs(dataset, skip_incomplete=partial)
    if not missing:
        pairs = [pair for pair in pairs if pair.images[0].split("/")[0] in hpatches.SEQUENCES]
    published = {name: read_curve(path) for name, path in named_files(curve, "--curve")}

    limit = max_keypoints or None
    notes = []
    with contextlib.ExitStack() as stack:
        methods = open_methods(
            stack, dataset, hpatches.image_names(pairs), outputs, method=feature_type,
            features=features, npz=npz, weights=weights, official=official_weights, limit=limit,
            resize=resize or None, device=device, overwrite=overwrite,
        )  # fmt: skip
        pairs, note = _with_features(pairs, methods, partial)
        if missing:
            sequences = len({pair.images[0].split("/")[0] for pair in pairs})
            notes.append(
                f"PARTIAL: {len(pairs)} pairs of {sequences} sequences, not the 540 pairs of the "
                "108; not comparable with published figures"
            )
        notes += [note] if note else []
        measured = {
            name: hpatches.evaluate(
                pairs, predictions, label=name, short_side=short_side or None,
                ransac_threshold=max_error,
            )
            for name, predictions in methods.items()
        }  # fmt: skip
    comparison = hpatches.Comparison(
        title=f"{'HPatches' if not missing else dataset.resolve().name}: mean matching accuracy",
        results={name: by_kind(results) for name, results in measured.items()},
        published=published,
        note="; ".join(notes),
    )
    configuration = {
        "root": dataset, "max_keypoints": limit, "resize": resize or None, "weights": weights,
        "official": official_weights, "short_side": short_side or None,
        "ransac_threshold": max_error, "features": features, "npz": npz, "curves": curve,
    }  # fmt: skip
    document = {
        **comparison.as_json(),
        "partial": bool(missing),
        "missing_sequences": missing,
        "pairs": {name: hpatches.pairs_as_json(results) for name, results in measured.items()},
        "made_by": measurement(configuration),
    }
    typer.echo(comparison.table())
    write_atomically(outputs / "hpatches.txt", comparison.table() + "\n")
    write_atomically(outputs / "hpatches.json", json.dumps(document, indent=1) + "\n")
    picture = curves.save(curves.accuracy_figure(comparison), outputs / "hpatches.png")
    typer.echo(f"written: {picture}, {picture.with_suffix('.json').name}")


def _pairs(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="LIST",
            help="List of pairs with their relative poses, a line 'name0 name1 rot0 rot1 K0(9) "
            "K1(9) T_0to1(16)' each, as SuperGlue's.",
        ),
    ],
    images: Images,
    feature_type: FeatureTypes = None,
    features: FeatureFiles = None,
    weights: Weights = None,
    official_weights: OfficialWeights = False,
    max_keypoints: MaxKeypoints = 2048,
    resize: Resize = 1600,
    estimator: Annotated[
        str, typer.Option(help="poselib or pycolmap.", show_default="poselib where it is installed")
    ] = "",
    max_error: MaxError = 1.0,
    outputs: Outputs = Path("outputs/pairs"),
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure relative poses of image pairs: AUC at 5, 10 and 20 degrees."""
    from ..evaluation import relative_pose
    from ..evaluation.hpatches import of_size
    from ..evaluation.record import measurement
    from ..files.images import image_size
    from ..progress import tqdm

    estimator = estimator or relative_pose.default_estimator()
    relative_pose.check_estimator(estimator)
    posed = relative_pose.read_list(pairs)
    turns: dict[str, int] = {}
    for pair in posed:
        for name, turn in zip(pair.names, pair.turns, strict=True):
            if turns.setdefault(name, turn) != turn:
                raise SamfeatError(
                    pairs,
                    f"{name} is rotated by {turns[name]} on one line and by {turn} on another",
                    "give an image the same rotation on every line",
                )
    sizes = {name: image_size(images / name) for name in turns if (images / name).is_file()}
    summaries, per_pair = {}, {}
    with contextlib.ExitStack() as stack:
        methods = open_methods(
            stack, images, list(turns), outputs, method=feature_type, features=features,
            weights=weights, official=official_weights, limit=max_keypoints or None,
            resize=resize or None, device=device, overwrite=overwrite, turns=turns,
        )  # fmt: skip
        for name, predictions in methods.items():
            results = [
                relative_pose.evaluate_pair(
                    pair,
                    *(of_size(predictions.read(n), n, sizes.get(n), name) for n in pair.names),
                    estimator=estimator, threshold=max_error,
                )
                for pair in tqdm(posed, desc=name, unit="pair", delay=2)
            ]  # fmt: skip
            summaries[name] = relative_pose.summarize(results)
            per_pair[name] = [
                {"names": list(r.names), "matches": r.num_matches, "inliers": r.num_inliers,
                 "rotation_degrees": _finite(r.rotation_error),
                 "translation_degrees": _finite(r.translation_error)}
                for r in results
            ]  # fmt: skip
    title = f"{pairs.name}: relative pose of {len(posed)} pairs ({estimator})"
    configuration = {
        "pairs": pairs, "images": images, "max_keypoints": max_keypoints or None,
        "resize": resize or None, "weights": weights, "official": official_weights,
        "estimator": estimator, "ransac_threshold": max_error, "features": features,
    }  # fmt: skip
    document = {"title": title, "methods": summaries, "pairs": per_pair,
                "made_by": measurement(configuration)}  # fmt: skip
    typer.echo(relative_pose.table(summaries, title))
    write_atomically(outputs / "pairs.json", json.dumps(document, indent=1) + "\n")
    typer.echo(f"written: {outputs / 'pairs.json'}")


def _with_features(
    pairs: Sequence[Any], methods: dict[str, Predictions], partial: bool
) -> tuple[list[Any], str]:
    """The pairs of which all methods have features, and what to say of the others."""
    from ..evaluation.hpatches import missing_features

    lacking: set[str] = set()
    for name, predictions in methods.items():
        missing = missing_features(pairs, predictions)
        if missing and not partial:
            raise SamfeatError(
                name,
                f"no features of {len(missing)} images ({', '.join(missing[:3])}…)",
                "extract them (an image's name is its path below --dataset), or give --partial",
            )
        lacking.update(missing)
    kept = [pair for pair in pairs if not lacking & set(pair.images)]
    if not kept:
        raise SamfeatError(
            "features",
            (
                f"no pair has features from all of {', '.join(methods)} "
                f"(missing: {', '.join(sorted(lacking)[:3])}…)"
            ),
            "an image's name is its path below --dataset",
        )
    dropped = len(pairs) - len(kept)
    return kept, f"{dropped} pairs left out, not all methods have features" if dropped else ""


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
