"""The mean of trained weights: of runs that began with the same ones, better than each of them.

Runs from one start stay so near to each other that the network between them is a network too; what
each learned by chance goes, what all learned stays. (Wortsman et al., "Model soups", ICML 2022;
not in the paper.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import SamfeatError
from ..feature import checkpoints
from ..files.atomic import check_place


def main(weights: Sequence[Path], output: Path, *, overwrite: bool = False) -> Path:
    """Write the mean of checkpoints.

    Arguments:
        weights: two or more; the result is described as the first, and says which took part.
        output: the checkpoint to write.
        overwrite: replace a file that is there.

    Raises:
        SamfeatError: fewer than two, one that cannot be read or is of another network than the
            first, an output that is there or cannot be written.
    """
    if len(weights) < 2:
        raise SamfeatError("--weights", "one checkpoint is its own mean", "give two or more")
    check_place(output, overwrite=overwrite)
    read = [checkpoints.read_checkpoint(checkpoints.resolve(path)) for path in weights]
    first = read[0]
    shapes = {name: value.shape for name, value in first.parameters.items()}
    for other in read[1:]:
        found = {name: value.shape for name, value in other.parameters.items()}
        if found != shapes or other.config != first.config:
            raise SamfeatError(
                other.path, f"is of another network than {first.path}", "give runs from one start"
            )
    mean = {
        name: torch.stack([one.parameters[name].float() for one in read]).mean(0) for name in shapes
    }
    facts = [{"sha256": one.sha256, **one.metadata.get("polished", {})} for one in read]
    training = {key: value for key, value in first.metadata.items() if key != "date"}
    checkpoints.write_checkpoint(output, mean, first.config, {**training, "averaged": facts})
    return output
