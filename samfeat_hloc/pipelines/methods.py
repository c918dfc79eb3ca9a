"""The local features that a run can be made with: SAMFeat, and RootSIFT beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SamfeatError
from ..feature.extraction import extract_batch
from ..feature.network import SAMFeat
from ..feature.presets import MATCH_DISTANCE_THRESHOLD
from ..localization.features import Extract
from ..localization.matches import MatchConfig

METHODS = ("samfeat", "rootsift")


def check(method: str, weights: Path | None, official_weights: bool) -> None:
    """Refuse a checkpoint of a method that has none.

    Raises:
        SamfeatError: it was given one.
    """
    if method == "rootsift" and (weights or official_weights):
        raise SamfeatError("--weights", "RootSIFT has none", "leave it out")


def load(
    method: str, weights: Path | None, official_weights: bool, *, device: str | None = None
) -> tuple[Any, Extract]:
    """What extracts a method's features, and how, as :func:`.features.main` takes them.

    Arguments:
        device: of the network; RootSIFT is computed on the processor.

    Raises:
        SamfeatError: a checkpoint that is missing or cannot be read, no such device.
    """
    if method == "rootsift":
        from ..feature import rootsift

        return rootsift.RootSIFT(), rootsift.extract_batch
    model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
    return model, extract_batch


def match_config(method: str) -> MatchConfig:
    """How a method's features are matched: mutual nearest neighbours, as published."""
    return MatchConfig(
        mutual=True,
        distance_threshold=MATCH_DISTANCE_THRESHOLD if method == "samfeat" else None,
    )
