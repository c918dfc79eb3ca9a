"""What the results of an ablation say, as Markdown: gains over the baseline, and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .ablation import ARMS


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Everything that the results say, in Markdown: gains on each set, and what a step costs."""
    first, seeds = results[0], len({result["seed"] for result in results})
    parts = [
        f"{first['steps'] * first['batch']} pairs a run, {seeds} seed{'s' * (seeds > 1)};"
        " gains over the baseline of the same seed: the mean, and the smallest and largest of the"
        " seeds"
    ]
    for figure, title in (
        ("mma@3", "MMA@3, percent"),
        ("mma@1", "MMA@1, percent"),
        ("right@3", "right matches a pair, within 3 px"),
    ):
        parts.append(f"**{title}**\n\n{gains(results, figure)}")
    parts.append(f"**what a step costs**\n\n{costs(results)}")
    return "\n\n".join(parts)


def gains(results: Sequence[dict[str, Any]], figure: str) -> str:
    """One figure on each set, as Markdown: the baseline's, and each arm's gain over it.

    A gain is the mean of the seeds' differences to the baseline of the same seed, and the smallest
    and largest of them; seeds whose baseline is not done do not count.
    """
    sets = list(results[0]["sets"])
    by = {(r["arm"], r["seed"]): r["sets"] for r in results}
    lines = ["| | seeds | " + " | ".join(sets) + " |", "| --- |" + " --- |" * (len(sets) + 1)]
    for arm in ARMS:
        seeds = sorted(seed for name, seed in by if name == arm and ("baseline", seed) in by)
        if not seeds:
            continue
        cells = []
        for name in sets:
            values = [by[arm, seed][name][figure] for seed in seeds]
            if arm == "baseline":
                cells.append(_with_spread(values, "{:.1f}"))
            else:
                base = [by["baseline", seed][name][figure] for seed in seeds]
                cells.append(_with_spread(np.subtract(values, base).tolist(), "{:+.1f}"))
        lines.append(f"| {arm} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def costs(results: Sequence[dict[str, Any]]) -> str:
    """What a step costs, means over the seeds, as Markdown. Processor seconds, of all threads
    together, hold on a busy machine too; on a GPU they are its host's."""
    lines = [
        "| | processor seconds a step | of the step data / forward / backward | seconds a step"
        " | memory, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    base: dict[str, float] = {}
    keys = ("seconds", "data", "forward", "backward", "cpu_seconds", "memory")
    for arm in ARMS:
        of_arm = [r["cost"] for r in results if r["arm"] == arm]
        if not of_arm:
            continue
        mean = {key: float(np.mean([cost[key] for cost in of_arm])) for key in keys}
        base = base or mean
        shares = " / ".join(
            f"{mean[part] / mean['seconds']:.0%}" for part in ("data", "forward", "backward")
        )
        more = mean["cpu_seconds"] / base["cpu_seconds"] - 1
        lines.append(
            f"| {arm} | {mean['cpu_seconds']:.3f} ({more:+.0%})"
            f" | {shares} | {mean['seconds']:.3f}"
            f" | {mean['memory']:.0f} ({mean['memory'] - base['memory']:+.0f}) |"
        )
    return "\n".join(lines)


def _with_spread(values: Sequence[float], form: str) -> str:
    mean = form.format(float(np.mean(values)))
    if len(values) < 2:
        return mean
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"
