"""hloc's configurations for SAMFeat, made from the package's own presets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..feature.presets import MATCH_DISTANCE_THRESHOLD, PRESETS
from ..files.provenance import file_sha256

MATCHER = "NN-samfeat"
MATCHER_OFFICIAL = "NN-samfeat_official"
LIGHTGLUE = "samfeat+lightglue"
VLAD = "samfeat_vlad"


@dataclass(frozen=True)
class Loaded:
    """A network in memory, given as the ``weights`` of a configuration.

    hloc prints its configurations; the network itself would fill the screen.
    """

    model: SAMFeat = field(repr=False)


def extractor(
    name: str,
    options: ExtractOptions,
    *,
    weights: str | None = None,
    official_weights: bool = False,
) -> dict[str, Any]:
    """One extractor configuration in hloc's form.

    hloc resizes the images itself, so ``resize`` and ``resize_force`` go under ``preprocessing``;
    every other option goes to the model.

    Arguments:
        name: the preset's name; part of the feature file's name.
        options: how to extract.
        weights: checkpoint file; None for the shipped one.
        official_weights: whether ``weights`` is a file of the paper's public release.

    Raises:
        SamfeatError: ``weights`` cannot be read.
    """
    model = options.asdict()
    resize, force = model.pop("resize"), model.pop("resize_force")
    count = options.max_keypoints or "all"
    size = f"{'max' if force else ''}{resize or 'full'}"
    # hloc reuses a feature file by its name alone: other weights, another name.
    other = f"-{file_sha256(Path(weights))[:8]}" if weights is not None else ""
    return {
        "output": f"feats-{name.replace('_', '-')}-n{count}-r{size}{other}",
        "model": {
            "name": "samfeat",
            "weights": weights,
            "official_weights": official_weights,
            **model,
        },
        "preprocessing": {
            "grayscale": False,
            "resize_max": resize,
            "resize_force": force,
            "interpolation": "cv2_linear" if options.official else "cv2_area",
        },
    }


def matcher(distance_threshold: float | None) -> dict[str, Any]:
    """A matcher configuration in hloc's form: mutual nearest neighbours.

    Arguments:
        distance_threshold: on ``sqrt(2 - 2 cos)``; None keeps all.
    """
    suffix = "" if distance_threshold is None else f"-dist{distance_threshold:g}"
    return {
        "output": f"matches-NN-samfeat-mutual{suffix}",
        "model": {
            "name": "nearest_neighbor",
            "do_mutual_check": True,
            "distance_threshold": distance_threshold,
        },
    }


def lightglue(weights: str | Path | None = None, **options: float) -> dict[str, Any]:
    """A matcher configuration in hloc's form: LightGlue, trained on SAMFeat by its user.

    Arguments:
        weights: a checkpoint of glue-factory; without one hloc's matching is refused.
        options: ``filter_threshold``, ``depth_confidence``, ``width_confidence`` of LightGlue.

    Raises:
        SamfeatError: ``weights`` cannot be read.
    """
    other = "" if weights is None else f"-{file_sha256(Path(weights))[:8]}"
    return {
        "output": f"matches-samfeat-lightglue{other}",
        "model": {
            "name": "samfeat_lightglue",
            "features": "samfeat",
            "weights": None if weights is None else str(weights),
            **options,
        },
    }


def extractors(
    *, weights: str | None = None, official_weights: bool = False
) -> dict[str, dict[str, Any]]:
    """What is added to ``hloc.extract_features.confs``."""
    made = {
        name: extractor(name, options, weights=weights, official_weights=official_weights)
        for name, options in PRESETS.items()
    }
    return {**made, VLAD: vlad(made["samfeat_aachen"])}


def vlad(local: dict[str, Any], *, database: str = "db/", clusters: int = 64) -> dict[str, Any]:
    """A configuration in hloc's form of global descriptors: VLAD of local features.

    Arguments:
        local: the configuration of the local features.
        database: how the names of the database's images begin, from which the vocabulary is
            learned; it is learned from all images where no name begins so.
        clusters: size of the vocabulary.
    """
    return {
        "output": f"global-{local['output'].replace('samfeat', 'samfeat-vlad', 1)}",
        "model": {"name": VLAD, "database": database, "clusters": clusters},
        "preprocessing": local["preprocessing"],
        "local": local,
    }


def matchers() -> dict[str, dict[str, Any]]:
    """What is added to ``hloc.match_features.confs``.

    The release weights its descriptors by attention: they are matched by their dot product, on
    which a threshold for unit vectors means nothing, so theirs has none.
    """
    return {
        MATCHER: matcher(MATCH_DISTANCE_THRESHOLD),
        MATCHER_OFFICIAL: matcher(None),
        LIGHTGLUE: lightglue(),
    }
