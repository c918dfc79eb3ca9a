"""Rows of the GPU benchmark: matching, in memory and file to file, and extraction in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from bench import DIM, NO_HLOC, Bench, photo
from torch import Tensor

from samfeat_hloc.evaluation.random_features import write_random_features
from samfeat_hloc.feature.extraction import extract_batch
from samfeat_hloc.feature.levels import half_precision
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files.feature_readers import MatchReader
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import matches
from samfeat_hloc.localization.matches import MatchConfig


def matching(bench: Bench) -> None:
    """All pairs of a few images: in memory, results on the host, and file to file."""
    keypoints, work = bench.size.keypoints, bench.work
    names = [f"db/{i}.jpg" for i in range(bench.size.images)]
    write_random_features(work / "random.h5", names, keypoints, DIM)
    listed = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = work / "random-pairs.txt"
    pairs.write_text("".join(f"{a} {b}\n" for a, b in listed))
    with matches.DescriptorCache(work / "random.h5", str(bench.device)) as cache:
        tensors = {name: cache.get(name) for name in names}
    in_memory = [(tensors[a], tensors[b]) for a, b in listed]
    theirs = _hloc_matches(tensors, listed)
    for config in (MatchConfig(), MatchConfig(ratio_threshold=0.8), MatchConfig(False, 0.9)):
        found = [g.datasets["matches0"] for g in matches.match_many(in_memory, config)]
        alone = [next(iter(matches.match_many([pair], config))) for pair in in_memory]
        same = sum(
            np.array_equal(a, b.datasets["matches0"]) for a, b in zip(found, alone, strict=True)
        )
        bench.check(f"pairs matched as alone, {_words(config)}", same, len(listed))
        if hloc_installed():
            expected = theirs(config)
            same = sum(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            bench.check(f"pairs matched as by hloc, {_words(config)}", same, len(listed))

    ways: dict[str, Callable[[], object]] = {
        "samfeat": lambda: list(matches.match_many(in_memory, MatchConfig()))
    }
    stages: dict[str, Callable[[], object]] = {
        "samfeat": lambda: matches.main(
            pairs, work / "random.h5", work / "ours.h5", device=str(bench.device), overwrite=True
        )
    }
    if hloc_installed():
        ways["hloc"] = lambda: theirs(MatchConfig())
        stages["hloc"] = lambda: _hloc_stage(pairs, work)
    skipped = {} if hloc_installed() else NO_HLOC
    bench.time("matching in memory", "pairs", len(listed), ways, 3300, skipped=skipped)
    bench.time(
        "matching file to file", "pairs", len(listed), stages, 1500,
        skipped=skipped, repeats=min(3, bench.size.repeats),
    )  # fmt: skip
    if hloc_installed():
        with MatchReader(work / "ours.h5") as ours, MatchReader(work / "hloc.h5") as hlocs:
            same = sum(np.array_equal(ours.matches(*p), hlocs.matches(*p)) for p in listed)
        bench.check("pairs of the files matched as by hloc", same, len(listed))


def _words(config: MatchConfig) -> str:
    return ", ".join(f"{k} {v}" for k, v in config.asdict().items() if v is not None)


def _hloc_matches(
    tensors: Mapping[str, Tensor], listed: Sequence[tuple[str, str]]
) -> Callable[[MatchConfig], list[np.ndarray]]:
    """What hloc's matcher says of the same tensors, brought to the host as its writer does."""
    batched = {name: tensor[None].float().contiguous() for name, tensor in tensors.items()}

    def go(config: MatchConfig) -> list[np.ndarray]:
        conf = {
            "do_mutual_check": config.mutual,
            "ratio_threshold": config.ratio_threshold,
            "distance_threshold": config.distance_threshold,
        }
        matcher = import_module("hloc.matchers.nearest_neighbor").NearestNeighbor(conf)
        with torch.no_grad():
            found = [
                matcher({"descriptors0": batched[a], "descriptors1": batched[b]}) for a, b in listed
            ]
            return [pair["matches0"][0].cpu().short().numpy() for pair in found]

    return go


def _hloc_stage(pairs: Path, work: Path) -> None:
    module = import_module("hloc.match_features")
    (work / "hloc.h5").unlink(missing_ok=True)
    features, output = work / "random.h5", work / "hloc.h5"
    module.main(module.confs["NN-mutual"], pairs, features, matches=output)


def extraction(bench: Bench) -> None:
    """Photos in memory to keypoints and descriptors in memory."""
    model = SAMFeat.from_pretrained(device=bench.device)
    photos = [photo(bench.size.photo, seed) for seed in range(bench.size.photos)]
    eights = [photos[i : i + 8] for i in range(0, len(photos), 8)]
    aachen, fast = bench.presets["samfeat_aachen"], bench.presets["samfeat_fast"]
    _extracted_alike(bench, model, photos[:4], replace(aachen, precision="float32"))

    def network() -> None:
        with torch.inference_mode(), half_precision(bench.device):
            for _ in range(0, len(photos), len(batch)):
                model.encode(batch)

    def batches(options: ExtractOptions) -> Callable[[], object]:
        return lambda: [extract_batch(model, eight, options) for eight in eights]

    stacked = np.stack(eights[0]).astype(np.float32) / 127.5 - 1
    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(bench.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    ways = {"samfeat": batches(aachen), "network alone": network, "fast": batches(fast),
            "multiscale": batches(bench.presets["samfeat_multiscale"])}  # fmt: skip
    bench.time("extraction, batches of 8", "images", len(photos), ways, 350)
    alone = {"samfeat": lambda: [extract_batch(model, [one], aachen) for one in photos]}
    bench.time("extraction, one at a time", "images", len(photos), alone, 150)


def _extracted_alike(
    bench: Bench, model: SAMFeat, photos: Sequence[np.ndarray], options: ExtractOptions
) -> None:
    """A batch gives what its images give alone, and this device what the processor gives."""
    together = extract_batch(model, photos, options)
    alone = [extract_batch(model, [one], options)[0] for one in photos]
    reference = model if bench.device.type == "cpu" else SAMFeat.from_pretrained(device="cpu")
    expected = extract_batch(reference, photos, options)
    for what, others in (("in a batch as alone", alone), ("as on the processor", expected)):
        near = total = 0
        for ours, theirs in zip(together, others, strict=True):
            distance = np.abs(ours["keypoints"][:, None] - theirs["keypoints"][None]).max(2)
            at = distance.argmin(1)
            cosine = (ours["descriptors"] * theirs["descriptors"][:, at]).sum(0)
            near += int(((distance.min(1) < 0.1) & (cosine > 0.999)).sum())
            total += len(ours["keypoints"])
        bench.check(f"keypoints found {what}, float32", near, total)
