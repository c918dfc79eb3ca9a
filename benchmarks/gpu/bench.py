"""What the rows of the GPU benchmark share: sizes, timing, checks, the table, made-up photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import typer

from samfeat_hloc.evaluation import speed
from samfeat_hloc.evaluation.speed import Row, Times
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.feature.presets import PRESETS

DIM = 128
NO_HLOC = {"hloc": "hloc cannot be imported"}


@dataclass(frozen=True)
class Size:
    """How much is measured. images: that are matched with each other. photo: width, height. files:
    photos of the features stage. city: images, queries by day and by night, and their size.
    training: crop and pairs of each row, and steps that are timed."""

    keypoints: int = 4096
    images: int = 24
    photo: tuple[int, int] = (1024, 768)
    photos: int = 32
    files: int = 192
    city: tuple[int, int, tuple[int, int]] = (40, 10, (640, 480))
    training: tuple[tuple[int, int], ...] = ((400, 32), (256, 64))
    steps: int = 6
    repeats: int = 5


QUICK = Size(
    keypoints=256, images=4, photo=(320, 240), photos=4, files=4, city=(8, 2, (320, 240)),
    training=((64, 2),), steps=1, repeats=1,
)  # fmt: skip


@dataclass
class Bench:
    """What all rows share, and what they found. checks: what was compared, and how much agreed."""

    device: torch.device
    size: Size
    work: Path
    presets: dict[str, ExtractOptions]
    rows: list[Row] = field(default_factory=list)
    wanted: dict[str, float] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)

    def time(
        self, name: str, unit: str, items: int, ways: Mapping[str, Callable[[], object]],
        wanted: float, *, skipped: Mapping[str, str] | None = None, repeats: int | None = None,
        note: str = "",
    ) -> None:  # fmt: skip
        """Time ways in turns, ours first; `wanted`: items a second on an H100."""

        def waited(work: Callable[[], object]) -> Callable[[], None]:
            def go() -> None:
                work()
                synchronize(self.device)

            return go

        timed = {way: waited(work) for way, work in ways.items()}
        times = Times(speed.in_turns(timed, repeats or self.size.repeats).seconds)
        self.rows.append(Row(name, unit, items, times, skipped or {}, note))
        self.wanted[name] = wanted
        rates = ", ".join(
            f"{way} {items / np.median(seconds):.1f}" for way, seconds in times.seconds.items()
        )
        typer.echo(f"{name}, {unit} a second: {rates}")

    def check(self, what: str, agreed: int, of: int) -> None:
        self.checks[what] = f"{agreed} of {of}"
        typer.echo(f"checked: {what}: {agreed} of {of}")


def presets(quick: bool) -> dict[str, ExtractOptions]:
    """Those that are measured; small ones are quick on a processor too."""
    names = ("samfeat_aachen", "samfeat_fast", "samfeat_multiscale")
    if not quick:
        return {name: PRESETS[name] for name in names}
    return {
        name: replace(PRESETS[name], resize=160, scales_up_to=160, max_keypoints=256)
        for name in names
    }


def table(bench: Bench) -> str:
    """Every row: a second by median, hloc's, how many times that, and what is wanted."""
    lines = [f"{'what':44} {'a second':>10} {'hloc':>8} {'ratio':>6} {'wanted':>8}"]
    for row in bench.rows:
        for way in row.seconds:
            if way == "hloc":
                continue
            name = row.name if way == row.ours else f"  {way}"
            rate = row.items / float(np.median(row.seconds[way]))
            hloc = ratio = ""
            if way == row.ours and "hloc" in row.seconds:
                hloc = f"{row.items / float(np.median(row.seconds['hloc'])):.1f}"
                ratio = f"{float(np.median(row.ratios('hloc'))):.1f}"
            asked = way == row.ours and bench.size is not QUICK
            wanted = f"{bench.wanted[row.name]:.3g}" if asked else ""
            lines.append(
                f"{name + ', ' + row.unit:44} {rate:10.1f} {hloc:>8} {ratio:>6} {wanted:>8}"
            )
    return "\n".join(lines)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """Rectangles of all sizes, RGB uint8 (H, W, 3): corners everywhere."""
    random = np.random.default_rng(seed)
    width, height = size
    image = np.full((height, width, 3), 110, np.uint8)
    for _ in range(width * height // 150):
        x, y = (int(v) for v in random.integers(0, size))
        w, h = (int(v) for v in random.integers(3, 40, 2))
        colour = tuple(int(c) for c in random.integers(0, 255, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    noise = random.normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)
