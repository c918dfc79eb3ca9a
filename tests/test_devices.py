"""Devices by name: what there is, and what is said where there is none."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from samfeat_hloc import cli
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.parallel import devices
from samfeat_hloc.parallel.devices import available, device_of, stack_to_device, to_device, to_host


def test_a_device_that_is_not_there_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert available()[:3] == ["cpu", "cuda:0", "cuda:1"]
    for name in ("cpu", "cuda", "cuda:1"):
        assert str(device_of(name)) == name
    for wrong in ("cuda:2", "mps", "tpu", "", "cuda:x"):
        with pytest.raises(
            SamfeatError, match=rf"^device {wrong}: .* choose from cpu, cuda:0, cuda:1"
        ):
            device_of(wrong)


def test_the_choice_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    devices._automatic.cache_clear()
    assert device_of(None) == device_of(None) == torch.device("cpu")
    told = [record.message for record in caplog.records]
    assert told == [f"device: cpu, {torch.get_num_threads()} threads; mps when asked for"]
    devices._automatic.cache_clear()


def test_there_and_back() -> None:
    values = torch.arange(6.0).view(2, 3)
    there = to_device(values, torch.device("cpu"))
    arrived = to_host([there, there + 1])
    assert all(torch.equal(a, b) for a, b in zip(arrived(), [values, values + 1], strict=True))
    arrays = [np.full((2, 3), value, np.uint8) for value in (1, 2)]
    for array in arrays:
        array.flags.writeable = False  # as decoded photos are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stack_to_device(arrays, torch.device("cpu"))
    assert found.dtype == torch.uint8 and found.tolist() == np.stack(arrays).tolist()


COMPUTE = {
    "run", "demo", "features", "global-descriptors", "matches", "map build", "map add",
    "localize", "reconstruct",
    "eval hpatches", "eval pairs", "viz keypoints", "viz matches", "viz relations", "train",
    "whiten", "project", "ablate", "teach", "label",
}  # fmt: skip


def test_every_command_that_computes_takes_a_device() -> None:
    def named(command: click.Command, name: str) -> dict[str, click.Command]:
        if not hasattr(command, "commands"):
            return {name: command}
        return {
            full: found
            for part, inner in command.commands.items()
            for full, found in named(inner, f"{name} {part}".strip()).items()
        }

    commands = named(typer.main.get_command(cli.app), "")
    assert set(commands) >= COMPUTE
    taking = {n for n, c in commands.items() if "device" in {p.name for p in c.params}}
    assert taking == COMPUTE


def test_a_wrong_device_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\n")
    for command in (
        "features --images {0} --list {0}/list.txt --output {0}/f.h5",
        "matches --pairs {0}/p.txt --features {0}/f.h5 --output {0}/m.h5",
        "features --images {0} --list {0}/list.txt --output {0}/f.h5 --workers ray",
    ):
        words = [*command.format(tmp_path).split(), "--device", "cuda:77"]
        found = CliRunner().invoke(cli.app, words)
        wanted = "--device: with --workers ray" if "ray" in words else "device cuda:77: there is "
        assert str(found.exception).startswith(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
