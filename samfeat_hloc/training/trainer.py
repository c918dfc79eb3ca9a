"""The training loop: one YAML recipe in, a resumable run folder and a checkpoint out.

A run folder holds ``config.yaml`` (the resolved recipe), ``state.pt`` (everything needed to go on),
``log.jsonl`` (a line every few steps) and ``samfeat.safetensors`` (the weights so far).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm
from yaml import YAMLError

from .. import __version__, checkpoints
from ..detection import sample
from ..errors import SamfeatError
from ..extract import fast_bfloat16
from ..network import Maps, SAMFeat
from . import losses
from .homographies import HomographyOptions
from .homography_pairs import load_photos, make_pairs
from .pairs import PairBatch, PairOptions
from .validation import matching_accuracy


@dataclass
class DataOptions:
    """images: a folder of photos. licence: theirs; it is written into the checkpoint."""

    images: Path = MISSING
    licence: str = "unknown"


@dataclass
class LoopOptions:
    """steps of batch pairs each. The learning rate rises over warmup steps and falls linearly to 0
    over the last share decay of all steps. clip: the largest gradient norm."""

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.7
    clip: float = 5.0
    seed: int = 1
    log_every: int = 20
    save_every: int = 100
    validate_every: int = 200


@dataclass
class LossWeights:
    """How much each loss counts; 0 leaves it out."""

    detection: float = 1.0
    position: float = 0.5
    triplet: float = 1.0
    matching: float = 0.5
    edge: float = 1.0


@dataclass
class Recipe:
    """A training recipe: its YAML file has these sections and keys."""

    output: Path = MISSING
    start_from: Path | None = None  # a checkpoint; None starts from random weights
    data: DataOptions = field(default_factory=DataOptions)
    train: LoopOptions = field(default_factory=LoopOptions)
    losses: LossWeights = field(default_factory=LossWeights)
    pairs: PairOptions = field(default_factory=PairOptions)
    homographies: HomographyOptions = field(default_factory=HomographyOptions)


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides.

    Raises:
        SamfeatError: no such file, not YAML, an unknown or missing key, a value of another type.
    """
    if not path.is_file():
        raise SamfeatError(f"{path}: no such recipe; take one from configs/")
    try:
        config = OmegaConf.merge(
            OmegaConf.structured(Recipe), OmegaConf.load(path), OmegaConf.from_dotlist(overrides)
        )
        recipe = OmegaConf.to_object(config)
    except (OmegaConfBaseException, ValueError, OSError, YAMLError) as error:
        key = getattr(error, "full_key", None)
        reason = " ".join(str(getattr(error, "msg", None) or error).split())
        where = f"{path}: {key}" if key else str(path)
        raise SamfeatError(f"{where}: {reason}; compare it with the recipes in configs/") from None
    assert isinstance(recipe, Recipe)
    return recipe


def batch_losses(maps: Maps, batch: PairBatch) -> dict[str, Tensor]:
    """Every loss of a batch; ``maps`` are those of view 0's images, then view 1's."""
    side = batch.image0.shape[-1]
    edges = F.interpolate(maps.edges.float(), (side, side), mode="bilinear", align_corners=False)
    # Extraction adds the edge map to the logits, so that sum is what has to be right.
    logits = (maps.keypoint_logits.float() + edges)[:, 0]
    points = torch.cat([batch.points0, batch.points1])
    descriptors = F.normalize(sample(maps.descriptors, points, side, side), dim=-1)
    attention = sample(maps.attention, points, side, side)
    descriptors0, descriptors1 = descriptors.chunk(2)
    attention0, attention1 = attention.chunk(2)
    return {
        "detection": losses.detection_loss(
            logits,
            torch.cat([batch.labels0, batch.labels1]),
            torch.cat([batch.valid0, batch.valid1]),
        ),
        "position": losses.position_loss(
            logits,
            torch.cat([batch.corners0, batch.corners1]),
            torch.cat([batch.present, batch.present]),
        ),
        "triplet": losses.triplet_loss(
            descriptors0, descriptors1, attention0, attention1, batch.valid, batch.not_search
        ),
        "matching": losses.matching_loss(descriptors0, descriptors1, batch.valid, batch.not_search),
        "edge": losses.edge_loss(maps.edges, torch.cat([batch.edges0, batch.edges1])),
    }


def learning_rate_at(step: int, loop: LoopOptions) -> float:
    """Linear warm-up, constant, then linear to 0 over the last ``decay`` share of the steps."""
    warm = (step + 1) / max(loop.warmup, 1)
    left = (loop.steps - step) / max(loop.decay * loop.steps, 1)
    return loop.learning_rate * min(warm, left, 1.0)


def train(recipe: Recipe) -> Path:
    """Train, or go on where the run folder left off.

    Returns:
        The checkpoint's path.

    Raises:
        SamfeatError: no photos, another recipe's run folder, or a loss that is not a number (the
        batch is saved as ``nan-batch.pt``).
    """
    loop = recipe.train
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(loop.seed)
    model = SAMFeat.from_pretrained(recipe.start_from).train() if recipe.start_from else SAMFeat()
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=loop.learning_rate)
    recipe.output.mkdir(parents=True, exist_ok=True)
    start, seconds = _resume(recipe, model, optimizer, device)

    photos, held_back = load_photos(recipe.data.images).split()
    fixed = torch.Generator(device).manual_seed(2024)
    validation = make_pairs(held_back, 32, recipe.pairs, recipe.homographies, fixed)
    OmegaConf.save(OmegaConf.structured(recipe), recipe.output / "config.yaml")

    generator = torch.Generator(device)
    bfloat16 = fast_bfloat16(device)
    began = time.monotonic() - seconds
    with (recipe.output / "log.jsonl").open("a") as log, tqdm(
        total=loop.steps, initial=start, desc="train", unit="step", mininterval=2
    ) as bar:  # fmt: skip
        for step in range(start, loop.steps):
            # Data depends on the step alone, so a resumed run sees what it would have seen.
            generator.manual_seed(loop.seed * 1_000_003 + step)
            batch = make_pairs(photos, loop.batch, recipe.pairs, recipe.homographies, generator)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, loop)
            images = torch.cat([batch.image0, batch.image1]) * 2 - 1
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                maps = model(images)
            parts = batch_losses(maps, batch)
            loss = torch.stack([getattr(recipe.losses, k) * v for k, v in parts.items()]).sum()
            if not torch.isfinite(loss):
                torch.save(
                    {k: v.cpu() for k, v in vars(batch).items() if v is not None},
                    recipe.output / "nan-batch.pt",
                )
                raise SamfeatError(
                    f"{recipe.output}/nan-batch.pt: the loss is not a number at step {step}; look"
                    " at the saved batch, or resume with a smaller train.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
            optimizer.step()

            done = step + 1
            bar.update()
            entry: dict[str, Any] = {}
            if done % loop.log_every == 0:
                entry = {k: round(float(v.detach()), 4) for k, v in parts.items()}
                entry["gradient"] = round(float(norm), 3)
                bar.set_postfix(entry, refresh=False)
            if done % loop.validate_every == 0 or done == loop.steps:
                model.eval()
                scores = matching_accuracy(model, validation)
                entry |= {k: round(v, 4) for k, v in scores.items()}
                model.train()
            elapsed = time.monotonic() - began
            if entry:
                record = {"step": done, "seconds": round(elapsed), **entry}
                log.write(json.dumps(record) + "\n")
                log.flush()
            if done % loop.save_every == 0 or done == loop.steps:
                _save(recipe, model, optimizer, done, elapsed)
    return recipe.output / "samfeat.safetensors"


def _save(
    recipe: Recipe, model: SAMFeat, optimizer: torch.optim.Adam, step: int, seconds: float
) -> None:
    loop = recipe.train
    state = recipe.output / "state.pt"
    torch.save(
        {"step": step, "seconds": seconds, "seed": loop.seed, "model": model.state_dict(),
         "optimizer": optimizer.state_dict()},
        state.with_suffix(".tmp"),
    )  # fmt: skip
    state.with_suffix(".tmp").replace(state)
    training = {
        "data": f"random homographies of the photos in {recipe.data.images.name}/",
        "licence": recipe.data.licence,
        "started_from": str(recipe.start_from.name) if recipe.start_from else "random weights",
        "teacher": "none (corners as keypoint labels, image gradients as edges)",
        "steps": step,
        "pairs": step * loop.batch,
        "seconds": round(seconds),
        "seed": loop.seed,
        "version": __version__,
    }
    path = recipe.output / "samfeat.safetensors"
    checkpoints.write_checkpoint(path, model.state_dict(), model.config, training)


def _resume(
    recipe: Recipe, model: SAMFeat, optimizer: torch.optim.Adam, device: torch.device
) -> tuple[int, float]:
    loop = recipe.train
    path = recipe.output / "state.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["seed"] != loop.seed:
        raise SamfeatError(
            f"{path}: is of a run with seed {state['seed']}, not {loop.seed}; choose another output"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
