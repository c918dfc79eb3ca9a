"""LightGlue's weights for SAMFeat, as glue-factory writes them: read, and checked against SAMFeat.

A checkpoint of glue-factory holds the whole pipeline under ``model``, with LightGlue's parameters
as ``matcher.*``, and the configuration that it was trained with. A file of LightGlue's parameters
alone is read as well. The sizes of the network are those of its parameters.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import SamfeatError
from ..feature.network import DESCRIPTOR_DIM
from ..feature.torch_files import read_tensors

logger = logging.getLogger("hloc.samfeat")  # shown where hloc's own messages are

EXTRACTOR = "samfeat_hloc.gluefactory"
TRAIN = "train LightGlue on SAMFeat with glue-factory, see docs/training.md"


@dataclass(frozen=True)
class LightGlueWeights:
    """sizes: what LightGlue is made with. parameters: by their names in it."""

    sizes: dict[str, Any]
    parameters: dict[str, Tensor] = field(repr=False)


def read_lightglue(path: Path) -> LightGlueWeights:
    """LightGlue as it was trained.

    Raises:
        SamfeatError: no such file, not LightGlue, or trained for another feature.
    """
    mend = "give a checkpoint of glue-factory, such as checkpoint_best.tar"
    found: Mapping[str, Any] = read_tensors(path, mend)
    if isinstance(found.get("model"), Mapping):
        _check_extractor(path, found.get("conf"))
        found = {
            name.removeprefix("matcher."): value
            for name, value in found["model"].items()
            if name.startswith("matcher.")
        }
    else:
        logger.warning("%s does not say which feature it was trained for", path)
    parameters = {_present_name(name): v for name, v in found.items() if isinstance(v, Tensor)}
    return LightGlueWeights(_sizes(path, parameters, mend), parameters)


def _check_extractor(path: Path, conf: object) -> None:
    at = conf
    for key in ("model", "extractor", "name"):
        at = at.get(key) if isinstance(at, Mapping) else None
    if at is not None and at != EXTRACTOR:
        raise SamfeatError(path, f"was trained for the features of {at}, not for SAMFeat", TRAIN)


def _present_name(name: str) -> str:
    """The name of a parameter in files of today, of one in older files."""
    return re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", name)


def _sizes(path: Path, parameters: Mapping[str, Tensor], mend: str) -> dict[str, Any]:
    layers = {m[1] for name in parameters if (m := re.match(r"transformers\.(\d+)\.", name))}
    encoding = parameters.get("posenc.Wr.weight")
    last = parameters.get("log_assignment.0.final_proj.weight")
    if not layers or encoding is None or last is None:
        raise SamfeatError(path, "holds no LightGlue", mend)
    width = last.shape[0]
    projection = parameters.get("input_proj.weight")
    length = width if projection is None else projection.shape[1]
    if length != DESCRIPTOR_DIM or encoding.shape[1] != 2:
        given = f"descriptors of {length} values" + (
            ", scales and orientations" if encoding.shape[1] != 2 else ""
        )
        raise SamfeatError(
            path, f"is LightGlue for {given}; SAMFeat has {DESCRIPTOR_DIM} values alone", TRAIN
        )
    return {
        "input_dim": length,
        "descriptor_dim": width,
        "n_layers": len(layers),
        "num_heads": width // (2 * encoding.shape[0]),
    }
