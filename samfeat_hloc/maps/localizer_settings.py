"""The settings of a :class:`samfeat_hloc.Localizer`."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from ..errors import SamfeatError
from ..feature.options import ExtractOptions
from ..localization.acceptance import MIN_INLIERS

NUM_RETRIEVED = 20


@dataclass(frozen=True)
class LocalizerSettings:
    """How photos are localized; the keywords of :class:`samfeat_hloc.Localizer`.

    Attributes:
        options: how photos are extracted; None as the map's were.
        num_retrieved: database images to match with each photo.
        max_error: of a pose's inliers, in pixels.
        places: leave out images of lookalike places, as a run does by default.
        min_inliers: keypoints that have to agree with a pose, at least; more where more have
            matches, see :mod:`samfeat_hloc.localization.acceptance`.
        refine_focal: find the focal length with the pose. None does so where it comes from EXIF, or
            where nothing is known of it.
        turns: try a photo that is not localized turned by 90, 180 and 270 degrees too, and take
            the turn with which most keypoints agree. Features match up to some 60 degrees of roll.

    Raises:
        SamfeatError: a number that is not above 0, or not a whole one where things are counted.
    """

    options: ExtractOptions | None = None
    num_retrieved: int = NUM_RETRIEVED
    max_error: float = 12.0
    places: bool = True
    min_inliers: int = MIN_INLIERS
    refine_focal: bool | None = None
    turns: bool = False

    def __post_init__(self) -> None:
        if not (self.max_error > 0 and math.isfinite(self.max_error)):
            raise SamfeatError(
                f"max_error {self.max_error}", "it has to be above 0", "give a number of pixels"
            )
        for name in ("num_retrieved", "min_inliers"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or int(value) < 1:
                raise SamfeatError(
                    f"{name} {value}", "it has to be a whole number from 1", "give another number"
                )
