"""What a run says of itself: ``log.jsonl``, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..evaluation.palette import BLUE, GREEN, ORANGE, rgb
from ..feature.extraction import detect_and_describe
from ..feature.levels import Network
from ..feature.options import ExtractOptions
from ..files.atomic import write_whole
from ..geometry.homographies import transform
from .pairs import PairBatch
from .validation import mutual_nearest


class Journal:
    """Writes scalars and pictures of a run into its folder.

    ``log.jsonl`` has a line of numbers every few steps. With the extra ``train`` installed the same
    numbers, and pictures of keypoints, edges and matches, go to TensorBoard's files in
    ``tensorboard/``.
    """

    def __init__(self, folder: Path, step: int, *, enabled: bool = True) -> None:
        self._board: Any = None
        path = folder / "log.jsonl" if enabled else Path(os.devnull)
        if enabled:
            self._forget(path, step)
        self._log = path.open("a")
        if not enabled:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        """One line of numbers."""
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, model: Network, batch: PairBatch) -> None:
        """Keypoints, edges and matches of a batch's first pair."""
        if self._board is None:
            return
        for name, picture in draw_pair(model, batch.select(torch.tensor([0]))).items():
            self._board.add_image(name, picture, step, dataformats="HWC")

    @staticmethod
    def _forget(path: Path, step: int) -> None:
        """Drop lines after ``step``: a run that was killed does those steps again."""
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [
                line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            write_whole(path, "".join(line + "\n" for line in kept))


@torch.inference_mode()
def draw_pair(model: Network, batch: PairBatch) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of one pair: ``edges``, and ``matches`` with both views'
    keypoints, right ones (within 3 pixels) in blue and wrong ones in orange; all of them in white
    where the batch is not of homographies."""
    options = ExtractOptions(max_keypoints=256)
    images = [_as_picture(image[0]) for image in (batch.image0, batch.image1)]
    found = [
        detect_and_describe(model, image, options)[0] for image in (batch.image0, batch.image1)
    ]
    edges = model.encode(batch.network_input).edges.float()
    side = images[0].shape[0]
    joined = np.hstack([cv2.resize(_as_picture(e), (side, side)) for e in edges])
    canvas = np.hstack(images)
    for index, features in enumerate(found):
        for x, y in features["keypoints"].round().int().tolist():
            cv2.circle(canvas, (x + index * side, y), 1, rgb(GREEN), -1)
    first, second = mutual_nearest(found[0]["descriptors"], found[1]["descriptors"])
    start, end = found[0]["keypoints"][first], found[1]["keypoints"][second]
    colours = [(255, 255, 255)] * len(start)
    if batch.matrix01 is not None:
        error = (transform(batch.matrix01, start[None])[0] - end).norm(dim=1)
        colours = [rgb(BLUE) if good else rgb(ORANGE) for good in (error <= 3).tolist()]
    for a, b, colour in zip(start.tolist(), end.tolist(), colours, strict=True):
        ends = [(round(p[0]) + shift, round(p[1])) for p, shift in ((a, 0), (b, side))]
        cv2.line(canvas, ends[0], ends[1], colour, 1, cv2.LINE_AA)
    return {"edges": joined, "matches": canvas}


def _as_picture(image: Tensor) -> np.ndarray:
    """(1 or 3, H, W) in [0, 1] to RGB uint8 (H, W, 3)."""
    array = (image.detach().float().clamp(0, 1) * 255).byte().cpu().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
