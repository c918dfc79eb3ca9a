"""Checkpoints: our own safetensors files, and the public release's pickled state dicts.

Our file holds the parameters under the names of :class:`samfeat_hloc.feature.network.SAMFeat` and a
metadata block with the keys ``format``, ``config`` and ``training`` (JSON): configuration, training
data, teacher, steps, date and licence. A safetensors file cannot carry code.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import SamfeatError, cause_of
from ..files.atomic import write_atomically
from ..files.provenance import file_sha256
from ..files.signatures import SAFETENSORS, TORCH, signature
from .torch_files import read_torch, unread

logger = logging.getLogger(__name__)

FORMAT = "samfeat_hloc/1"
SHIPPED = Path(__file__).parents[1] / "weights" / "samfeat.safetensors"

# The public release's names (its spelling kept) and ours.
_RELEASE_NAMES = {
    **{
        f"conv{level}{letter}": f"backbone.levels.{level - 1}.{index}"
        for level in (1, 2, 3, 4)
        for index, letter in enumerate("ab")
    },
    **{f"heatmap{level}": f"detect.{level - 1}" for level in (1, 2, 3, 4)},
    "dist_conv_feat": "distill",
    "dist_conv_fushion": "fuse",
    "scalemap": "attention",
    "conv_des": "describe",
    "conv_edg": "edge",
    "egde_module.query_conv": "edge_attention.query",
    "egde_module.key_conv": "edge_attention.key",
    "egde_module.value_conv": "edge_attention.value",
}


@dataclass(frozen=True)
class Checkpoint:
    """Parameters, the arguments that build their network, and where they came from."""

    path: Path
    parameters: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str
    metadata: dict[str, Any] = field(default_factory=dict)


def shipped_names() -> dict[str, Path]:
    """The named checkpoints beside the default one: ``samfeat_NAME.safetensors`` is NAME."""
    files = sorted(SHIPPED.parent.glob("samfeat_*.safetensors"))
    return {path.stem.removeprefix("samfeat_"): path for path in files}


def resolve(weights: str | Path | None, *, official: bool = False) -> Path:
    """The file meant by ``weights``: a path, the name of a shipped checkpoint such as "paper" (a
    file of that path comes first), or None for the default one.

    Raises:
        SamfeatError: a bare name that is neither a file nor a shipped checkpoint.
    """
    if weights is None:
        if official:
            raise SamfeatError(
                "weights",
                "the public release's file is not shipped",
                "give its path (a .pt file from the authors' page)",
            )
        return SHIPPED
    path = Path(weights)
    # A bare word: no folder, no extension.
    if official or path.exists() or path.suffix or len(path.parts) != 1:
        return path
    names = shipped_names()
    if path.name not in names:
        known = f", and no shipped weights of this name (but {', '.join(names)})" if names else ""
        raise SamfeatError(path, f"no such file{known}", "give the path of a checkpoint file")
    return names[path.name]


def read_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Read one of our safetensors files.

    Raises:
        SamfeatError: not there, truncated, of another format, or with another SHA-256.
    """
    digest = file_sha256(path)
    _compare_digest(path, digest, sha256)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        if (cause := cause_of(error)) is not None:
            raise SamfeatError(path, cause) from None
        mend = "give a file that `samfeat train` has written"
        if signature(path) == TORCH:
            mend = "load a file of the public release with official=True or --official-weights"
        raise unread(path, SAFETENSORS, mend) from None
    if metadata.get("format") != FORMAT:
        raise SamfeatError(
            path,
            (
                f"is not a samfeat_hloc checkpoint (format {metadata.get('format')!r}, "
                f"wanted {FORMAT!r})"
            ),
            "use a file written by `samfeat train`",
        )
    try:
        config = json.loads(metadata["config"])
        training = json.loads(metadata.get("training", "{}"))
    except (KeyError, ValueError):
        raise SamfeatError(
            path, "its metadata block is damaged", "use a file written by `samfeat train`"
        ) from None
    known = {"edge_attention", "context", "fine_detection"}
    if not isinstance(config, dict) or set(config) - known:
        raise SamfeatError(
            path, f"was written for another network (configuration {config})", "update samfeat_hloc"
        )
    return Checkpoint(path, parameters, config, digest, training)


def read_release(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a state dict of the public SAMFeat release, its names mapped to ours.

    The file is a pickle; only tensors are unpickled (``weights_only=True``), never code.

    Raises:
        SamfeatError: not there, no state dict, missing parameters, or another SHA-256.
    """
    digest = file_sha256(path)
    logger.warning("%s: SHA-256 %s", path, digest)
    _compare_digest(path, digest, sha256)
    mend = "use the .pt file of the release"
    if signature(path) == SAFETENSORS:
        mend = "for a file of our own leave official=True (--official-weights) out"
    state = read_torch(path, mend)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SamfeatError(path, "is not a plain state dict", mend)
    state = {name.removeprefix("module."): value for name, value in state.items()}

    parameters: dict[str, Tensor] = {}
    unused: list[str] = []
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in _RELEASE_NAMES:
            parameters[f"{_RELEASE_NAMES[stem]}.{kind}"] = value
        elif not name.startswith("fuse_weight_"):
            unused.append(name)
    shares = [state.get(f"fuse_weight_{level}") for level in (1, 2, 3, 4)]
    if any(share is None or share.numel() != 1 for share in shares):
        raise SamfeatError(
            path, "has no fuse_weight_1..4, so it is not a file of the release", mend
        )
    parameters["detect_share"] = torch.cat([s.reshape(1) for s in shares if s is not None])
    if unused:
        logger.warning("%s: not used: %s", path, ", ".join(sorted(unused)))
    return Checkpoint(
        path, parameters, {"edge_attention": True}, digest, {"source": "public SAMFeat release"}
    )


def load_parameters(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's parameters into a network, in float32.

    Raises:
        SamfeatError: a parameter is missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(checkpoint.parameters))
    unexpected = sorted(set(checkpoint.parameters) - set(wanted))
    shapes = sorted(
        name
        for name in set(wanted) & set(checkpoint.parameters)
        if wanted[name].shape != checkpoint.parameters[name].shape
    )
    for what, names in (
        ("lacks", missing),
        ("has unexpected", unexpected),
        ("has other shapes of", shapes),
    ):
        if names:
            raise SamfeatError(
                checkpoint.path,
                (
                    f"{what} {len(names)} parameters ({names[0]}, ...), so it does not fit "
                    "this network"
                ),
                "use a checkpoint of SAMFeat",
            )
    if not all(torch.isfinite(value).all() for value in checkpoint.parameters.values()):
        raise SamfeatError(
            checkpoint.path, "holds NaN or infinite parameters", "use an earlier checkpoint"
        )
    model.load_state_dict({k: v.float() for k, v in checkpoint.parameters.items()})


def write_checkpoint(
    path: Path,
    parameters: Mapping[str, Tensor],
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint, whole or not at all.

    Arguments:
        path: where to, ``*.safetensors``.
        parameters: the network's state dict.
        config: the arguments that build the network.
        training: what a reader wants to know: data, teacher, steps, licence; the date is added.
        dtype: the precision stored.
    """
    stored = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **training,
    }
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dict(config), sort_keys=True),
        "training": json.dumps(stored, sort_keys=True),
    }
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in parameters.items()}
    write_atomically(path, save(tensors, metadata))


def _compare_digest(path: Path, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted.lower():
        raise SamfeatError(
            path, f"its SHA-256 is {found}, not {wanted}", "download it again or correct sha256"
        )
