"""The teacher `dinov2`: self-supervised features by timm, which tell kinds of things apart.

DINOv2 has no masks: groups and edges are those of the teacher `regions`. With SAM's instead, take
`sam+dinov2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..errors import SamfeatError
from ..feature.torch_files import read_tensors
from ..files.provenance import file_sha256
from .cache import Taught
from .regions import Regions
from .registry import Photo, TeacherOptions, need

PATCH = 14
MOST_CELLS = 64  # along the longer side
_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}  # by the embedding's width
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_SPREAD = np.array([0.229, 0.224, 0.225], np.float32)


def load(options: TeacherOptions, device: str) -> Dinov2:
    """The teacher, ready on a device.

    Raises:
        SamfeatError: see :class:`Encoder`.
    """
    return Dinov2(Encoder(options.weights, options.dinov2_model, device))


class Encoder:
    """DINOv2's patch features.

    Arguments:
        weights: a checkpoint file, timm's or Meta's; the model's size is read off it. None for
            timm's own, which it downloads once.
        model: timm's name, where ``weights`` is None.

    Raises:
        SamfeatError: timm is missing, weights that do not fit, or no network to download them.
    """

    def __init__(self, weights: Path | None, model: str, device: str) -> None:
        timm = need("timm", "teacher dinov2")
        overlay: dict[str, Any] = {}
        self.weights_sha256: str | None = None
        if weights is not None:
            if not weights.is_file():
                raise SamfeatError(weights, "no such checkpoint", "give a file of DINOv2")
            model = _model_of(weights)
            overlay = {"file": str(weights)}
            self.weights_sha256 = file_sha256(weights)
        if "dinov2" not in model or not timm.is_model(model.split(".")[0]):
            raise SamfeatError(
                model, "timm has no DINOv2 of this name", "take vit_small_patch14_dinov2"
            )
        try:
            self._network = timm.create_model(
                model, pretrained=True, num_classes=0, dynamic_img_size=True,
                pretrained_cfg_overlay=overlay,
            ).to(device).eval()  # fmt: skip
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            if weights is not None:
                raise SamfeatError(weights, f"does not fit {model} ({why})") from None
            raise SamfeatError(
                "teacher dinov2",
                f"{model} cannot be downloaded ({why})",
                "give a checkpoint file (--weights, in sam+dinov2 --dinov2-weights)",
            ) from None
        self._device = device
        self.config: Mapping[str, Any] = {"model": model, "cells": MOST_CELLS}

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Patch features (C, h, w) float32 of an RGB image; the cells cover exactly the image."""
        cells = [max(1, round(MOST_CELLS * side / max(pixels.shape[:2])))
                 for side in pixels.shape[1::-1]]  # fmt: skip
        size = cells[0] * PATCH, cells[1] * PATCH
        shrinks = size[0] < pixels.shape[1]
        resized = cv2.resize(
            pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        given = (resized.astype(np.float32) / 255 - _MEAN) / _SPREAD
        batch = torch.from_numpy(given).permute(2, 0, 1)[None].to(self._device)
        tokens = self._network.forward_features(batch)[0]
        patches = tokens[self._network.num_prefix_tokens :].float().cpu().numpy()
        return np.ascontiguousarray(patches.T).reshape(-1, cells[1], cells[0])


class Dinov2:
    """See the module."""

    name = "dinov2"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._regions = encoder, Regions()
        self.weights_sha256 = encoder.weights_sha256
        self.config: Mapping[str, Any] = {**encoder.config, "groups": "regions",
                                          **self._regions.config}  # fmt: skip

    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What it says of each photo."""
        return [
            Taught(self._encoder.embed(photo.pixels), found.groups, found.edges)
            for photo, found in zip(photos, self._regions.teach(photos), strict=True)
        ]


def _model_of(weights: Path) -> str:
    """timm's name of the model that a checkpoint is of."""
    need("timm.models", "teacher dinov2")
    # Tensors only: timm, which reads it afterwards, would unpickle code too.
    state = read_tensors(weights, "give a file of timm's or Meta's")
    try:
        width = state["patch_embed.proj.weight"].shape[0]
        registers = "_reg4" if {"reg_token", "register_tokens"} & set(state) else ""
        return f"vit_{_SIZES[width]}_patch14{registers}_dinov2"
    except (KeyError, AttributeError, IndexError):
        raise SamfeatError(
            weights, "its tensors are not those of a DINOv2", "give a file of timm's or Meta's"
        ) from None
