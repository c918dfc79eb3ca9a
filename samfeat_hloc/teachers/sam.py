"""The teacher `sam`: Meta's Segment Anything Model, by its own package ``segment-anything``.

The embedding is the image encoder's, 256 channels at a sixteenth of the image scaled to 1,024
pixels, without the padding. Groups are the masks of its automatic mask generator; where masks
overlap, the smallest is on top. Edges are the borders of all masks, as strong as the model finds
the mask good.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SamfeatError, cause_of
from ..feature.torch_files import read_torch
from ..files.provenance import file_sha256
from .cache import Taught
from .maps import soft_edges, working_image
from .registry import Photo, TeacherOptions, need, weights_file

_ADVICE = "a file such as sam_vit_b_01ec64.pth"
_MODELS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # by the encoder's width
_OFFICIAL = re.compile(r"sam_vit_[blh]_([0-9a-f]{6,32})\.pth")


def load(options: TeacherOptions, device: str) -> Sam:
    """The teacher, ready on a device.

    Raises:
        SamfeatError: see :func:`load_model`.
    """
    return Sam(options, device)


class Sam:
    """See the module."""

    name = "sam"

    def __init__(self, options: TeacherOptions, device: str) -> None:
        path = weights_file(options.weights, self.name, _ADVICE)
        kind, self._model = load_model(path)
        self._model.to(device)
        self.weights_sha256: str | None = file_sha256(path)
        self.config: Mapping[str, Any] = {"model": kind, **options.generator_config()}
        self._generator = _mask_generator(self._model, options)

    @torch.inference_mode()
    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What it says of each photo; the encoder sees all of them at once."""
        side = self._model.image_encoder.img_size
        pixels = [working_image(photo.pixels, side) for photo in photos]
        inputs = [self._input(image) for image in pixels]
        features = self._model.image_encoder(torch.cat([self._model.preprocess(x) for x in inputs]))
        taught = []
        for image, given, found in zip(pixels, inputs, features, strict=True):
            size = tuple(given.shape[-2:])
            self._generator.predictor.know(found[None], size, image.shape[:2])
            groups, edges = groups_and_edges(self._generator.generate(image), image.shape[:2])
            taught.append(Taught(without_padding(found, size, side), groups, edges))
        return taught

    def _input(self, image: np.ndarray) -> Tensor:
        """The image as SAM wants it, (1, 3, h, w) with 1,024 pixels on the longer side."""
        resized = self._generator.predictor.transform.apply_image(image)
        device = self._model.device
        return torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float()


def load_model(path: Path) -> tuple[str, Any]:
    """The model of a checkpoint and its kind ("vit_b", "vit_l" or "vit_h").

    Official files have the first digits of their MD5 in their name; it is compared. Only tensors
    are unpickled.

    Raises:
        SamfeatError: segment-anything is missing, or the file is damaged or no checkpoint of SAM.
    """
    package = need("segment_anything", "teacher sam")
    if official := _OFFICIAL.fullmatch(path.name):
        found = _md5(path)
        if not found.startswith(official[1]):
            raise SamfeatError(
                path,
                (
                    f"its MD5 begins with {found[: len(official[1])]}, not with {official[1]} "
                    "as its name says"
                ),
                "download it again",
            )
    state = read_torch(path, f"give {_ADVICE}")
    try:
        width = state["image_encoder.patch_embed.proj.weight"].shape[0]
        kind = _MODELS[width]
        model = package.sam_model_registry[kind]()
        model.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if (cause := cause_of(error)) is not None:
            raise SamfeatError(path, cause) from None
        raise SamfeatError(
            path, "its tensors are not those of SAM ViT-B, L or H", f"give {_ADVICE}"
        ) from None
    return kind, model.eval()


def groups_and_edges(
    masks: Sequence[Mapping[str, Any]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A group map and an edge map of masks that may overlap.

    Arguments:
        masks: records of the mask generator: ``segmentation`` (H, W) bool, ``area`` and
            ``predicted_iou``.
        shape: H and W.

    Returns:
        groups (H, W) int32, -1 where no mask is and the smallest mask's where there are several;
        edges (H, W) float32 in [0, 1].
    """
    groups = np.full(shape, -1, np.int32)
    edges = np.zeros(shape, np.float32)
    kernel = np.ones((3, 3), np.uint8)
    for index, mask in enumerate(sorted(masks, key=lambda mask: -mask["area"])):
        segment = mask["segmentation"]
        groups[segment] = index
        # The frame of the photo is no edge: what lies beyond it is taken as the mask's own.
        border = cv2.morphologyEx(segment.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
        quality = float(np.clip(mask["predicted_iou"], 0, 1))
        edges[border] = np.maximum(edges[border], quality)
    return groups, soft_edges(edges)


def without_padding(features: Tensor, size: tuple[int, ...], side: int) -> np.ndarray:
    """The part (C, h, w) of an encoder's map (C, n, n) that the image covers.

    Arguments:
        size: height and width of the image in the encoder's input of ``side`` x ``side`` pixels.
    """
    cells = features.shape[-1]
    shape = [max(1, round(length / side * cells)) for length in size]
    at = [
        ((torch.arange(count, device=features.device) + 0.5) / count * 2 * length / side - 1)
        for count, length in zip(shape, size, strict=True)
    ]
    y, x = torch.meshgrid(*at, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None].to(features.dtype)
    # The last cells may be half padding; their samples move off it by a fraction of a cell.
    found = F.grid_sample(features[None], grid, align_corners=False, padding_mode="border")
    return np.asarray(found[0].float().cpu().numpy())


def _mask_generator(model: Any, options: TeacherOptions) -> Any:
    """SAM's generator, which takes embeddings that are known instead of encoding once more."""
    package = need("segment_anything", "teacher sam")

    class KnowingPredictor(package.SamPredictor):  # type: ignore[misc, name-defined]
        def know(self, features: Tensor, size: tuple[int, ...], original: tuple[int, ...]) -> None:
            self.known = features, size, original

        def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
            self.features, self.input_size, self.original_size = self.known
            self.is_image_set = True

    generator = package.SamAutomaticMaskGenerator(
        model,
        points_per_side=options.points_per_side,
        points_per_batch=options.points_per_batch,
        pred_iou_thresh=options.iou_threshold,
        stability_score_thresh=options.stability_threshold,
    )
    generator.predictor = KnowingPredictor(model)
    return generator


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
