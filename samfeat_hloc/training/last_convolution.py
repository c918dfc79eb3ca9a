"""A linear map of the descriptors, multiplied into the last convolution of a checkpoint.

What comes after training (`whitening`, `projection`) changes descriptors by such a map alone: the
network and its cost stay what they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SamfeatError
from ..feature import checkpoints
from ..feature.network import DESCRIPTOR_DIM, SAMFeat
from ..files.atomic import check_place
from .photos import HELD_BACK_EVERY, PhotoFolder


def open_checkpoint(
    weights: Path, images: Path, output: Path, done: str, *, device: str | None, overwrite: bool
) -> tuple[SAMFeat, PhotoFolder]:
    """A trained network, and the photos by which to change it.

    Of a folder that training holds photos back from, those are left out here too.

    Arguments:
        done: what is to be done to it, such as "whitened"; a checkpoint's metadata say it once it
            is.

    Raises:
        SamfeatError: a checkpoint that has it done already or cannot be read, an output that is
            there or cannot be written, no photos.
    """
    check_place(output, overwrite=overwrite)
    model = SAMFeat.from_pretrained(weights, device=device)
    if done in model.metadata:
        raise SamfeatError(weights, f"is {done} already", "give the checkpoint from before that")
    photos = PhotoFolder.open(images)
    if len(photos) >= HELD_BACK_EVERY:
        photos = photos.split()[0]
    return model, photos


@torch.no_grad()
def multiply_in(model: SAMFeat, matrix: Tensor, vector: Tensor | None = None) -> None:
    """Descriptors d, before they are brought to unit length, become ``matrix d + vector``.

    Arguments:
        matrix: (128, 128), any float type. vector: (128,); None adds nothing.
    """
    for parameter in model.describe.parameters():
        rows = parameter.detach().cpu().double().reshape(DESCRIPTOR_DIM, -1)
        rows = matrix.cpu().double() @ rows
        if parameter.ndim == 1 and vector is not None:
            rows = rows + vector.cpu().double()[:, None]
        parameter.copy_(rows.reshape(parameter.shape))


def write(model: SAMFeat, output: Path, done: str, facts: dict[str, Any]) -> Path:
    """Write the checkpoint; its metadata say what was done to it."""
    training = {k: v for k, v in model.metadata.items() if k != "date"} | {done: facts}
    checkpoints.write_checkpoint(output, model.state_dict(), model.config, training)
    return output
