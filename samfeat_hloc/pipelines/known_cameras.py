"""Intrinsics of one's own photos that are known: one camera for all, or a list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..colmap.cameras import Camera
from ..datasets.queries import read_queries
from ..errors import SamfeatError, some_of
from ..files.images import image_size

logger = logging.getLogger(__name__)


def known_cameras(
    image_dir: Path, names: Sequence[str], camera: Camera | None, listed: Path | None
) -> dict[str, Camera]:
    """Intrinsics by photo name; photos that are not listed are left out, and that is said.

    Arguments:
        camera: of all photos.
        listed: ``name MODEL width height params...`` a line.

    Raises:
        SamfeatError: both are given, a malformed list, one without any of the photos, or photos of
            another size than their camera.
    """
    if camera is not None and listed is not None:
        raise SamfeatError("--camera", "given beside --cameras", "give one of them")
    if camera is not None:
        found = dict.fromkeys(names, camera)
    elif listed is not None:
        of_list = {query.name: query.camera for query in read_queries(listed, "")}
        found = {name: of_list[name] for name in names if name in of_list}
        if not found:
            raise SamfeatError(
                listed,
                f"it has none of the {len(names)} photos",
                f"name them as they lie in {image_dir}, such as {names[0]}",
            )
        if len(found) < len(names):
            logger.warning(
                "%s: %d of %d photos are listed; the others have the intrinsics of their EXIF",
                listed, len(found), len(names),
            )  # fmt: skip
    else:
        return {}
    wrong = {
        name: size
        for name, its in found.items()
        if (size := image_size(image_dir / name)) != (its.width, its.height)
    }
    if wrong:
        name, (width, height) = next(iter(wrong.items()))
        raise SamfeatError(
            image_dir / name,
            f"it is {width}x{height} as it is stored, but its camera "
            f"{found[name].width}x{found[name].height} ({len(wrong)} of {len(found)} photos: "
            f"{some_of(list(wrong))})",
            "give each photo its own camera with --cameras",
        )
    return found
