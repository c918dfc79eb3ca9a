"""The models of a reconstruction brought to metres and upright, in their folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..colmap import alignment, structure_from_motion
from ..colmap.alignment import Alignment
from ..colmap.library import pycolmap
from ..errors import SamfeatError
from ..files import provenance
from ..files.atomic import put_in_place, work_folder
from ..files.gravity import downs_in_cameras
from ..files.images import exif_orientation
from ..files.orientation import turned
from ..files.positions import gps_positions, read_positions

logger = logging.getLogger(__name__)

GPS = "gps"
RECORD = "alignment.json"


@dataclass(frozen=True)
class Positions:
    """Known positions of photos.

    source: "gps", or the file that they are from.
    positions: (3,) metres by photo name; of GPS east, north and up of the origin.
    origin: latitude, longitude (degrees) and altitude (metres) that is (0, 0, 0), of GPS.
    """

    source: str
    positions: dict[str, np.ndarray]
    origin: tuple[float, float, float] | None = None


def known_positions(image_dir: Path, names: Sequence[str], source: str | None) -> Positions | None:
    """The positions that photos are aligned to; None for none.

    Arguments:
        source: "gps" for their EXIF's, else a list, ``name x y z`` a line, in metres.

    Raises:
        SamfeatError: a malformed list, or positions that leave scale or orientation open.
    """
    if source is None:
        return None
    if source != GPS:
        listed = read_positions(Path(source))
        found = Positions(source, {name: listed[name] for name in names if name in listed})
        if not found.positions:
            raise SamfeatError(
                source,
                f"it has none of the {len(names)} photos",
                f"name them as they lie in {image_dir}, such as {names[0]}",
            )
    else:
        told = gps_positions(image_dir, names)
        altitudes = [p.altitude for p in told.values() if p.altitude is not None]
        height = float(np.median(altitudes)) if altitudes else 0.0
        every = np.array(
            [
                [p.latitude, p.longitude, height if p.altitude is None else p.altitude]
                for p in told.values()
            ]
        ).reshape(-1, 3)
        origin = tuple(map(float, np.median(every, axis=0))) if len(every) else (0.0, 0.0, 0.0)
        enu = pycolmap.GPSTransform().ellipsoid_to_enu(every, *origin) if len(every) else every
        found = Positions(GPS, dict(zip(told, enu, strict=True)), origin)  # type: ignore[arg-type]
        if 0 < len(altitudes) < len(told):
            logger.warning(
                "--align gps: %d of %d positions have no altitude; the median of the others is "
                "taken for them", len(told) - len(altitudes), len(told),
            )  # fmt: skip
    subject = "--align gps" if source == GPS else source
    placed = np.array(list(found.positions.values())).reshape(-1, 3)
    alignment.check_positions(placed, len(names), subject)
    logger.info("align: %d of %d photos have a position", len(found.positions), len(names))
    return found


def main(
    sparse: Path,
    image_dir: Path,
    positions: Positions | None,
    turns: Mapping[str, int] | None = None,
) -> list[Alignment]:
    """Align the models in a folder of `structure_from_motion`, all in one step.

    What was done is kept in its `alignment.json`; when that is what is wanted nothing is done.

    Arguments:
        positions: to align to; None turns the models upright only, where no alignment is there.

        turns: quarters, clockwise, by which photos stand turned that EXIF says nothing of.

    Returns:
        For each model, the largest first, what became of it. A smaller one whose photos have too
        few positions is turned upright.

    Raises:
        SamfeatError: the largest model cannot be aligned; then all are as they were.
    """
    folders = structure_from_motion.models(sparse)
    wanted = None if positions is None else _digest(positions)
    there = alignments_in(sparse)
    if len(there) == len(folders) and (positions is None or _digest_in(sparse) == wanted):
        return there
    models = [pycolmap.Reconstruction(str(folder)) for folder in folders]
    names = {image.name for model in models for image in model.images.values()}
    orientations = {
        name: turned(exif_orientation(image_dir / name), (turns or {}).get(name, 0))
        for name in names
    }
    found = []
    downs: dict[str, np.ndarray] | None = None  # read where a model needs it
    for folder, model in zip(folders, models, strict=True):
        if positions is not None:
            try:
                found.append(
                    alignment.align(model, positions.positions, orientations, positions.source)
                )
                continue
            except SamfeatError as error:
                if not found:  # the largest
                    raise SamfeatError(
                        f"--align {positions.source}",
                        f"{folder} cannot be aligned: {error.problem}",
                        error.mend,
                    ) from None
                logger.warning("%s cannot be aligned: %s", folder, error.problem)
        if downs is None:
            downs = downs_in_cameras(image_dir, orientations)
        found.append(alignment.make_upright(model, orientations, downs))
    with work_folder(sparse) as work:
        new = work / "models"
        for folder, model in zip(folders, models, strict=True):
            (new / folder.name).mkdir(parents=True)
            model.write_binary(str(new / folder.name))
        record = provenance.read_sidecar(sparse)
        if record is not None:
            provenance.write_sidecar(new, record)
        content = {
            "origin": None if positions is None else positions.origin,
            "positions": wanted,
            "models": [one.as_json() for one in found],
        }
        (new / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        put_in_place(new, sparse)
    return found


def alignments_in(sparse: Path) -> list[Alignment]:
    """What `main` has left in a folder of models; nothing where it was not run."""
    done = _read(sparse / RECORD)
    try:
        return [] if done is None else [Alignment(**entry) for entry in done["models"]]
    except (KeyError, TypeError):  # of another version
        return []


def in_words(done: Alignment) -> str:
    """A line on the scale and orientation of a model."""
    if not done.metric:
        up = ""
        if done.method == "upright":
            up = "; z is up, as the photos are on average"
        elif done.method == "gravity":
            up = (
                f"; z is up, as the accelerometers of {done.levelled} photos have it, to "
                f"{done.level_deviation:.1f} degrees (median)"
            )
        return f"scale: arbitrary (known positions make it metric, see --align){up}"
    assert done.disagreement is not None and done.scale_deviation is not None
    where = "the photos' GPS" if done.source == GPS else done.source
    line = (
        f"scale: metric, to about {100 * done.scale_deviation:.2g}%; {done.agreeing} of "
        f"{done.positions} positions of {where} agree, and they are {done.disagreement:.2g} m "
        "(median) from the photos' places in the model"
    )
    if done.tilt is not None and done.source == GPS:  # a list's z may be anything
        line += f"; z is {done.tilt:.0f} degrees from the photos' mean upright"
    return line


def _digest(positions: Positions) -> str:
    lines = [f"{name} {xyz.tolist()}" for name, xyz in positions.positions.items()]
    return provenance.names_hash([*lines, f"origin {positions.origin}"])


def _digest_in(sparse: Path) -> str | None:
    return (_read(sparse / RECORD) or {}).get("positions")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    except (OSError, ValueError):
        return None
