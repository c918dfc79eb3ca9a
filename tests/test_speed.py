"""The speed benchmarks: what they count and that they run; no figure of time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from samfeat_hloc.evaluation import speed
from samfeat_hloc.evaluation.speed import Row, Times
from samfeat_hloc.feature.network import SAMFeat

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks" / "speed"


def test_operations_and_bytes_of_a_convolution() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
    cost = speed.forward_cost(conv, torch.zeros(1, 3, 16, 32))
    pixels = 16 * 32
    assert cost.operations == 2 * pixels * 3 * 8 * 9
    conv_values = pixels * 3 + 8 * 3 * 9 + 8 + pixels * 8
    assert cost.bytes_moved == 4 * (conv_values + 2 * pixels * 8)  # and the ReLU's, in and out
    assert cost.intensity == cost.operations / cost.bytes_moved


def test_operations_of_the_network_grow_with_the_pixels() -> None:
    model = SAMFeat(edge_attention=False).eval()
    one = speed.forward_cost(model, torch.zeros(1, 3, 32, 32))
    four = speed.forward_cost(model, torch.zeros(1, 3, 64, 64))
    assert four.operations == 4 * one.operations
    assert set(one.by_module) >= {"backbone", "describe", "distill", "fuse"}
    assert 0 <= one.by_module["between layers"] < 0.01 * one.operations


def test_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    ways = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = speed.in_turns(ways, 3)
    assert order == ["a", "b"] * 4
    assert [len(values) for values in times.seconds.values()] == [3, 3]
    assert all(value >= 0 for values in times.processor.values() for value in values)


def test_ratios_are_by_repeat() -> None:
    times = Times({"ours": [1.0, 2.0, 4.0], "hloc": [8.0, 8.0, 8.0]},
                  {"ours": [1.0, 1.0, 1.0], "hloc": [5.0, 6.0, 7.0]})  # fmt: skip
    row = Row("matching", "pairs", 10, times, {"R2D2": "not installed"})
    assert row.ratios("hloc") == [8.0, 4.0, 2.0]
    assert row.as_json()["ratios"]["hloc"] == {"min": 2.0, "median": 4.0, "max": 8.0}
    assert row.as_json()["processor_ratios"]["hloc"]["median"] == 6.0
    text = speed.table([row, Row("run", "", 1, Times(), {"all": "needs --dataset"})])
    assert "2.00 4.00 8.00" in text and "5.00 6.00 7.00" in text
    assert "skipped: not installed" in text and "skipped: needs --dataset" in text


def test_the_rate_of_the_machine() -> None:
    rates = speed.matrix_rates(64, 2)
    assert set(rates) == {"float32", "float32 onednn", "bfloat16"}
    assert all(rate > 0 for rate in rates.values())


def test_the_benchmark_runs_and_says_what_it_skips(tmp_path: Path) -> None:
    record = tmp_path / "speed.json"
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--rows", "matching,localization",
               "--repeats", "1", "--keypoints", "256", "--output", str(record)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "skipped: needs --dataset" in done.stdout
    found = json.loads(record.read_text())
    assert found["rows"][0]["items"] == 28
    assert {"versions", "machine", "commit", "load"} <= found.keys()


def test_the_city_of_every_size_is_measured(shared: Path, tmp_path: Path) -> None:
    record = tmp_path / "scale.json"
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--aachen",
               str(shared / "data" / "aachen_v1.1"), "--outputs", str(tmp_path / "cities"),
               "--sizes", "0.002", "--keypoints", "16", "--output", str(record)]  # fmt: skip
    subprocess.run(command, capture_output=True, text=True, check=True)
    stages = json.loads(record.read_text())["stages"]
    assert {entry["stage"] for entry in stages} == {
        "features", "global descriptors", "retrieval", "matching", "verification",
        "localization",
    }  # fmt: skip
    assert all(entry["peak_mb"] > 0 and entry["items"] > 0 for entry in stages)
    # Of the cities nothing is left but what was measured, which a rerun goes on from.
    assert [path.name for path in (tmp_path / "cities").iterdir()] == ["measured.jsonl"]
