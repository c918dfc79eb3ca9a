"""hloc's matchers that were made for another feature, told when they are used on SAMFeat's.

Learned matchers are trained for one feature. Some run on SAMFeat's all the same (`aliked+lightglue`
takes descriptors of 128 values as well), and their matches mean nothing.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py

from ..files.provenance import ATTRIBUTE

logger = logging.getLogger(__name__)

_OURS = "feats-samfeat"  # how hloc names our files, see `configurations.extractor`
_LEARNED = ("superglue", "lightglue")


def complaint(conf: Mapping[str, Any], features: Path) -> str | None:
    """What is wrong with matching a feature file so; None where nothing is, or it is not ours.

    Arguments:
        conf: hloc's configuration of a matcher.
        features: hloc's feature file, known as ours by its name or its record.
    """
    if not _is_ours(features):
        return None
    model = conf.get("model", {})
    name, trained_for = model.get("name"), model.get("features")
    mend = 'use match_features.confs["NN-samfeat"]'
    if name in _LEARNED and trained_for != "samfeat":
        what = f"{name} was trained for {trained_for or 'SuperPoint'}"
        return (
            f"{features.name} has SAMFeat's features, and {what}: its matches mean nothing on "
            f"them; {mend}, or samfeat+lightglue with weights that you trained"
        )
    if name == "nearest_neighbor" and model.get("ratio_threshold"):
        return (
            f"{features.name} has SAMFeat's features, and a ratio test of "
            f"{model['ratio_threshold']:g} leaves few of their matches; {mend}"
        )
    return None


def watch(module: ModuleType) -> None:
    """Have ``hloc.match_features`` say so before it matches."""
    match = module.match_from_paths
    if hasattr(match, "__wrapped__"):
        return

    @functools.wraps(match)
    def watched(*args: Any, **named: Any) -> Any:
        given = inspect.signature(match).bind(*args, **named).arguments
        if (told := complaint(given["conf"], Path(given["feature_path_q"]))) is not None:
            logger.warning("%s", told)
        return match(*args, **named)

    module.match_from_paths = watched  # type: ignore[attr-defined]


def _is_ours(features: Path) -> bool:
    if features.name.startswith(_OURS):
        return True
    if not features.is_file() or not h5py.is_hdf5(features):
        return False
    with h5py.File(features, "r") as file:
        return '"stage": "features"' in str(file.attrs.get(ATTRIBUTE, ""))
