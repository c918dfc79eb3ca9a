"""Two images in, matches out: what the stages do for a dataset, for one pair in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from ..errors import SamfeatError
from ..files.image_forms import ImageLike, as_rgb
from .extraction import extract_batch
from .local_features import FeatureArrays
from .matching import nearest_neighbours
from .network import SAMFeat
from .options import ExtractOptions
from .presets import MATCH_DISTANCE_THRESHOLD, PRESETS


@dataclass(frozen=True, eq=False)
class MatchedImages:
    """Keypoints of two images and which of them match.

    Attributes:
        keypoints0, keypoints1: (N0, 2) and (N1, 2) float32 xy in pixels of the images given, the
            centre of the top-left pixel at (0, 0), best first.
        matches: (K, 2) int64, a row of ``keypoints0`` and one of ``keypoints1``; mutual nearest
            neighbours, sorted by the first.
        scores: (K,) float32, ``(cos + 1) / 2`` of the descriptors' angle: 1 for equal ones.
        turn: by how many degrees image 1 was turned to the left (counter-clockwise) for it; its
            keypoints are in its own pixels all the same.
    """

    keypoints0: np.ndarray
    keypoints1: np.ndarray
    matches: np.ndarray
    scores: np.ndarray
    turn: int = 0

    @property
    def matched0(self) -> np.ndarray:
        """(K, 2) float32 xy in image 0: where each match is there."""
        return self.keypoints0[self.matches[:, 0]]

    @property
    def matched1(self) -> np.ndarray:
        """(K, 2) float32 xy in image 1: where each match is there."""
        return self.keypoints1[self.matches[:, 1]]


def match(
    image0: ImageLike,
    image1: ImageLike,
    *,
    preset: str | ExtractOptions = "samfeat_aachen",
    model: SAMFeat | None = None,
    turned: bool = False,
) -> MatchedImages:
    """Extract from two images and match them, as ``samfeat run`` does with a dataset's.

    The matches are mutual nearest neighbours, without a geometric check::

        found = match("a.jpg", "b.jpg")
        F, inliers = cv2.findFundamentalMat(found.matched0, found.matched1, cv2.USAC_MAGSAC)

    Arguments:
        image0, image1: each a path; a uint8 array (H, W, 3) RGB or (H, W) grey; a Pillow image; or
            a tensor (3, H, W) or (1, H, W), uint8 or floats in [0, 1].
        preset: a name in :data:`samfeat_hloc.PRESETS`, or options of your own.
        model: the network; None for the shipped one, loaded once and kept.
        turned: the images may be turned against each other, by any angle: image 1 is turned by 0,
            90, 180 and 270 degrees, and the turn with the most matches is taken. It costs two and a
            half times the extraction and four times the matching.

    Raises:
        SamfeatError: an image that cannot be read, or an unknown preset.
    """
    options = preset if isinstance(preset, ExtractOptions) else PRESETS.get(preset)
    if options is None:
        raise SamfeatError("preset", f"no preset {preset!r}", f"choose from {', '.join(PRESETS)}")
    model = _shipped() if model is None else model
    if not turned:
        return _matched(model, *extract_batch(model, [image0, image1], options))
    upright = as_rgb(image1)
    height, width = upright.shape[:2]
    turns = [np.ascontiguousarray(np.rot90(upright, quarters)) for quarters in range(4)]
    found0, *found1 = extract_batch(model, [image0, *turns], options)
    found = [_matched(model, found0, found) for found in found1]
    quarters = max(range(4), key=lambda q: len(found[q].matches))  # of equals the least turn
    best = found[quarters]
    back = turned_back(best.keypoints1, quarters, width, height)
    return replace(best, keypoints1=back, turn=90 * quarters)


def turned_back(keypoints: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Where keypoints of a turned image are in the image itself.

    Arguments:
        keypoints: (N, 2) xy in pixels of ``np.rot90(image, quarters)``, which turns to the left.
        width, height: of the image.
    """
    x, y = keypoints.T
    places = {
        0: (x, y),
        1: (width - 1 - y, x),
        2: (width - 1 - x, height - 1 - y),
        3: (y, height - 1 - x),
    }
    return np.stack(places[quarters], axis=1)


def _matched(model: SAMFeat, found0: FeatureArrays, found1: FeatureArrays) -> MatchedImages:
    """The mutual nearest neighbours of two images' features."""
    device = next(model.parameters()).device
    matches0, scores0 = (
        part.cpu().numpy()
        for part in nearest_neighbours(
            torch.from_numpy(found0["descriptors"]).to(device),
            torch.from_numpy(found1["descriptors"]).to(device),
            distance_threshold=MATCH_DISTANCE_THRESHOLD,
        )
    )
    index0 = np.flatnonzero(matches0 >= 0)
    return MatchedImages(
        found0["keypoints"],
        found1["keypoints"],
        np.stack([index0, matches0[index0]], axis=1),
        scores0[index0],
    )


@lru_cache(maxsize=1)
def _shipped() -> SAMFeat:
    return SAMFeat.from_pretrained()
