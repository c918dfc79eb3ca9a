"""RootSIFT, the baseline of the field, wherever a stage takes SAMFeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .evaluation.predictions import extract_rootsift
from .extract import as_array
from .extract_options import ExtractOptions


class RootSIFT:
    """Stands where a network does; there is nothing to learn, so nothing is loaded."""

    weights_sha256 = "rootsift"

    def parameters(self) -> Iterator[torch.Tensor]:
        """One empty tensor on the CPU, where it computes."""
        yield torch.zeros(0)


def extract_batch(
    model: Any, images: Sequence[np.ndarray | torch.Tensor | str | Path], options: ExtractOptions
) -> list[dict[str, np.ndarray]]:
    """Extract from images of any sizes, as :func:`samfeat_hloc.extract.extract_batch` does.

    Arguments:
        model: plays no part.
        images: RGB uint8 arrays (H, W, 3), or what :func:`samfeat_hloc.extract.as_array` takes.
        options: ``resize`` and ``max_keypoints`` count (None for 8192), the others do not.

    Returns:
        For each image what :func:`samfeat_hloc.evaluation.predictions.extract_rootsift` finds.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    limit = options.max_keypoints or 8192
    return [
        extract_rootsift(as_array(image), max_keypoints=limit, resize=options.resize)
        for image in images
    ]
