"""What a saved map is built from: a COLMAP model, features and global descriptors.

Every pipeline leaves these three in its outputs folder::

    samfeat run            map/       features.h5  global-descriptors.h5
    samfeat reconstruct    sparse/N/  features.h5  global-descriptors.h5

A run with pairs or a retrieval of its own has none of the last, and those of several models are
other vectors; what is needed is made here, as global-descriptors-map.h5 or -N.h5.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..colmap.model import is_model, models_below, read_model
from ..errors import SamfeatError
from ..files.h5arrays import open_hdf5
from ..localization import global_descriptors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapSources:
    """Files of one map.

    model: folder of the COLMAP model whose points are those of the features' keypoints.
    features: file in hloc's format, with a record of the network that made it.
    global_descriptors: file with a VLAD vector of every image, and the vocabulary.
    """

    model: Path
    features: Path
    global_descriptors: Path


def sources_in(outputs: Path, model: int | None = None) -> MapSources:
    """The files of a map in the outputs of ``samfeat run`` or ``samfeat reconstruct``.

    Global descriptors that are not there are made.

    Arguments:
        model: which of several reconstructed models; None for 0, the largest, and that is said.

    Raises:
        SamfeatError: no such folder, neither kind of outputs in it, or no such model.
    """
    if not outputs.is_dir():
        raise SamfeatError(outputs, "no such folder", "give the outputs of samfeat reconstruct")
    if is_model(outputs / "map"):
        if model is not None:
            raise SamfeatError("--model", f"{outputs} is of samfeat run, which has one model")
        return _with_descriptors(outputs / "map", outputs)
    models = sorted(
        (path for path in models_below(outputs / "sparse") if path.name.isdigit()),
        key=lambda path: int(path.name),
    )
    if not models:
        raise SamfeatError(
            outputs,
            "no map in it: neither map/, which `samfeat run` leaves, nor sparse/0, which "
            "`samfeat reconstruct` leaves",
            "give such a folder, or a COLMAP model with --images",
        )
    chosen = models[0] if model is None else outputs / "sparse" / str(model)
    if chosen not in models:
        there = ", ".join(path.name for path in models)
        raise SamfeatError(f"--model {model}", f"not in {outputs}", f"choose from {there}")
    if len(models) > 1 and model is None:
        logger.warning(
            "%s has %d models; the map is of the largest, %s with %d images; --model takes another",
            outputs, len(models), chosen.name, len(read_model(chosen).images),
        )  # fmt: skip
    return _with_descriptors(chosen, outputs)


def _with_descriptors(model: Path, outputs: Path) -> MapSources:
    """The files of a model; global descriptors of its images are made where there are none."""
    features, vectors = outputs / "features.h5", outputs / "global-descriptors.h5"
    names = sorted(read_model(model).images)
    if not _describes(vectors, names):
        vectors = outputs / f"global-descriptors-{model.name}.h5"
    if not _describes(vectors, names):
        if not os.access(outputs, os.W_OK):
            raise SamfeatError(
                outputs,
                "global descriptors have to be made in it, and it is read-only",
                "change its mode, or copy it",
            )
        global_descriptors.main(features, names, [], vectors)
    return MapSources(model, features, vectors)


def _describes(vectors: Path, names: Sequence[str]) -> bool:
    """Whether a file of global descriptors has all of these images'."""
    if not vectors.is_file():
        return False
    with open_hdf5(vectors) as file:
        return all(f"{name}/global_descriptor" in file for name in names)
