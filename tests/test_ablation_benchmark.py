"""The ablation's own command: teaches, trains from its start, measures, and tells what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from samfeat_hloc.training import ablation
from samfeat_hloc.training.recipe import read_recipe

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "ablation" / "run.py", *arguments]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, check=False,
        cwd=ROOT,
    )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    photos, maps, pairs = tmp_path / "photos", tmp_path / "maps", tmp_path / "pairs"
    for folder in (photos, maps, pairs / "v_a"):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(27):
        blocks = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        photo = cv2.resize(blocks, (160, 120), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(photos / f"{index}.png"), photo)
        if index < 20:
            segments = (np.indices((120, 160))[1] // 50).astype(np.uint8)
            cv2.imwrite(str(maps / f"{index}_0.png"), segments)
            cv2.imwrite(str(maps / f"{index}_1.png"), segments // 2)
    for number in (1, 2):
        cv2.imwrite(str(pairs / f"v_a/{number}.png"), photo)
    np.savetxt(pairs / "v_a/H_1_2", np.eye(3))
    command = [
        "--photos", photos, "--label-maps", maps, "--measure", pairs, "--pairs", 4, "--batch", 2,
        "--crop", 64, "--seeds", 1, "--arm", "baseline", "--arm", "all", "--work",
        tmp_path / "work", "--results", tmp_path / "results",
    ]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "20 of 27 photos have label maps" in done.stderr
    result = json.loads((tmp_path / "results" / "all-1.json").read_text())
    assert result["steps"] == 2 and result["sets"]["pairs v"]["mma@3"] == 100
    assert result["settings"]["pairs"]["crop"] == 64
    told = run("--tables", "--results", tmp_path / "results")
    assert done.stdout.endswith(told.stdout) and "| all | 1 |" in told.stdout
    assert (tmp_path / "results" / "tables.md").read_text() == told.stdout
    refused = run("--photos", photos)
    assert refused.returncode == 1 and "--label-maps" in refused.stderr
    nothing = run("--tables", "--results", tmp_path / "none")
    assert nothing.returncode == 1 and "no results of samfeat ablate" in nothing.stderr


@pytest.mark.parametrize(
    ("folder", "arms", "seeds"),
    [
        ("960-pairs-128px", list(ablation.TEACHERS_ARMS), (1, 2, 3)),
        ("960-pairs-128px-scenes", ["baseline", "+scenes"], (1, 2, 3)),
        ("960-pairs-128px-scenes", ["+scenes, unseen"], (1,)),
    ],
)
def test_results_that_are_there_are_of_the_recipe_as_it_is(
    tmp_path: Path, folder: str, arms: list[str], seeds: tuple[int, ...]
) -> None:
    """Keys that were renamed or came later once made them results of another recipe."""
    (tmp_path / "v_a").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"v_a/{number}.png"), np.zeros((48, 64, 3), np.uint8))
    np.savetxt(tmp_path / "v_a/H_1_2", np.eye(3))
    recipe = read_recipe(ROOT / "configs" / "ablation.yaml", [
        "data.images=photos", "data.teacher=people.h5", "train.steps=120", "train.batch=8",
        f"start_from={ROOT / 'benchmarks/ablation/start.safetensors'}", "pairs.crop=128",
    ])  # fmt: skip
    # Nothing is trained: the photos are not even there.
    found = ablation.ablate(
        recipe, arms=arms, seeds=seeds, measured=[tmp_path], results=ROOT / "docs/ablation" / folder
    )
    assert {(one["arm"], one["seed"]) for one in found} == {(a, s) for a in arms for s in seeds}
