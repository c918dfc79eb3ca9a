"""How features are extracted: the options, checked when they are made."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypedDict

from ..errors import SamfeatError

RELEASE_THRESHOLD = 0.9


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract.

    resize: bring the longer side down to so many pixels; None keeps the size.
    resize_force: also bring a smaller image up to that size.
    scales: look at the image at these scales of that size and keep the best keypoints of all. Each
        costs its square in time. Smaller scales find what another photo shows from farther away;
        larger ones place small photos' points more exactly.
    scales_up_to: without the scales that make the longer side larger than so many pixels.
    max_keypoints: the best so many; None for all.
    detection_threshold: least keypoint score, in [0, 1); 0 for no bound.
    nms_radius: no two keypoints closer than this, in pixels of the resized image.
    border: no keypoints closer than this to the image's edge, in pixels of the resized image.
    descriptor_weighting: "unit" for unit length; "attention" multiplies by the attention map, as
        the paper matches them (hloc's matcher wants unit length).
    subpixel: positions finer than a pixel.
    precision: "auto" computes convolutions in bfloat16 where the processor is fast at it,
        "float32" never does.
    official: reproduce the public release's extraction, quirks and all: both sides resized to the
        nearest multiple of 16 whatever the aspect ratio, greedy suppression, whole pixels, and
        descriptors sampled beside their keypoints.
    """

    resize: int | None = None
    resize_force: bool = False
    scales: tuple[float, ...] = (1.0,)
    scales_up_to: int | None = None
    max_keypoints: int | None = 4096
    detection_threshold: float = 0.05
    nms_radius: int = 1
    border: int = 4
    descriptor_weighting: Literal["unit", "attention"] = "unit"
    subpixel: bool = True
    precision: Literal["auto", "float32"] = "auto"
    official: bool = False

    def __post_init__(self) -> None:
        def refuse(name: str, wanted: str) -> None:
            value = getattr(self, name)
            raise SamfeatError(name, f"{value!r} is not possible", f"give {wanted}")

        for name in ("resize", "scales_up_to", "max_keypoints", "nms_radius", "border"):
            if not isinstance(getattr(self, name), (numbers.Real, type(None))):
                refuse(name, "a number")
        if self.resize is not None and not 16 <= self.resize <= 16384:
            refuse("resize", "a size in pixels between 16 and 16384, or None")
        if self.resize_force and self.resize is None:
            refuse("resize_force", "resize, the size to force, as well")
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            refuse("scales", "scales between 0.1 and 4, such as (1.0, 1.5)")
        if self.scales_up_to is not None and self.scales_up_to < 16:
            refuse("scales_up_to", "a size in pixels from 16, or None")
        if self.official and self.scales != (1.0,):
            refuse("scales", "(1.0,), the release's, or leave official out")
        if self.max_keypoints is not None and self.max_keypoints < 1:
            refuse("max_keypoints", "a number from 1, or None for all")
        if not 0 <= self.detection_threshold < 1:
            refuse("detection_threshold", "a score in [0, 1)")
        if not 0 <= self.nms_radius <= 64:
            refuse("nms_radius", "a whole number of pixels from 0 to 64")
        if self.border < 0:
            refuse("border", "a whole number of pixels from 0")
        if self.descriptor_weighting not in ("unit", "attention"):
            refuse("descriptor_weighting", "'unit' or 'attention'")
        if self.precision not in ("auto", "float32"):
            refuse("precision", "'auto' or 'float32'")

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> ExtractOptions:
        """Options from keyword arguments; ``official=True`` changes the defaults to the release's.

        Raises:
            SamfeatError: an unknown option or an impossible value.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(keywords) - known)
        if unknown:
            raise SamfeatError(
                unknown[0], "no such extraction option", f"choose from {', '.join(sorted(known))}"
            )
        if keywords.get("official"):
            keywords = {**RELEASE_DEFAULTS, **keywords}
        return cls(**keywords)

    def limited(self, resize: int | None, max_keypoints: int | None) -> ExtractOptions:
        """These options with another size and another number of keypoints; None keeps this one's.

        Raises:
            SamfeatError: an impossible value.
        """
        return replace(
            self,
            resize=self.resize if resize is None else resize,
            max_keypoints=self.max_keypoints if max_keypoints is None else max_keypoints,
        )

    def asdict(self) -> dict[str, Any]:
        """The options as plain values, for a configuration file."""
        return {**asdict(self), "scales": list(self.scales)}


class ExtractKeywords(TypedDict, total=False):
    """The fields of :class:`ExtractOptions` as keyword arguments."""

    resize: int | None
    resize_force: bool
    scales: Sequence[float]
    scales_up_to: int | None
    max_keypoints: int | None
    detection_threshold: float
    nms_radius: int
    border: int
    descriptor_weighting: Literal["unit", "attention"]
    subpixel: bool
    precision: Literal["auto", "float32"]
    official: bool


RELEASE_DEFAULTS: dict[str, Any] = {
    "max_keypoints": None,
    "detection_threshold": RELEASE_THRESHOLD,
    "nms_radius": 4,
    "border": 4,
    "descriptor_weighting": "attention",
    "subpixel": False,
    "precision": "float32",
    "official": True,
}
