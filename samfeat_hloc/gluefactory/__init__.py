"""SAMFeat as an extractor of glue-factory, to train LightGlue on its features.

glue-factory (https://github.com/cvg/glue-factory) finds it by this module's name::

    model:
      extractor:
        name: samfeat_hloc.gluefactory

The two configurations beside this file are glue-factory's own for LightGlue with SAMFeat as the
extractor: ``python -m samfeat_hloc.gluefactory homography`` (or ``megadepth``) prints where they
are. ``docs/training.md`` goes from there to hloc.
"""

from __future__ import annotations

from typing import Any

from gluefactory.models.base_model import BaseModel
from torch import Tensor

from ..feature.network import SAMFeat as Network
from ..feature.options import ExtractOptions
from ..feature.stacked import extract_stacked


class SAMFeat(BaseModel):  # type: ignore[misc]
    """SAMFeat for glue-factory; its parameters are not trained.

    Configuration:
        weights: a checkpoint of this package; None for the shipped one.
        official_weights: whether ``weights`` is a file of the paper's public release.
        max_num_keypoints: the best so many; null for all.
        force_num_keypoints: exactly so many, random ones where there are fewer. Batches need it.
        detection_threshold: least score of a keypoint.
        nms_radius: no two keypoints closer than this, in pixels.
    """

    default_conf = {  # noqa: RUF012
        "weights": None,
        "official_weights": False,
        "max_num_keypoints": 2048,
        "force_num_keypoints": False,
        "detection_threshold": ExtractOptions.detection_threshold,
        "nms_radius": ExtractOptions.nms_radius,
        "trainable": False,
    }
    required_data_keys = ["image"]  # noqa: RUF012

    def _init(self, conf: Any) -> None:
        self.net = Network.from_pretrained(
            conf.weights, official=conf.official_weights, device="cpu"
        )
        self.options = ExtractOptions(
            max_keypoints=conf.max_num_keypoints,
            detection_threshold=conf.detection_threshold,
            nms_radius=conf.nms_radius,
        )
        self.set_initialized()

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """``image`` (B, 3, H, W) RGB in [0, 1] and, where images are padded, ``image_size`` (B, 2)
        to ``keypoints`` (B, N, 2), ``keypoint_scores`` (B, N) and ``descriptors`` (B, N, 128).

        Keypoints have the corner of the top-left pixel at (0, 0), as glue-factory's depth maps and
        cameras have it.
        """
        image = data["image"]
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        found = extract_stacked(
            self.net,
            image,
            self.options,
            sizes=data.get("image_size"),
            fill=self.conf.force_num_keypoints,
        )
        return {
            "keypoints": found.keypoints + 0.5,
            "keypoint_scores": found.scores,
            "descriptors": found.descriptors.transpose(1, 2).contiguous(),
        }

    def loss(self, pred: dict[str, Tensor], data: dict[str, Tensor]) -> Any:
        raise NotImplementedError  # glue-factory then passes over it
