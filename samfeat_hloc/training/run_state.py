"""What a run leaves in its folder: the state to go on from, and checkpoints of the weights.

``state.pt`` is everything that the next step depends on; ``samfeat.safetensors`` the newest
weights, ``best.safetensors`` those that matched best on validation, ``step-N.safetensors`` the last
few. Every file is replaced in one step, so a killed run finds the old one or the new one whole.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from yaml import YAMLError

from ..errors import SamfeatError, writing
from ..feature import checkpoints
from ..feature.edge_attention import edge_attention_named
from ..feature.network import SAMFeat
from ..feature.torch_files import read_torch
from ..files.atomic import write_whole
from .recipe import FORMER_KEYS, Recipe

STATE = "state.pt"
NEWEST = "samfeat.safetensors"
BEST = "best.safetensors"
CONFIG = "config.yaml"
# Keys of a recipe that do not decide the weights: where they are kept, how often is logged, saved
# and validated, how long the run is planned to be.
_MAY_CHANGE = {"output", "data.packed"} | {
    f"train.{name}"
    for name in ("steps", "epochs", "decay", "log_every", "save_every", "validate_every", "keep")
}


@dataclass
class Progress:
    """How far a run is: steps done, seconds of training, the best validation accuracy so far."""

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0


def save_state(
    folder: Path, recipe: Recipe, progress: Progress, model: nn.Module,
    optimizer: torch.optim.Optimizer, averaged: nn.Module | None,
) -> None:  # fmt: skip
    """Write ``state.pt``."""
    state = {
        **asdict(progress),
        "recipe": deciding(plain(recipe)),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averaged": averaged.state_dict() if averaged is not None else None,
        "random": torch.get_rng_state(),
    }
    path = folder / STATE
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getvalue())


def load_state(
    folder: Path, recipe: Recipe, model: nn.Module,
    optimizer: torch.optim.Optimizer, averaged: nn.Module | None, device: torch.device,
) -> Progress:  # fmt: skip
    """Go on where ``state.pt`` left off; a fresh :class:`Progress` where there is none.

    Raises:
        SamfeatError: the state is another recipe's, or cannot be read.
    """
    path = folder / STATE
    if not path.exists():
        return Progress()
    mend = "give another output, or start_from a checkpoint beside it"
    state: dict[str, Any] = read_torch(path, mend, device=device)
    try:
        differing = _what_differs(state, folder, recipe)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OSError, YAMLError):
        raise SamfeatError(path, "is not the state of a training run", mend) from None
    if differing:
        raise SamfeatError(
            path,
            f"is of a run with another recipe ({', '.join(differing)})",
            "choose another output, or start_from its checkpoint",
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if averaged is not None:
        averaged.load_state_dict(state["averaged"])
    torch.set_rng_state(state["random"].cpu())
    return Progress(int(state["step"]), float(state["seconds"]), float(state["best"]))


def deciding(values: dict[str, Any]) -> dict[str, Any]:
    """All of a recipe that decides the weights, as ``{"section.key": value}``."""
    flat = {FORMER_KEYS.get(key, key): value for key, value in _flat(values).items()}
    if flat.get("network.edge_attention") is not None:  # true and "rows" are the same
        flat["network.edge_attention"] = edge_attention_named(flat["network.edge_attention"])
    return {key: value for key, value in flat.items() if key not in _MAY_CHANGE}


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as sections of plain values, paths as text."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    return values


def _what_differs(state: dict[str, Any], folder: Path, recipe: Recipe) -> list[str]:
    """The keys whose values are others than when the state was written."""
    before = state["recipe"]
    if isinstance(before, str):  # a hash, of a recipe that lies beside it
        read = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        before = json.loads(json.dumps(read, default=str))
    # A key that there was not then had its default.
    before = deciding(plain(Recipe(output=folder))) | deciding(before)
    now = deciding(plain(recipe))
    return [
        f"{key}: {before.get(key)} then, {now.get(key)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def save_weights(
    folder: Path, model: SAMFeat, training: dict[str, Any], *, best: bool, keep: int
) -> None:
    """Write the newest checkpoint; also as the best, and as one of the last ``keep``."""
    newest = folder / NEWEST
    checkpoints.write_checkpoint(newest, model.state_dict(), model.config, training)
    if best:
        _copy(newest, folder / BEST)
    if keep:
        _copy(
            newest, folder / f"step-{training.get('detection', training)['steps']:07d}.safetensors"
        )
        for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
            old.unlink()


def _copy(source: Path, target: Path) -> None:
    with writing(target):
        content = source.read_bytes()
    write_whole(target, content)
