"""RootSIFT, the baseline of the field, wherever a stage takes SAMFeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from ..files.image_forms import ImageLike, as_rgb
from .extraction import Masked, resize_image, shown_rows
from .local_features import FeatureArrays
from .options import ExtractOptions


class RootSIFT:
    """Stands where a network does; there is nothing to learn, so nothing is loaded."""

    weights_sha256 = "rootsift"

    def parameters(self) -> Iterator[torch.Tensor]:
        """One empty tensor on the CPU, where it computes."""
        yield torch.zeros(0)


def extract_batch(
    model: Any, images: Sequence[ImageLike | Masked], options: ExtractOptions
) -> list[FeatureArrays]:
    """Extract from images of any sizes, as :func:`.extraction.extract_batch` does.

    Arguments:
        model: plays no part.
        images: in any of the forms of :data:`samfeat_hloc.files.image_forms.ImageLike`, or such a
            one with a mask.
        options: ``resize`` and ``max_keypoints`` count (None for 8192), the others do not.

    Returns:
        For each image what :func:`extract_rootsift` finds.

    Raises:
        SamfeatError: an image that cannot be read or has no pixels.
    """
    limit = options.max_keypoints or 8192
    plain = [i if isinstance(i, Masked) else Masked(i, None) for i in images]
    return [
        extract_rootsift(as_rgb(i.image), max_keypoints=limit, resize=options.resize, mask=i.mask)
        for i in plain
    ]


# Looser than OpenCV's 0.04 and 10, which leave too few keypoints in night photos. With them this
# is the RootSIFT of the tables that the shipped weights are compared with.
CONTRAST_THRESHOLD = 0.01


EDGE_THRESHOLD = 20.0


def extract_rootsift(
    image: np.ndarray,
    *,
    max_keypoints: int = 2048,
    resize: int | None = 1024,
    mask: np.ndarray | None = None,
) -> FeatureArrays:
    """SIFT of OpenCV with descriptors as in RootSIFT: the square root of their share of the sum.

    Arguments:
        image: RGB uint8 (H, W, 3).
        max_keypoints: the best so many (OpenCV may return a few more: equal scores, and points
            with several orientations).
        resize: bring the longer side down to so many pixels; None keeps the size.
        mask: (H, W) bool, False where there are to be no keypoints.

    Returns:
        As :func:`.extraction.extract_batch`, with 128-dimensional unit descriptors.
    """
    resized = resize_image(image, ExtractOptions(resize=resize))
    grey = cv2.cvtColor(np.clip(np.rint(resized), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    scale = np.array(image.shape[1::-1]) / np.array(grey.shape[::-1])
    sift = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=max_keypoints if mask is None else 0,  # OpenCV counts what a mask hides
        contrastThreshold=CONTRAST_THRESHOLD,
        edgeThreshold=EDGE_THRESHOLD,
    )
    if mask is None:
        points, descriptors = sift.detectAndCompute(grey, None)
    else:
        found = sift.detect(grey, None)
        places = (np.array([p.pt for p in found], dtype=np.float64).reshape(-1, 2) + 0.5) * scale
        shown = [found[row] for row in shown_rows(places - 0.5, mask)]
        shown.sort(key=lambda point: -point.response)
        points, descriptors = sift.compute(grey, shown[:max_keypoints])
    order = np.argsort([-point.response for point in points], kind="stable").astype(int)
    xy = np.array([points[i].pt for i in order], dtype=np.float64).reshape(-1, 2)
    if descriptors is None:
        descriptors = np.zeros((0, 128), dtype=np.float32)
    descriptors = np.maximum(descriptors[order], 0)
    share = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
    return {
        "keypoints": ((xy + 0.5) * scale - 0.5).astype(np.float32),
        "keypoint_scores": np.array([points[i].response for i in order], dtype=np.float32),
        "descriptors": np.sqrt(share).T.astype(np.float32),
        "image_size": np.array(image.shape[1::-1], dtype=np.int64),
    }


def rootsift_config(max_keypoints: int, resize: int | None) -> dict[str, Any]:
    """Everything that decides what :func:`extract_rootsift` finds."""
    return {
        "method": "rootsift", "max_keypoints": max_keypoints, "resize": resize,
        "contrast_threshold": CONTRAST_THRESHOLD, "edge_threshold": EDGE_THRESHOLD,
        "opencv": cv2.__version__,
    }  # fmt: skip
