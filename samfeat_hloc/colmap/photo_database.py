"""A COLMAP database of photos whose poses nobody knows: cameras, keypoints and verified matches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SamfeatError, in_one_line, require_known
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.outputs import Output
from ..files.pair_lists import read_pairs, unique_pairs
from .bounded import Alive, bounded
from .cameras import Camera
from .database import VerificationConfig, quiet_colmap, verify, write_features, write_matches
from .library import pycolmap
from .readable import readable
from .structure_from_motion import CAMERA_MODES, SfmConfig

logger = logging.getLogger(__name__)

# See VerificationConfig. Of 1,743 pairs of photos that show nothing in common 6 pass, all of them
# smaller than 500 pixels; 1,568 have COLMAP's 15 inliers.
_CHANCE = 24.0


def main(
    image_dir: Path,
    pairs: Path,
    features: Path,
    matches: Path,
    output: Path,
    *,
    config: SfmConfig | None = None,
    cameras: Mapping[str, Camera] | None = None,
    overwrite: bool = False,
) -> Path:
    """A COLMAP database with the photos of the pairs, their matches and two-view geometries.

    Args:
        image_dir: folder of the photos; intrinsics come from their EXIF data.
        pairs: list of matched pairs.
        features, matches: files in hloc's format; keypoints in pixels of the stored image.
        output: the database to write.
        config: see `SfmConfig`; the mapper plays no part here.
        cameras: known intrinsics by photo name; photos with equal ones share a camera.
        overwrite: replace a database that was created with other settings.

    Raises:
        SamfeatError: a file is missing or damaged, photos that COLMAP cannot read or of
            another size than their camera, no pair with
            enough matches of one geometry, or `output` was created with other settings.
    """
    config = config or SfmConfig()
    cameras = cameras or {}
    listed_cameras = [f"{name} {camera}" for name, camera in cameras.items()]
    verification = VerificationConfig(chance=_CHANCE, seed=config.seed)
    made_by = provenance.made_by(
        "verified_database",
        {
            "camera_model": config.camera_model,
            "camera_mode": config.camera_mode,
            **asdict(verification),
        },
        {
            **provenance.file_hashes(pairs=pairs, features=features, matches=matches),
            **({"cameras": provenance.names_hash(listed_cameras)} if cameras else {}),
        },
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    listed = [pair for pair in unique_pairs(read_pairs(pairs)) if pair[0] != pair[1]]
    names = sorted({name for pair in listed for name in pair})
    with result.making() as work:
        database = work / "database.db"
        with readable(image_dir, names, work) as photos:
            _import_images(database, photos, names, config, cameras)
        with (
            pycolmap.Database.open(str(database)) as opened,
            FeatureReader(features) as feature_file,
            MatchReader(matches) as match_file,
        ):
            sizes = {c.camera_id: (c.width, c.height) for c in opened.read_all_cameras()}
            images = {
                image.name: (image.image_id, sizes[image.camera_id])
                for image in opened.read_all_images()
            }
            _check_imported(names, images, image_dir)
            with pycolmap.DatabaseTransaction(opened):
                counts = write_features(opened, images, feature_file)
                matched = write_matches(opened, images, listed, match_file, counts)
        found = verify(database, matched, verification)
        logger.info("database: %s", found.in_words(len(listed)))
        if not found.verified_pairs:
            raise SamfeatError(
                matches,
                (f"in no pair more of the {found.matches} matches fit one geometry than by chance"),
                "check that the photos show one place and overlap",
            )
        return result.put(database)


def _import_images(
    database: Path,
    image_dir: Path,
    names: Sequence[str],
    config: SfmConfig,
    given: Mapping[str, Camera],
) -> None:
    # COLMAP takes each folder for done once another begins, be it one within it.
    by_folder = config.camera_mode == "folder"
    sharing: dict[Camera | str | None, list[str]] = {}
    for name in names:
        folder = name.rpartition("/")[0] if by_folder else None
        sharing.setdefault(given.get(name, folder), []).append(name)
    with pycolmap.Database.open(str(database)):
        pass  # 3.13 imports into a database that exists
    try:
        with quiet_colmap():
            for what, photos in sharing.items():
                options = pycolmap.ImageReaderOptions()
                options.camera_model = config.camera_model
                if isinstance(what, Camera):
                    options.camera_model = what.model
                    options.camera_params = ",".join(map(repr, what.params))
                mode = CAMERA_MODES[config.camera_mode if what is None else "single"]
                bounded(
                    "COLMAP's import of images",
                    partial(_import, database, image_dir, photos, mode, options),
                    images=len(photos),
                )
    except (ValueError, RuntimeError, IndexError) as error:
        raise SamfeatError(
            image_dir, f"COLMAP cannot import the photos ({in_one_line(error)})"
        ) from error


def _import(
    database: Path, image_dir: Path, names: list[str], mode: Any, options: Any, alive: Alive
) -> None:
    pycolmap.import_images(
        str(database), str(image_dir), camera_mode=mode, image_names=names, options=options
    )


def _check_imported(names: Sequence[str], imported: dict[str, Any], image_dir: Path) -> None:
    require_known(
        names, imported, image_dir, "COLMAP does not take",
        "photos that share a camera have to be of one size, see --camera-mode",
    )  # fmt: skip
