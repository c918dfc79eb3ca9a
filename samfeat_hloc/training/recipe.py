"""Training recipes: one YAML file, any key of which can be overridden on the command line."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import SamfeatError
from ..geometry.homographies import HomographyOptions
from .pairs import PairOptions
from .posed_views import PosedOptions
from .recipe_files import find_recipe

logger = logging.getLogger(__name__)

SCHEDULES = ("linear", "cosine")
EDGE_LOSSES = ("mse", "bce")
PRECISIONS = ("auto", "full")
LAYERS = ("all", "detection")
EDGE_ATTENTIONS = (None, "none", "rows", "pixels", False, True)
SHIPPED = "shipped"  # start_from: the checkpoint that comes with the package
FORMER_KEYS = {"pairs.not_search": "pairs.too_close"}  # and what they are called now

_LEAST = {
    1: (
        "train.steps", "train.batch", "train.log_every", "train.save_every",
        "train.validate_every", "train.reuse", "pairs.points", "pairs.keypoints",
        "homographies.scale", "posed.scale",
    ),
    0: (
        "train.learning_rate", "train.warmup", "train.weight_decay", "train.clip", "train.keep",
        "train.seed", "pairs.too_close", "homographies.rotation", "homographies.perspective",
        "homographies.shift", "posed.rotation", "data.mix.homographies", "data.mix.model",
        "data.mix.megadepth", "data.mix.mtldesc", "data.mix.synthetic", "data.mix.scenes",
        "pairs.unseen",
    ),
    64: ("posed.longest",),
}  # fmt: skip


@dataclass
class MixOptions:
    """How often each source gives a batch, relative to the others; those not given never do.

    taught: homographies of those of the photos in ``images`` that the teacher knows;
    ``homographies`` are then those of the others. None: all photos are drawn alike, the teacher
    says what it knows. scenes: generated house fronts whose walls are photos in ``images``, those
    that homographies are drawn of, or all if none are.
    """

    taught: float | None = None
    homographies: float = 1.0
    model: float = 1.0
    megadepth: float = 1.0
    mtldesc: float = 1.0
    synthetic: float = 1.0
    scenes: float = 0.0


@dataclass
class DataOptions:
    """Where pairs come from.

    images: a folder of photos: pairs are homographies of them, and they are the images of
        ``model``. licence: theirs; it is written into the checkpoint.
    model: a COLMAP model of the images. depth: a folder with their depth maps; without it the
        model's points are the correspondences.
    megadepth: MegaDepth in D2-Net's preprocessed form. mtldesc: MegaDepth as MTLDesc released it.
    synthetic: so many generated city blocks.
    teacher: a cache that ``samfeat teach`` wrote for ``images``.
    labels: keypoints that ``samfeat label`` wrote for ``images`` (or for ``megadepth``'s
        Undistorted_SfM); without it corners, or the points of a model without depth maps.
    validation: a folder of photos for the validation during training; without it each 25th of
        ``images``.
    validation_pairs: a folder in HPatches' layout to validate on as well; the best checkpoint is
        then the one that matches these pairs best.
    packed: the file that keeps the pixels of ``images`` at hand, some 0.5 MB a photo; without it
        ``photos.pack`` in the output. Runs on the same photos may share one.
    """

    images: Path | None = None
    licence: str = "unknown"
    model: Path | None = None
    depth: Path | None = None
    megadepth: Path | None = None
    mtldesc: Path | None = None
    synthetic: int = 0
    teacher: Path | None = None
    labels: Path | None = None
    validation: Path | None = None
    validation_pairs: Path | None = None
    packed: Path | None = None
    mix: MixOptions = field(default_factory=MixOptions)


@dataclass
class NetworkOptions:
    """The network's parts; null takes what ``start_from`` has, or else what the paper has.

    edge_attention: the paper's edge attention guidance: "rows" (or true) as the release's code has
    it, "pixels" as the paper's text has it, "none" (or false) without. context: a wider view at
    1/16 of the image, not in the paper. fine_detection: a detection head that sees all levels
    together, not in the paper. A start that lacks a part gets it so that it changes nothing before
    it is trained; one that has more leaves it behind.
    """

    edge_attention: Any = None
    context: bool | None = None
    fine_detection: bool | None = None


@dataclass
class LoopOptions:
    """steps of batch pairs each (on each GPU); with epochs, as many as so many epochs of the pairs
    that are found take. The learning rate rises over warmup steps, stays, and falls to 0 over the
    last share decay of all steps, linearly or as a cosine (schedule). weight_decay: Adam's. clip:
    the largest gradient norm. ema: how much of the averaged weights a step keeps, such as 0.999; 0
    does without, else the averaged weights are validated and shipped. keep: so many of the last
    checkpoints stay beside the newest and the best. precision: "auto" takes bfloat16 for the
    network where the device is fast at it, "full" float32 everywhere. layers: "all", or "detection"
    for those of the keypoints alone: descriptors stay bit for bit what they were, their losses play
    no part, and reuse says how often the optimizer steps on each batch."""

    steps: int = 3000
    epochs: int | None = None
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.7
    schedule: str = "linear"
    weight_decay: float = 0.0
    clip: float = 5.0
    ema: float = 0.0
    seed: int = 1
    log_every: int = 20
    save_every: int = 100
    validate_every: int = 200
    keep: int = 0
    precision: str = "auto"
    layers: str = "all"
    reuse: int = 1


@dataclass
class LossOptions:
    """How much each loss counts (0 leaves it out), and their settings.

    agreement: of the network's own keypoints in both views, where these are known to the pixel:
    homographies of photos, generated scenes, posed photos with depth maps.
    scores: that they stay what the start had. kept: that descriptors do, those of the second view
    those of the first; of no use where only the detection's layers train.
    asrd, psrd, wsc and wsc_margin need a teacher. wsc is the release's form, wsc_margin the
    paper's. edge_kind: "mse" or "bce".
    """

    detection: float = 1.0
    position: float = 0.5
    agreement: float = 0.0
    scores: float = 0.0
    kept: float = 0.0
    triplet: float = 1.0
    matching: float = 0.5
    asrd: float = 0.0
    psrd: float = 0.0
    wsc: float = 0.0
    wsc_margin: float = 0.0
    edge: float = 1.0
    edge_kind: str = "mse"
    triplet_temperature: float = 14.0
    wsc_temperature: float = 5.0
    margin: float = 0.07

    def needs_teacher(self) -> list[str]:
        """The losses that are on and need a teacher."""
        names = ("asrd", "psrd", "wsc", "wsc_margin")
        return [name for name in names if getattr(self, name) != 0]


@dataclass
class Recipe:
    """A training recipe: its YAML file has these sections and keys."""

    output: Path = MISSING
    start_from: Path | None = None  # a checkpoint, or "shipped"; None: random weights
    data: DataOptions = field(default_factory=DataOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    train: LoopOptions = field(default_factory=LoopOptions)
    losses: LossOptions = field(default_factory=LossOptions)
    pairs: PairOptions = field(default_factory=PairOptions)
    homographies: HomographyOptions = field(default_factory=HomographyOptions)
    posed: PosedOptions = field(default_factory=PosedOptions)


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides.

    Arguments:
        path: its file, or the name of one that comes with the package, such as homographies.

    Raises:
        SamfeatError: no such recipe, not YAML, an unknown or missing key, a value of another type
            or out of range.
    """
    path = find_recipe(path)
    try:
        given = [OmegaConf.load(path), OmegaConf.from_dotlist(overrides)]
        for config in given:
            _rename_keys(config)
        merged = OmegaConf.merge(OmegaConf.structured(Recipe), *given)
        steps, epochs = (OmegaConf.select(given[1], f"train.{key}") for key in ("steps", "epochs"))
        if steps and not epochs:
            merged.train.epochs = None  # the recipe's own
        recipe = OmegaConf.to_object(merged)
    except (
        OmegaConfBaseException, ValueError, TypeError, OSError, RecursionError, YAMLError
    ) as error:  # fmt: skip
        key = getattr(error, "full_key", None)
        # Behind the first line OmegaConf names its own classes.
        reason = (str(getattr(error, "msg", None) or error).splitlines() or [""])[0].strip()
        where = f"{path}: {key}" if key else str(path)
        raise SamfeatError(where, reason, "compare it with the recipes in configs/") from None
    assert isinstance(recipe, Recipe)
    _check(recipe, path)
    return recipe


def _rename_keys(config: object) -> None:
    """Give keys of recipes of earlier versions the names that they have now."""
    for former, key in FORMER_KEYS.items():
        section, _, name = former.rpartition(".")
        part = OmegaConf.select(config, section) if isinstance(config, DictConfig) else None
        if isinstance(part, DictConfig) and name in part:
            logger.warning("%s is called %s now", former, key)
            part[key.rpartition(".")[2]] = part.pop(name)


def _check(recipe: Recipe, path: Path) -> None:
    loop, data = recipe.train, recipe.data

    def refuse(key: str, value: object, wanted: str) -> None:
        raise SamfeatError(path, f"{key}: {value!r} is not possible", f"give {wanted}")

    sections = {
        "train": loop, "losses": recipe.losses, "pairs": recipe.pairs, "data.mix": data.mix,
        "homographies": recipe.homographies, "posed": recipe.posed,
    }  # fmt: skip
    for least, keys in _LEAST.items():
        for key in keys:
            section, _, name = key.rpartition(".")
            value = getattr(sections[section], name)
            if not value >= least:  # nor is nan
                refuse(key, value, f"a number from {least}")
    if loop.epochs is not None and loop.epochs < 1:
        refuse("train.epochs", loop.epochs, "a number from 1, or train.steps")
    kind = recipe.network.edge_attention
    if not isinstance(kind, (bool, str, type(None))) or kind not in EDGE_ATTENTIONS:
        refuse("network.edge_attention", recipe.network.edge_attention, "none, rows or pixels")
    if data.mix.taught is not None:
        if not data.mix.taught >= 0:
            refuse("data.mix.taught", data.mix.taught, "a number from 0")
        if not (data.teacher and data.images):
            refuse("data.mix.taught", data.mix.taught, "data.images and data.teacher as well")
    if data.mix.scenes and not data.images:
        refuse("data.mix.scenes", data.mix.scenes, "data.images as well, the photos of the walls")
    if loop.schedule not in SCHEDULES:
        refuse("train.schedule", loop.schedule, " or ".join(SCHEDULES))
    if loop.precision not in PRECISIONS:
        refuse("train.precision", loop.precision, " or ".join(PRECISIONS))
    if loop.layers not in LAYERS:
        refuse("train.layers", loop.layers, " or ".join(LAYERS))
    if loop.layers == "all" and loop.reuse > 1:
        refuse("train.reuse", loop.reuse, "1, or train.layers=detection")
    if loop.layers == "detection" and recipe.losses.kept:
        refuse("losses.kept", recipe.losses.kept, "0, or train.layers=all")
    for name in ("scores", "kept"):
        if getattr(recipe.losses, name) and recipe.start_from is None:
            refuse(f"losses.{name}", getattr(recipe.losses, name), "0, or start_from")
    if loop.layers == "detection" and not (
        recipe.losses.detection or recipe.losses.position or recipe.losses.agreement
    ):
        refuse("train.layers", loop.layers, "losses.agreement, detection or position above 0")
    if not 0 <= loop.ema < 1:
        refuse("train.ema", loop.ema, "a share in [0, 1)")
    if not 0 < loop.decay <= 1:
        refuse("train.decay", loop.decay, "a share in (0, 1]")
    zoom = recipe.homographies.zoom
    if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
        refuse("homographies.zoom", zoom, "the smallest and the largest, above 0")
    if not recipe.posed.zoom > 0:
        refuse("posed.zoom", recipe.posed.zoom, "a number above 0")
    for share in ("night", "sensor"):
        if not 0 <= getattr(recipe.pairs, share) <= 1:
            refuse(f"pairs.{share}", getattr(recipe.pairs, share), "a share in [0, 1]")
    if recipe.losses.edge_kind not in EDGE_LOSSES:
        refuse("losses.edge_kind", recipe.losses.edge_kind, " or ".join(EDGE_LOSSES))
    if recipe.pairs.crop % 16 or recipe.pairs.crop < 32:
        refuse("pairs.crop", recipe.pairs.crop, "a multiple of 16, from 32")
    if not (data.images or data.model or data.megadepth or data.mtldesc or data.synthetic):
        raise SamfeatError(
            path, "data.images is missing", "give data.images=PHOTOS or another source of pairs"
        )
    if data.model and not data.images:
        raise SamfeatError(path, "data.images is missing", "data.model needs its images' folder")
    if data.depth and not data.model:
        raise SamfeatError(path, "data.model is missing", "data.depth holds its depth maps")
    if recipe.losses.agreement and (
        (data.model and not data.depth) or data.mtldesc or data.synthetic
    ):
        wanted = (
            "0, or pairs known to the pixel: photos, generated scenes, data.model with data.depth"
        )
        refuse("losses.agreement", recipe.losses.agreement, wanted)
    needing = recipe.losses.needs_teacher()
    if needing and not (data.teacher or data.mtldesc or data.synthetic):
        raise SamfeatError(
            path,
            f"losses.{needing[0]} needs a teacher",
            (f"run `samfeat teach` and give data.teacher=CACHE, or set losses.{needing[0]}=0"),
        )
