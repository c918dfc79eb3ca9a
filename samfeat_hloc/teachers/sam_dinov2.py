"""The teacher `sam+dinov2`: SAM's groups and edges, DINOv2's embedding.

SAM knows where one thing ends, and little about what it is ("There is no SAMantics", arXiv
2411.15288); DINOv2 the other way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .cache import Taught
from .dinov2 import Encoder
from .registry import Photo, TeacherOptions
from .sam import Sam


def load(options: TeacherOptions, device: str) -> SamDinov2:
    """The teacher, ready on a device.

    Raises:
        SamfeatError: as of `sam` and `dinov2`.
    """
    encoder = Encoder(options.dinov2_weights, options.dinov2_model, device)
    return SamDinov2(Sam(options, device), encoder)


class SamDinov2:
    """See the module. ``weights_sha256`` is the SHA-256 of both digests one after the other."""

    name = "sam+dinov2"

    def __init__(self, sam: Sam, encoder: Encoder) -> None:
        self._sam, self._encoder = sam, encoder
        both = f"{sam.weights_sha256} {encoder.weights_sha256}"
        self.weights_sha256: str | None = hashlib.sha256(both.encode()).hexdigest()
        self.config: Mapping[str, Any] = {"sam": dict(sam.config), "dinov2": dict(encoder.config)}

    def teach(self, photos: Sequence[Photo]) -> list[Taught]:
        """What they say of each photo."""
        return [
            Taught(self._encoder.embed(photo.pixels), found.groups, found.edges)
            for photo, found in zip(photos, self._sam.teach(photos), strict=True)
        ]
