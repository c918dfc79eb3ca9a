"""The mean of trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.feature import checkpoints
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.training import averaging


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """The shipped weights, and two that moved from there."""
    start = checkpoints.read_checkpoint(checkpoints.SHIPPED)
    paths = [checkpoints.SHIPPED]
    for seed in (1, 2):
        random = torch.Generator().manual_seed(seed)
        moved = {
            name: value.float() + 0.01 * torch.randn(value.shape, generator=random)
            for name, value in start.parameters.items()
        }
        facts = {**start.metadata, "polished": {"seed": seed, "steps": 2600}}
        paths.append(tmp_path / f"{seed}.safetensors")
        checkpoints.write_checkpoint(paths[-1], moved, start.config, facts, dtype=torch.float32)
    return paths


def test_the_mean_is_described_as_the_first_and_says_of_what_it_is(
    runs: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "new" / "mean.safetensors"
    arguments = [word for path in runs for word in ("--weights", str(path))]
    result = CliRunner().invoke(app, ["average", *arguments, "--output", str(output)])
    assert result.exit_code == 0 and str(output) in result.stdout
    read = [SAMFeat.from_pretrained(path, device="cpu").state_dict() for path in (*runs, output)]
    for name, value in read[-1].items():
        mean = (read[0][name] + read[1][name] + read[2][name]) / 3
        torch.testing.assert_close(value, mean, rtol=1e-3, atol=1e-4)
    found = checkpoints.read_checkpoint(output)
    start = checkpoints.read_checkpoint(checkpoints.SHIPPED)
    assert found.metadata["projected"] == start.metadata["projected"]
    assert [one["sha256"] for one in found.metadata["averaged"]] == [
        checkpoints.read_checkpoint(path).sha256 for path in runs
    ]
    assert [one.get("seed") for one in found.metadata["averaged"]][1:] == [1, 2]
    with refused(output.name, "exists", "--overwrite"):
        averaging.main(runs, output)
    assert averaging.main(runs, output, overwrite=True) == output


def test_what_has_no_mean(runs: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "mean.safetensors"
    with refused("--weights", "one checkpoint", "two or more"):
        averaging.main(runs[:1], output)
    with refused("samfeat_paper.safetensors", "another network"):
        averaging.main([runs[0], Path("paper")], output)
    with refused("none.safetensors"):
        averaging.main([runs[0], tmp_path / "none.safetensors"], output)
    assert not output.exists()
