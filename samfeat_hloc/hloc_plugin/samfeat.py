"""``hloc.extractors.samfeat``: SAMFeat as one of hloc's extractors.

This file is run under that name, so its imports are absolute.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hloc.utils.base_model import BaseModel
from torch import Tensor

from samfeat_hloc.feature.detection import constants
from samfeat_hloc.feature.extraction import detect_and_describe, resized_shape
from samfeat_hloc.feature.network import SAMFeat as Network
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.hloc_plugin.configurations import Loaded


class SAMFeat(BaseModel):  # type: ignore[misc]
    """SAMFeat for hloc.

    Configuration: ``weights`` (a file, None for the shipped checkpoint, or a network in memory as
    :class:`samfeat_hloc.hloc_plugin.configurations.Loaded`), ``official_weights`` (the file is one
    of the public release), and the fields of :class:`..feature.options.ExtractOptions` except the
    resizing, which hloc does.
    """

    default_conf = {  # noqa: RUF012
        "name": "samfeat",
        "weights": None,
        "official_weights": False,
    }
    required_inputs = ["image"]  # noqa: RUF012

    def _init(self, conf: dict[str, Any]) -> None:
        options = {k: v for k, v in conf.items() if k not in SAMFeat.default_conf}
        self.options = ExtractOptions.from_keywords(options)
        weights = conf["weights"]
        if isinstance(weights, Loaded):
            self.net = weights.model
        else:
            self.net = Network.from_pretrained(
                weights, official=conf["official_weights"], device="cpu"
            )

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1] to keypoints (B, N, 2), keypoint_scores (B, N) and
        descriptors (B, 128, N); images of a batch that have fewer points than others would not
        stack, but hloc's batches are of one image.
        """
        image = data["image"]
        height, width = image.shape[-2:]
        # Changes the size only for the release's quirk of sides that are multiples of 16.
        size = resized_shape(height, width, self.options)
        if size != (height, width):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        found = detect_and_describe(self.net, image, self.options)
        keypoints = torch.stack([f["keypoints"] for f in found])
        if size != (height, width):
            keypoints = keypoints * constants([width / size[1], height / size[0]], keypoints)
        return {
            # hloc may store every float32 as float16, whose step is a whole pixel from 1024 px on;
            # it leaves float64 alone. Not every device has it.
            "keypoints": keypoints.cpu().double(),
            "keypoint_scores": torch.stack([f["keypoint_scores"] for f in found]),
            # The precision in which they are stored by either engine, so that both match the same.
            "descriptors": torch.stack([f["descriptors"] for f in found]).half(),
        }
