"""The training loop: a recipe in, a run folder that can be resumed and a checkpoint out.

A run folder holds ``config.yaml`` (the resolved recipe), ``state.pt`` (everything needed to go on),
``log.jsonl`` and ``tensorboard/`` (numbers and pictures every few steps) and the checkpoints
``samfeat.safetensors`` (newest) and ``best.safetensors``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import SamfeatError, writing
from ..feature.detection import sample
from ..feature.edge_attention import edge_attention_named
from ..feature.levels import half_precision
from ..feature.network import Maps, SAMFeat
from ..files.locks import sole_run
from ..progress import tqdm
from ..version import __version__
from . import losses, processes
from .agreement import agreement_loss, score_loss
from .data import open_data
from .journal import Journal
from .pairs import PairBatch
from .recipe import SHIPPED, LoopOptions, LossOptions, Recipe
from .run_state import CONFIG, NEWEST, load_state, plain, save_state, save_weights
from .sources import batches_ahead
from .stepping import Clock, Norms, adam, descend

# No descriptor depends on these.
DETECTION_LAYERS = ("detect", "detect_share", "detect_fine")


def detection_losses(
    keypoint_logits: Tensor,
    edges: Tensor,
    batch: PairBatch,
    options: LossOptions,
    before: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of the keypoints that are on; see :class:`samfeat_hloc.feature.network.Maps`.

    Arguments:
        before: the keypoint logits of the weights that training began with, where they are asked
            for.
    """
    size = keypoint_logits.shape[-2:]
    edges = F.interpolate(edges.float(), size, mode="bilinear", align_corners=False)
    # Extraction adds the edge map to the logits, so that sum is what has to be right.
    logits = (keypoint_logits.float() + edges)[:, 0]
    parts: dict[str, Tensor] = {}
    if options.detection:
        parts["detection"] = losses.detection_loss(
            logits,
            torch.cat([batch.labels0, batch.labels1]),
            torch.cat([batch.valid0, batch.valid1]),
        )
    if options.position:
        corners = torch.cat([batch.corners0, batch.corners1])
        present = torch.cat([batch.present, batch.present])
        parts["position"] = losses.position_loss(logits, corners, present)
    if options.agreement:
        moves = batch.moves
        assert moves is not None, "the recipe has pairs that are known everywhere"
        parts["agreement"] = agreement_loss(
            logits, batch.valid0, batch.valid1, moves, batch.corners0.shape[1]
        )
    if before is not None:
        seen = torch.cat([batch.valid0, batch.valid1])
        parts["scores"] = score_loss(logits, (before.float() + edges)[:, 0], seen)
    return parts


def batch_losses(
    maps: Maps, batch: PairBatch, options: LossOptions, before: Maps | None = None
) -> dict[str, Tensor]:
    """The losses of a batch that are on; ``maps`` are those of view 0's images, then view 1's.

    Arguments:
        before: the maps by the weights that training began with, for losses that hold to them.
    """
    scored = before.keypoint_logits if before is not None and options.scores else None
    parts = detection_losses(maps.keypoint_logits, maps.edges, batch, options, scored)
    side = batch.image0.shape[-1]
    points = torch.cat([batch.points0, batch.points1])
    descriptors = F.normalize(sample(maps.descriptors, points, side, side), dim=-1)
    attention = sample(maps.attention, points, side, side)
    descriptors0, descriptors1 = descriptors.chunk(2)
    attention0, attention1 = attention.chunk(2)
    if options.kept and before is not None:
        first = before.descriptors[: len(batch.valid)]
        before0 = F.normalize(sample(first, batch.points0, side, side), dim=-1)
        parts["kept"] = losses.kept_loss(descriptors0, descriptors1, before0, batch.valid)
    known = torch.cat([batch.taught, batch.taught])
    if options.triplet:
        parts["triplet"] = losses.triplet_loss(
            descriptors0, descriptors1, attention0, attention1, batch.valid, batch.too_close,
            temperature=options.triplet_temperature,
        )  # fmt: skip
    if options.matching:
        unseen0, unseen1 = (
            _described(maps.descriptors[half], unseen, side)
            for half, unseen in zip(
                (slice(None, len(batch.valid)), slice(len(batch.valid), None)),
                (batch.unseen0, batch.unseen1), strict=True,
            )
        )  # fmt: skip
        parts["matching"] = losses.matching_loss(
            descriptors0, descriptors1, batch.valid, batch.too_close,
            unseen0=unseen0, unseen1=unseen1,
        )  # fmt: skip
    if batch.teacher0 is not None and batch.teacher1 is not None:
        teacher = torch.cat([batch.teacher0, batch.teacher1])
        if options.asrd:
            parts["asrd"] = losses.asrd_loss(maps.distillation, teacher, maps.attention, known)
        if options.psrd:
            parts["psrd"] = losses.psrd_loss(maps.distillation, teacher, known)
    for name, contrast in (("wsc", losses.wsc_loss), ("wsc_margin", losses.wsc_margin_loss)):
        if getattr(options, name):
            near = torch.cat([batch.too_close, batch.too_close])
            groups = torch.cat([batch.groups0, batch.groups1])
            parts[name] = contrast(
                descriptors, attention, groups, near,
                margin=options.margin, temperature=options.wsc_temperature,
            )  # fmt: skip
    if options.edge:
        target = torch.cat([batch.edges0, batch.edges1])
        parts["edge"] = losses.edge_loss(maps.edges, target, kind=options.edge_kind)
    return parts


def _described(descriptors: Tensor, points: Tensor | None, side: int) -> Tensor | None:
    """Unit-length descriptors (M, D) of the points (B, N, 3) that are there, of all images."""
    if points is None:
        return None
    found = F.normalize(sample(descriptors, points[..., :2], side, side), dim=-1)
    return found[points[..., 2] > 0]


def total_loss(parts: dict[str, Tensor], options: LossOptions) -> Tensor:
    """The weighted sum."""
    return torch.stack([getattr(options, name) * value for name, value in parts.items()]).sum()


def learning_rate_at(step: int, loop: LoopOptions) -> float:
    """Linear warm-up, constant, then to 0 over the last ``decay`` share of the steps."""
    warm = (step + 1) / max(loop.warmup, 1)
    left = min((loop.steps - step) / max(loop.decay * loop.steps, 1), 1.0)
    if loop.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return loop.learning_rate * min(warm, left)


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: PairBatch, recipe: Recipe,
    clock: Clock, begun: SAMFeat | None = None,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """One step of the optimizer; a GPU is not waited for.

    Arguments:
        begun: the network as training began, where losses hold to it.

    Returns:
        The losses, and the norm of the gradient; see :func:`.stepping.descend`.
    """
    device = batch.image0.device
    with clock.measure("forward"):
        images = batch.network_input.contiguous(memory_format=torch.channels_last)
        with half_precision(device, wanted=recipe.train.precision == "auto"):
            maps = model(images)
            with torch.no_grad():
                before = None if begun is None else begun(images)
        parts = batch_losses(maps, batch, recipe.losses, before)
        loss = total_loss(parts, recipe.losses)
    with clock.measure("backward"):
        norm = descend(optimizer, loss, recipe.train.clip)
    return parts, norm


def detection_step(
    model: SAMFeat, begun: SAMFeat | None, optimizer: torch.optim.Optimizer, batch: PairBatch,
    recipe: Recipe, clock: Clock,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """``train.reuse`` steps of the detection layers alone, for which the images are seen once.

    Arguments:
        begun: the network as training began, where its scores are to stay.

    Returns:
        As :func:`training_step`: the losses of the last step, the largest norm of all.
    """
    half = partial(half_precision, batch.image0.device, wanted=recipe.train.precision == "auto")
    with clock.measure("forward"), torch.no_grad(), half():
        seen = model.see(batch.network_input.contiguous(memory_format=torch.channels_last))
        before = begun.detect_in(seen.levels) if begun is not None else None
    norms = []
    for _ in range(recipe.train.reuse):
        with clock.measure("forward"):
            with half():
                logits = model.detect_in(seen.levels)
            parts = detection_losses(logits, seen.edges, batch, recipe.losses, before)
            loss = total_loss(parts, recipe.losses)
        with clock.measure("backward"):
            norms.append(descend(optimizer, loss, recipe.train.clip))
    return parts, torch.stack(norms).amax()  # not a number where one is not


def train(recipe: Recipe, *, device: str | None = None) -> Path:
    """Train, or go on where the run folder left off.

    Started by ``torchrun`` every process takes a GPU and ``train.batch`` pairs of its own;
    gradients are averaged, so the effective batch is ``train.batch`` times the processes.

    Arguments:
        device: where to train; see :func:`samfeat_hloc.parallel.devices.device_of`.

    Returns:
        The newest checkpoint's path.

    Raises:
        SamfeatError: a source, teacher or checkpoint that is missing or cannot be read (before the
            first step), another recipe's run folder, or a loss that is not a number (the batch is
            saved as ``nan-batch.pt``).
    """
    there, rank, world = processes.start(device)
    with writing(recipe.output), sole_run(recipe.output) if rank == 0 else nullcontext():
        return _train(recipe, there, rank, world)


def _train(recipe: Recipe, device: torch.device, rank: int, world: int) -> Path:
    loop, output = recipe.train, recipe.output
    if loop.layers == "detection" and world > 1:
        raise SamfeatError(
            "train.layers", "detection layers train in one process", "start it without torchrun"
        )
    torch.manual_seed(loop.seed)
    model = _first_weights(recipe).train()
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if loop.layers == "detection":
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in DETECTION_LAYERS)
    begun = None
    if recipe.losses.scores or recipe.losses.kept:
        begun = _first_weights(recipe).eval().requires_grad_(False)
        begun = begun.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adam(trained, loop.learning_rate, loop.weight_decay)
    averaged = None
    if loop.ema:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(loop.ema))  # type: ignore[no-untyped-call]
    data = open_data(recipe, device)
    if loop.epochs is not None:
        steps = loop.epochs * math.ceil(data.source.num_pairs / (loop.batch * world))
        loop = replace(loop, steps=steps)
        recipe = replace(recipe, train=loop)
        if rank == 0:
            tqdm.write(
                f"{output}: {steps} steps, {loop.epochs} epochs of {data.source.num_pairs} pairs"
            )
    output.mkdir(parents=True, exist_ok=True)
    progress = load_state(output, recipe, model, optimizer, averaged, device)
    if progress.step > loop.steps and rank == 0:
        tqdm.write(f"{output}: has {progress.step} steps already, more than train.steps asks for")
    parallel = processes.in_parallel(model, device, world)
    shipped = model if averaged is None else cast(SAMFeat, averaged.module)
    if rank == 0:
        OmegaConf.save(OmegaConf.create(plain(recipe)), output / CONFIG)
        tqdm.write(
            f"{output}: {loop.batch * world} pairs a step on {world} {device.type} device(s)"
        )

    def generators() -> Iterator[torch.Generator]:
        # Data depends on the step alone, so a resumed run sees what it would have seen.
        for step in range(progress.step, loop.steps):
            yield torch.Generator(device).manual_seed(loop.seed * 1_000_003 + step * world + rank)

    # A GPU computes while the next batches are made; on a CPU both would take the same cores.
    ahead = 2 if device.type == "cuda" else 0
    batches = batches_ahead(data.source, loop.batch, recipe.pairs, generators(), ahead=ahead)
    clock, norms = Clock(device), Norms(device, partial(_stop_at, output))
    earlier, began = progress.seconds, time.monotonic()
    with Journal(output, progress.step, enabled=rank == 0) as journal, tqdm(
        total=loop.steps, initial=progress.step, desc="train", unit="step", mininterval=2,
        disable=rank > 0,
    ) as bar:  # fmt: skip
        for step in range(progress.step, loop.steps):
            with clock.measure("data"):
                batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, loop)
            if loop.layers == "detection":
                parts, norm = detection_step(model, begun, optimizer, batch, recipe, clock)
            else:
                parts, norm = training_step(parallel, optimizer, batch, recipe, clock, begun)
            norms.add(step, batch, norm)
            if averaged is not None:
                averaged.update_parameters(model)

            done = progress.step = step + 1
            progress.seconds = earlier + time.monotonic() - began
            last = done == loop.steps
            bar.update()
            entry: dict[str, Any] = {}
            told = (loop.log_every, loop.validate_every, loop.save_every)
            if last or not all(done % every for every in told):
                gradient = norms.last()  # nothing is written after a step that was none
            if done % loop.log_every == 0 or last:
                entry = {k: round(float(v.detach()), 4) for k, v in parts.items()}
                entry["gradient"] = round(gradient, 3)
                bar.set_postfix(entry, refresh=False)
                entry |= {f"seconds/{k}": round(v, 2) for k, v in clock.seconds.items()}
            best = False
            if rank == 0 and (done % loop.validate_every == 0 or last):
                shipped.eval()
                pictured = batch
                if data.validation is not None:
                    scores = data.validation.measure(shipped)
                    entry |= {k: round(v, 4) for k, v in scores.items()}
                    decisive = scores[data.validation.decides]
                    best = decisive > progress.best
                    progress.best = max(progress.best, decisive)
                    pictured = data.validation.held_back or batch
                journal.pictures(done, shipped, pictured)
                shipped.train()
            if entry:
                journal.numbers(done, {"seconds": round(progress.seconds), **entry})
            if rank == 0 and (best or done % loop.save_every == 0 or last):
                described = describe(recipe, progress, data.teacher, world)
                if loop.layers == "detection" or recipe.losses.kept:
                    # What the start was made of, and that its descriptors are mapped, stays true.
                    start = {k: v for k, v in model.metadata.items() if k != "date"}
                    part = "detection" if loop.layers == "detection" else "polished"
                    described = {**described, **start, part: described}
                save_weights(output, shipped, described, best=best, keep=loop.keep)
                save_state(output, recipe, progress, model, optimizer, averaged)
    processes.stop(world)
    return output / NEWEST


def describe(recipe: Recipe, progress: Any, teacher: str, world: int) -> dict[str, Any]:
    """What the checkpoint says of its training."""
    data = recipe.data
    used = {
        "random homographies of photos": data.images if data.mix.homographies else None,
        "generated house fronts of photos": data.images if data.mix.scenes else None,
        "a COLMAP model": data.model,
        "MegaDepth": data.megadepth,
        "MegaDepth as MTLDesc released it": data.mtldesc,
    }
    sources = [f"{what} ({path.name})" for what, path in used.items() if path]
    if data.synthetic:
        sources.append(f"{data.synthetic} generated city blocks")
    return {
        "data": "; ".join(sources),
        "licence": data.licence,
        "started_from": recipe.start_from.name if recipe.start_from else "random weights",
        "teacher": teacher,
        "steps": progress.step,
        "pairs": progress.step * recipe.train.batch * world,
        "seconds": round(progress.seconds),
        "seed": recipe.train.seed,
        "version": __version__,
    }


def _first_weights(recipe: Recipe) -> SAMFeat:
    wanted = {k: v for k, v in vars(recipe.network).items() if v is not None}
    if "edge_attention" in wanted:
        wanted["edge_attention"] = edge_attention_named(wanted["edge_attention"])
    if recipe.start_from is None:
        return SAMFeat(**wanted)
    shipped = str(recipe.start_from) == SHIPPED
    start = SAMFeat.from_pretrained(None if shipped else recipe.start_from, device="cpu")
    config = {**start.config, **wanted}
    if config == start.config:
        return start
    model = SAMFeat(**config)
    if model.edge_attention is not None and start.edge_attention is None:
        # A part that the start lacks adds nothing at first; the context's own weights do so too.
        nn.init.zeros_(model.edge_attention.value.weight)
        nn.init.zeros_(cast(Tensor, model.edge_attention.value.bias))
    model.load_state_dict(start.state_dict(), strict=False)
    model.metadata = start.metadata
    return model


def _stop_at(output: Path, step: int, batch: PairBatch) -> None:
    path = output / "nan-batch.pt"
    torch.save({name: part.cpu() for name, part in batch.tensors().items()}, path)
    raise SamfeatError(
        path,
        f"the loss or its gradient is not a number at step {step}",
        "look at the saved batch, or resume with a smaller train.learning_rate",
    )
