"""Which photos the cameras of a rig took at once, from the files that say so.

::

    rig_config.json                     COLMAP's, see `colmap.rig_config`
    MODEL/{rigs,frames}.{bin,txt}       a COLMAP model with rigs
    DIR/sensors/rigs.txt                a kapture folder, see `kapture`
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..colmap.model import is_model
from ..colmap.model_rigs import frames_in
from ..colmap.rig_config import Frame, frames_of, read_rig_config
from ..errors import SamfeatError, some_of
from .kapture import read_frames

logger = logging.getLogger(__name__)

OF_DATASET = "dataset"


def frames_from(path: Path, names: Sequence[str]) -> tuple[list[Frame], list[str]]:
    """The frames of photos, and the photos that are in none.

    Args:
        path: a rig_config.json, or a COLMAP model or kapture folder with rigs.
        names: of the photos, as the file has them; a frame has those of its photos alone.

    Raises:
        SamfeatError: no such file or folder, one without rigs, or a damaged one.
    """
    path = Path(path)
    if not path.is_dir():
        return frames_of(read_rig_config(path), names)
    if is_model(path):
        frames = frames_in(path)
    elif (path / "sensors" / "rigs.txt").is_file():
        frames = read_frames(path)
    else:
        raise SamfeatError(
            path,
            "neither a COLMAP model nor a kapture folder with sensors/rigs.txt",
            "give one of these, or a rig_config.json",
        )
    if not frames:
        raise SamfeatError(
            path, "it has no frame of several photos", "give the model or folder with the rigs"
        )
    return of_photos(frames, names)


def of_photos(frames: Sequence[Frame], names: Sequence[str]) -> tuple[list[Frame], list[str]]:
    """Frames cut to photos, and the photos that are in none."""
    wanted = set(names)
    kept = [replace(f, photos=[photo for photo in f.photos if photo[1] in wanted]) for f in frames]
    kept = [frame for frame in kept if frame.photos]
    there = {name for frame in kept for _, name in frame.photos}
    return kept, [name for name in names if name not in there]


def frames_of_queries(
    rig: str, names: Sequence[str], own: Callable[[], list[Frame]] | None = None
) -> list[Frame]:
    """The frames of several queries, which are localized together; how many is logged.

    Args:
        rig: path of the file that says so, see `frames_from`; "dataset" for ``own``.
        names: of the queries.
        own: what the dataset says.

    Raises:
        SamfeatError: no two queries were taken at once; as `frames_from`; a dataset that says
            nothing.
    """
    if rig == OF_DATASET:
        if own is None:
            raise SamfeatError(
                "--rig dataset", "the dataset says nothing of rigs", "give a rig_config.json"
            )
        frames, _ = of_photos(own(), names)
    else:
        frames, _ = frames_from(Path(rig), names)
    together = [frame for frame in frames if len(frame.photos) > 1]
    if not together:
        raise SamfeatError(
            f"--rig {rig}",
            f"no two of the {len(names)} queries were taken at once ({some_of(list(names))})",
            "compare their names with those that it has",
        )
    count = sum(len(frame.photos) for frame in together)
    logger.info(
        "localize: %d frames of %d queries, localized together; %d queries alone",
        len(together), count, len(names) - count,
    )  # fmt: skip
    return together
