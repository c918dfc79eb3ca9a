"""The features that an evaluation measures: those of files, and those extracted for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SamfeatError

if TYPE_CHECKING:
    from ..evaluation.predictions import Predictions
    from ..feature.network import SAMFeat
    from ..feature.options import ExtractOptions

METHODS = ("samfeat", "samfeat-multiscale", "rootsift")


def extract_options(
    limit: int | None, resize: int | None, official: bool, *, multiscale: bool = False
) -> ExtractOptions:
    """Options of SAMFeat's extraction; ``official`` as the public release does it."""
    from ..feature.options import ExtractOptions
    from ..feature.presets import MULTISCALE

    keywords: dict[str, Any] = {"resize": resize, "max_keypoints": limit}
    if official:
        keywords["official"] = True
    if multiscale:
        keywords |= {"scales": MULTISCALE, "scales_up_to": resize}
    return ExtractOptions.from_keywords(keywords)


def named_files(options: Sequence[str] | None, option: str) -> list[tuple[str, Path]]:
    """``NAME=FILE`` or ``FILE`` as (name, file); a file without a name has its stem's.

    Raises:
        SamfeatError: a name twice, or no such file.
    """
    found: dict[str, Path] = {}
    for text in options or []:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = Path(text).stem, text
        if name in found:
            raise SamfeatError(option, f"'{name}' is given twice", "write NAME=FILE with two names")
        if not name or not Path(path).is_file():
            raise SamfeatError(f"{option} {text}", "no such file", "write NAME=FILE")
        found[name] = Path(path)
    return list(found.items())


def open_methods(
    stack: contextlib.ExitStack,
    root: Path,
    names: Sequence[str],
    outputs: Path,
    *,
    method: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    npz: Sequence[str] | None = None,
    weights: Path | None = None,
    official: bool = False,
    limit: int | None = None,
    resize: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    turns: dict[str, int] | None = None,
) -> dict[str, Predictions]:
    """The features to measure, by the name to show; what is not there yet is extracted.

    Features that are made here are kept in ``outputs`` and used again.

    Arguments:
        stack: closes the files.
        root, names: the images.
        method: of :data:`METHODS`; "samfeat" when nothing at all is given.
        features: ``NAME=FILE`` of feature files. npz: names of D2-Net's files.
        limit: the best so many keypoints, None for all. resize: longer side, None for the images'.
        device: of SAMFeat's network.
        turns: see :func:`samfeat_hloc.evaluation.predictions.make_features`.

    Raises:
        SamfeatError: unknown methods, missing files, a name twice.
    """
    from ..evaluation import predictions
    from ..feature.rootsift import extract_rootsift, rootsift_config

    chosen = list(dict.fromkeys(method or []))
    if not (chosen or features or npz):
        chosen = ["samfeat"]
    for name in chosen:
        if name not in METHODS:
            raise SamfeatError(
                f"--feature-type {name}",
                "no such feature type",
                (
                    f"choose from {', '.join(METHODS)}, and give other features with "
                    "--features NAME=FILE"
                ),
            )
    opened: dict[str, Predictions] = {}

    def add(name: str, found: Any) -> None:
        if name in opened:
            raise SamfeatError(f"'{name}'", "it is given twice", "write --features OTHERNAME=FILE")
        opened[name] = found

    files = named_files(features, "--features")
    for name in chosen:
        path = outputs / f"features-{name}.h5"
        if name == "rootsift":
            most = limit or 100_000
            predictions.make_features(
                root, names, path,
                lambda image, most=most: extract_rootsift(  # type: ignore[misc]
                    image, max_keypoints=most, resize=resize
                ),
                rootsift_config(most, resize), turns=turns, overwrite=overwrite,
            )  # fmt: skip
        else:
            multiscale = name == "samfeat-multiscale"
            options = extract_options(limit, resize, official, multiscale=multiscale)
            _make_samfeat(root, names, path, weights, options, turns, device, overwrite)
        add(name, stack.enter_context(predictions.FeatureFile(path)))
    for name, path in files:
        add(name, stack.enter_context(
            predictions.FeatureFile(path, max_keypoints=limit, folder=root.resolve().name)
        ))  # fmt: skip
    for name in npz or []:
        add(name, predictions.NpzFiles(root, name, max_keypoints=limit))
    return opened


def _make_samfeat(
    root: Path, names: Sequence[str], output: Path, weights: Path | None, options: ExtractOptions,
    turns: dict[str, int] | None, device: str | None, overwrite: bool,
) -> None:  # fmt: skip
    from ..evaluation.predictions import make_features
    from ..feature.extraction import extract_batch
    from ..feature.network import SAMFeat
    from ..localization import features

    model: SAMFeat = SAMFeat.from_pretrained(weights, official=options.official, device=device)
    if not any((turns or {}).values()):
        features.main(root, names, output, model=model, options=options, overwrite=overwrite)
        return
    make_features(
        root, names, output, lambda image: extract_batch(model, [image], options)[0],
        {"method": "samfeat", **options.asdict()}, turns=turns,
        weights_sha256=model.weights_sha256, overwrite=overwrite,
    )  # fmt: skip
