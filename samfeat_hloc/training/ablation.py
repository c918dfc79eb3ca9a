"""The paper's ablation: what each of the teacher's parts brings, with several seeds, and costs."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import SamfeatError, writing
from ..evaluation import hpatches, matching
from ..evaluation.record import measurement
from ..feature import checkpoints
from ..feature.extraction import extract_batch
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..files.atomic import write_atomically
from ..files.provenance import file_sha256
from .data import PACKED
from .recipe import FORMER_KEYS, SHIPPED, Recipe
from .run_state import plain
from .trainer import train

# The parts of each arm, in the order in which a seed's arms are trained. The paper's text has the
# attention weight relations (ASRD), the margin form of WSC and attention from pixel to pixel; the
# release's code has what comes to PSRD, the other form of WSC and attention of rows.
ARMS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "all": ("asrd", "wsc_margin", "edge", "pixels"),
    "+ASRD": ("asrd",),
    "+WSC": ("wsc",),
    "+EAG rows": ("edge", "rows"),
    "+EAG pixels": ("edge", "pixels"),
    "+PSRD": ("psrd",),
    "+WSC margin": ("wsc_margin",),
    "all, release": ("psrd", "wsc", "edge", "rows"),
    "+edges": ("edge",),
    "+gradients": ("edge", "gradients"),
    "+scenes": ("scenes",),
    "+scenes, unseen": ("scenes", "unseen"),
}
# Those that are trained where none is named: scenes are no part of the teacher's.
TEACHERS_ARMS = tuple(arm for arm, parts in ARMS.items() if "scenes" not in parts)
PARTS = ("asrd", "psrd", "wsc", "wsc_margin", "edge")
OPTIONS = ExtractOptions(resize=1024, max_keypoints=2048)
LIMITS = (1, 3, 5)  # pixels
UNSEEN = 64  # keypoints a view that the other cannot see, in the arm of their name
# What of a recipe changes neither weights nor figures.
_NOT_SETTINGS = ("output", "data.packed", "data.licence", "train.log_every", "train.save_every",
                 "train.validate_every", "train.keep")  # fmt: skip


def variant(recipe: Recipe, arm: str, seed: int) -> Recipe:
    """The recipe with only the parts of an arm on; weights that are 0 in it count as 1.

    EAG is the edge attention together with the loss of the edges; ``+edges`` is that loss alone,
    ``+gradients`` the same loss with the image's gradients in place of the teacher's edges.
    ``+scenes`` takes half of the pairs from generated house fronts of the same photos, ``unseen``
    has keypoints that the other view cannot see as negatives.
    """
    parts, data = ARMS[arm], recipe.data
    mix = data.mix
    if "scenes" in parts:
        others = {
            "taught": data.images, "homographies": data.images, "model": data.model,
            "megadepth": data.megadepth, "mtldesc": data.mtldesc, "synthetic": data.synthetic,
        }  # fmt: skip
        weights = [getattr(mix, name) or 0.0 for name, given in others.items() if given]
        mix = replace(mix, scenes=sum(weights))
    counts: dict[str, Any] = {
        name: (getattr(recipe.losses, name) or 1.0) if name in parts else 0.0 for name in PARTS
    }
    kind = next((part for part in parts if part in ("rows", "pixels")), "none")
    return replace(
        recipe,
        output=recipe.output / f"{file_name(arm)}-{seed}",
        # All runs train on the same photos: one file holds their pixels.
        data=replace(data, mix=mix, packed=data.packed or recipe.output / PACKED),
        losses=replace(recipe.losses, **counts),
        network=replace(recipe.network, edge_attention=kind),
        pairs=replace(
            recipe.pairs,
            taught_edges="gradients" not in parts,
            unseen=UNSEEN if "unseen" in parts else recipe.pairs.unseen,
        ),
        train=replace(recipe.train, seed=seed),
    )


def file_name(arm: str) -> str:
    """An arm's name as part of a file's: "+EAG rows" is "eag-rows"."""
    return arm.lstrip("+").lower().replace(",", "").replace(" ", "-")


def ablate(
    recipe: Recipe, *, arms: Sequence[str] = TEACHERS_ARMS, seeds: Sequence[int] = (1,),
    measured: Sequence[Path] = (), results: Path | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train every arm with every seed, all arms of a seed before the next seed's.

    A seed decides the pairs, so arms of one seed see the same pairs in the same order. Each run has
    its own folder in ``recipe.output`` and its own process, so that its memory is its own. What is
    done is not done again, and a run that was interrupted goes on.

    Arguments:
        measured: folders in HPatches' layout to match after each run, none of which may be trained
            on.
        results: folder of the runs' results, ``ARM-SEED.json``; None for ``results`` in the output.
            A run whose result is there is not trained, wherever it was trained.
        device: where to train; None for a GPU where there is one.

    Returns:
        The results; see :func:`_result`.

    Raises:
        SamfeatError: a recipe without a teacher or without anything to measure on, an unknown arm,
            or a result that another recipe left.
    """
    data = recipe.data
    if not data.teacher and not data.synthetic and not data.mtldesc:
        raise SamfeatError(
            "data.teacher", "an ablation of its losses needs a teacher", "samfeat teach"
        )
    if not (data.images or data.validation or data.validation_pairs or measured):
        raise SamfeatError(
            "data.validation",
            (
                "give photos to measure the matching accuracy on, or pairs in HPatches' "
                "layout (data.validation_pairs)"
            ),
        )
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise SamfeatError(f"--arm {unknown[0]}", "no such arm", f"choose from {'; '.join(ARMS)}")
    if not data.images and (of_photos := [arm for arm in arms if "scenes" in ARMS[arm]]):
        raise SamfeatError(f"--arm {of_photos[0]}", "its walls are photos", "give data.images")
    for folder in measured:
        hpatches.read_pairs(folder)  # what is wrong with them is said before the first step
    results = results or recipe.output / "results"
    context = multiprocessing.get_context("spawn")
    found = []
    for seed in seeds:
        for arm in arms:
            chosen = variant(recipe, arm, seed)
            path = results / f"{file_name(arm)}-{seed}.json"
            if not path.exists():
                arguments = (chosen, arm, tuple(measured), path, device)
                process = context.Process(target=_train_and_measure, args=arguments)
                process.start()
                process.join()
                if process.exitcode:
                    raise SamfeatError(chosen.output, "training failed", "its reason is above")
            result = _read(path)
            if differing := _differing(_completed(result["settings"]), settings(chosen)):
                raise SamfeatError(
                    path, f"is of another recipe ({differing})", "give another --results"
                )
            found.append(result)
    return found


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder.

    Raises:
        SamfeatError: no such folder, no results in it, or one that cannot be read.
    """
    found = [_read(path) for path in sorted(Path(folder).glob("*-[0-9]*.json"))]
    if not found:
        raise SamfeatError(folder, "no results of samfeat ablate", "give the folder of its JSONs")
    return found


def settings(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that decides a run's figures, the same wherever its files lie: paths are
    their last names, the start is its SHA-256."""
    values = plain(recipe)
    for key in _NOT_SETTINGS:
        section, _, name = key.rpartition(".")
        (values[section] if section else values).pop(name)
    for name, value in vars(recipe.data).items():
        if isinstance(value, Path) and name in values["data"]:
            values["data"][name] = value.name
    if recipe.start_from is not None:
        shipped = str(recipe.start_from) == SHIPPED
        path = checkpoints.resolve(None if shipped else recipe.start_from)
        values["start_from"] = file_sha256(path)
    return values


class _Extracted:
    """Features that a network finds when they are asked for."""

    def __init__(self, model: SAMFeat, root: Path) -> None:
        self._model, self._root = model, root

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def read(self, name: str) -> matching.CachedFeatures:
        found = extract_batch(self._model, [self._root / name], OPTIONS)[0]
        width, height = found["image_size"].tolist()
        keypoints = found["keypoints"].astype(np.float64)
        return matching.CachedFeatures(keypoints, found["descriptors"], (width, height))


def _measure(weights: Path, folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    """For each folder and kind: ``mma@1``, ``mma@3`` and ``mma@5`` in percent, ``matches`` a pair,
    and ``right@3``, those of them within 3 pixels."""
    model = SAMFeat.from_pretrained(weights)
    sets = {}
    for folder in folders:
        pairs = hpatches.read_pairs(folder)
        results = hpatches.evaluate(pairs, _Extracted(model, folder), label=folder.name)
        for kind in sorted({result.kind for result in results}):
            errors = [result.errors for result in results if result.kind == kind]
            shares = np.mean([matching.accuracy(e, LIMITS) for e in errors], axis=0)
            figures = {f"mma@{limit}": round(100 * float(share), 3)
                       for limit, share in zip(LIMITS, shares, strict=True)}  # fmt: skip
            figures["matches"] = round(float(np.mean([len(e) for e in errors])), 2)
            figures["right@3"] = round(float(np.mean([(e <= 3).sum() for e in errors])), 2)
            sets[f"{folder.resolve().name} {kind}"] = figures
    return sets


def _train_and_measure(
    recipe: Recipe, arm: str, measured: Sequence[Path], path: Path, device: str | None
) -> None:
    try:
        before = resource.getrusage(resource.RUSAGE_SELF)
        weights = train(recipe, device=device)
        after = resource.getrusage(resource.RUSAGE_SELF)
        # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        memory = float(after.ru_maxrss * unit)
        if torch.cuda.is_available():
            memory = float(torch.cuda.max_memory_allocated())
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        result = _result(recipe, arm, weights, measured, memory=memory / 1e6, cpu_seconds=used)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(result, indent=1) + "\n")
    except SamfeatError as error:
        sys.exit(f"error: {error}")


def _result(
    recipe: Recipe, arm: str, weights: Path, measured: Sequence[Path], *, memory: float,
    cpu_seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """What a run came to, as plain values: ``sets`` holds the figures of :func:`_measure` and,
    under "validation", those of the run's own validation; ``cost`` seconds and processor seconds
    a step and the peak of the memory in megabytes (on a GPU the device's)."""
    records: list[dict[str, Any]] = [
        json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()
    ]
    last = records[-1]
    # The clock counts one process's steps: those of an interrupted run end where it was resumed.
    counted = _steps_of_last_process(records)
    split = {part: last[f"seconds/{part}"] / counted for part in ("data", "forward", "backward")}
    cost = {"seconds": sum(split.values()), **split, "cpu_seconds": cpu_seconds / counted}
    pairs = "planar/" if "planar/mma@3" in last else ""
    sets = _measure(weights, measured)
    if f"{pairs}mma@3" in last:
        matches = last[f"{pairs}matches"]
        sets["validation"] = {
            **{f"mma@{limit}": round(100 * last[f"{pairs}mma@{limit}"], 3) for limit in (1, 3)},
            "matches": matches, "right@3": round(matches * last[f"{pairs}mma@3"], 2),
        }  # fmt: skip
    return {
        "arm": arm,
        "seed": recipe.train.seed,
        "steps": recipe.train.steps,
        "batch": recipe.train.batch,
        "sets": sets,
        "cost": {**{key: round(value, 4) for key, value in cost.items()},
                 "memory": round(memory)},
        "settings": settings(recipe),
        "weights_sha256": checkpoints.file_sha256(weights),
        "made_by": measurement({"measured": [folder.name for folder in measured]}),
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text())
        if not (result["sets"] and result["cost"] and result["settings"]):
            raise ValueError("it has no figures")
        return result
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise SamfeatError(
            path,
            f"is no result of samfeat ablate ({why})",
            "give another --results folder, or move it away",
        ) from None


def _completed(before: dict[str, Any]) -> dict[str, Any]:
    """Settings with the keys' names of now; keys that came later have their defaults."""
    for former, key in FORMER_KEYS.items():
        section, _, name = former.rpartition(".")
        if name in (part := before.get(section, {})):
            part[key.rpartition(".")[2]] = part.pop(name)
    return _filled(settings(Recipe(output=Path())), before)


def _filled(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _filled(value, given.get(key) or {})
        if isinstance(value, dict)
        else given.get(key, value)
        for key, value in defaults.items()
    }


def _differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """The settings that differ, as text."""
    found = []
    for key in sorted(set(before) | set(now)):
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found.append(_differing(one, other, f"{prefix}{key}."))
        elif one != other:
            found.append(f"{prefix}{key}: {one} then, {other} now")
    return ", ".join(text for text in found if text)


def _steps_of_last_process(records: list[dict[str, Any]]) -> int:
    begun = 0
    for before, record in pairwise(records):
        if record["seconds/forward"] < before["seconds/forward"]:
            begun = int(before["step"])
    return int(records[-1]["step"]) - begun
