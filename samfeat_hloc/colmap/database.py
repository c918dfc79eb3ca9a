"""A COLMAP database of keypoints and matches, geometrically verified by COLMAP itself.

For whatever has no poses to verify with: reconstruction from scratch, and the registration of
queries. (Mapping verifies against the poses it has, see `mapping`.)
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SamfeatError, cause_of, in_one_line
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.pair_lists import pairs_text
from ..progress import tqdm
from .bounded import bounded
from .library import pycolmap

logger = logging.getLogger(__name__)

_PROBE = 8 << 20  # bytes, to see whether a disk takes any
_PAIRS_AT_A_TIME = 100  # verified in one call of COLMAP, between two steps of the progress bar


@dataclass(frozen=True)
class VerificationConfig:
    """COLMAP's own values.

    max_error: largest epipolar or transfer error of an inlier, in pixels.
    min_num_inliers: pairs with fewer are dropped.
    chance: pairs with fewer inliers than wrong matches have by chance are dropped too, see
        `least_inliers`; 0 for COLMAP's own rule.
    seed: of RANSAC.
    """

    max_error: float = 4.0
    min_num_inliers: int = 15
    chance: float = 0.0
    seed: int = 0

    def least_inliers(self, matches: int, short_sides: Sequence[int]) -> float:
        """Of a pair. Wrong matches lie near epipolar lines by chance, and RANSAC finds the geometry
        with the most: more the more matches there are, and the wider the band around a line is in
        the image. Measured, the most are `chance` (24) times the square root of those in one band.

        Args:
            matches: how many the pair has.
            short_sides: of its images, in pixels.
        """
        band = float(np.mean([2 * self.max_error / side for side in short_sides]))
        return max(self.min_num_inliers, self.chance * math.sqrt(band * matches))


@dataclass(frozen=True)
class Verified:
    """What a verified database holds."""

    pairs: int
    matches: int
    verified_pairs: int
    inliers: int

    def in_words(self, listed: int) -> str:
        """How many matches are verified, and in how many of the pairs that were listed."""
        return (
            f"{self.inliers} of {self.matches} matches verified, "
            f"in {self.verified_pairs} of {listed} pairs"
        )


def write_model(database: pycolmap.Database, model: pycolmap.Reconstruction) -> None:
    """Write a model's cameras, rigs, frames and images, under the ids that they have in it."""
    for camera in model.cameras.values():
        database.write_camera(camera, use_camera_id=True)
    for rig in model.rigs.values():
        database.write_rig(rig, use_rig_id=True)
    for frame in model.frames.values():
        database.write_frame(frame, use_frame_id=True)
    for image_id, image in model.images.items():
        # Without its frame: COLMAP would look for it among all frames, one by one, and what it
        # writes is the same.
        plain = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image_id)
        database.write_image(plain, use_image_id=True)


def write_features(
    database: pycolmap.Database,
    images: Mapping[str, tuple[int, tuple[int, int]]],
    features: FeatureReader,
) -> dict[str, int]:
    """Write the keypoints of every image.

    Args:
        database: open, with the images in it.
        images: by name the image's id in the database, and its camera's width and height.
        features: where the keypoints are.

    Returns:
        The number of keypoints by image name.

    Raises:
        SamfeatError: an image without features, or of another size than its camera.
    """
    features.require(list(images), "extract the features of all images")
    counts = {}
    for name, (image_id, size) in tqdm(images.items(), desc="keypoints", unit="image", delay=2):
        features.check_size(name, size, "give intrinsics of the image as it is stored")
        keypoints = features.keypoints(name)
        counts[name] = len(keypoints)
        database.write_keypoints(image_id, keypoints.astype(np.float32))
    return counts


def write_matches(
    database: pycolmap.Database,
    images: Mapping[str, tuple[int, tuple[int, int]]],
    pairs: Sequence[tuple[str, str]],
    matches: MatchReader,
    counts: Mapping[str, int],
) -> list[tuple[str, str]]:
    """Write the matches of every pair, as they are; returns the pairs that have any.

    Raises:
        SamfeatError: a pair that is not in the match file, or matches of other keypoints than
            the images have.
    """
    matched = []
    for name0, name1 in tqdm(pairs, desc="matches", unit="pair", delay=2):
        found = matches.matches(name0, name1, (counts[name0], counts[name1]))
        if not len(found):
            continue
        database.write_matches(images[name0][0], images[name1][0], found.astype(np.uint32))
        matched.append((name0, name1))
    return matched


def verify(
    database: Path, pairs: Sequence[tuple[str, str]], config: VerificationConfig
) -> Verified:
    """Verify the matches of the pairs by two-view geometries, on all processors.

    Args:
        database: a closed database with keypoints and matches.
        pairs: those to verify.
        config: see `VerificationConfig`.
    """
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = config.min_num_inliers
    options.ransac.max_error = config.max_error
    options.ransac.random_seed = config.seed
    chosen = database.with_name("pairs-to-verify.txt")
    with tqdm(total=len(pairs), desc="verify", unit="pair") as progress, quiet_colmap():
        for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
            part = pairs[start : start + _PAIRS_AT_A_TIME]
            chosen.write_text(pairs_text(part), encoding="utf-8")
            bounded(
                "COLMAP's verification of matches",
                lambda alive: pycolmap.verify_matches(str(database), str(chosen), options),
                images=len(part),
            )
            progress.update(len(part))
    chosen.unlink(missing_ok=True)
    with pycolmap.Database.open(str(database)) as opened:
        _drop_chance(opened, config)
        # counted here: COLMAP counts pairs whose geometry failed as verified too
        inliers = np.array(opened.read_two_view_geometry_num_inliers()[1], dtype=np.int64)
        kept = inliers[inliers >= config.min_num_inliers]
        return Verified(
            opened.num_matched_image_pairs(), opened.num_matches(), len(kept), int(kept.sum())
        )


def _drop_chance(database: pycolmap.Database, config: VerificationConfig) -> None:
    """Delete the geometries with too few inliers for so many matches."""
    if not config.chance:
        return
    cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
    side = {
        image.image_id: min(cameras[image.camera_id].width, cameras[image.camera_id].height)
        for image in database.read_all_images()
    }
    matches = dict(zip(*database.read_num_matches(), strict=True))
    with pycolmap.DatabaseTransaction(database):
        for pair, inliers in zip(*database.read_two_view_geometry_num_inliers(), strict=True):
            images = pycolmap.pair_id_to_image_pair(pair)
            if 0 < inliers < config.least_inliers(matches[pair], [side[i] for i in images]):
                database.delete_inlier_matches(*images)


@contextmanager
def database_errors(output: Path) -> Iterator[None]:
    """COLMAP does not say why it cannot open or write its database: find out, or say what it can
    be."""
    try:
        yield
    except RuntimeError as error:
        why = in_one_line(error)
        raise SamfeatError(
            output,
            cause_of(error)
            or _cause_in(output.parent)
            or f"COLMAP cannot write its database ({why}); check that the disk is not full and the"
            " limit on open files (ulimit -n) not low",
        ) from error


def _cause_in(folder: Path) -> str | None:
    """Why no file can be written to a folder now; None where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(_PROBE))
            stream.flush()
    except OSError as error:
        return cause_of(error)
    return None


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Only COLMAP's errors: it logs several lines an image."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 2
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def unreadable(database: Path, error: Exception) -> SamfeatError:
    """What is wrong with a database that pycolmap does not open; it writes to all that it opens."""
    if database.exists() and not (
        os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)
    ):
        return SamfeatError(
            database,
            "COLMAP cannot open it, as it or its folder is read-only",
            "change the mode, or copy the folder",
        )
    return SamfeatError(
        database, f"cannot be read ({in_one_line(error)})", "reconstruct again with --overwrite"
    )
