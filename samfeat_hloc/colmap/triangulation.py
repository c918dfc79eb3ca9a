"""Triangulation in COLMAP: matches that agree with known poses become a database, and it a map.

No pose and no camera changes. Keypoint (0, 0), a pixel's centre here, is (0.5, 0.5) in COLMAP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SamfeatError, cause_of, in_one_line, some_of
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..progress import tqdm
from .bounded import bounded
from .database import quiet_colmap, write_model
from .given_cameras import put_back, shifted, shifts, take_as_given
from .library import pycolmap
from .readable import readable
from .verification import Verifier, verified

logger = logging.getLogger(__name__)

_AGREEING = 0.1  # share of the matches; of right ones most do
MIN_PAIR_MATCHES = 15  # COLMAP drops pairs with fewer verified matches


@dataclass(frozen=True)
class MappingConfig:
    """How to map.

    max_error: largest distance to the epipolar line, in pixels times the detector's `uncertainty`.
    extract_colors: colour the points by the images.
    seed: of pycolmap's random numbers, where it takes one.
    """

    max_error: float = 4.0
    extract_colors: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Verification:
    """What geometric verification kept: sums over all pairs."""

    pairs: int
    matches: int
    inliers: int
    usable_pairs: int  # pairs with enough inliers for COLMAP
    usable_images: frozenset[str]  # images of such a pair

    @property
    def contradicts(self) -> bool:
        """Whether so few matches agree with the poses that these are wrong, or the matches are."""
        return self.inliers < _AGREEING * self.matches


def fill_database(
    path: Path,
    reference: pycolmap.Reconstruction,
    pairs: Sequence[tuple[str, str]],
    features: FeatureReader,
    matches: MatchReader,
    config: MappingConfig,
    kept: SegmentWriter | None = None,
) -> Verification:
    """Write cameras, poses' ids, keypoints and verified matches to a COLMAP database at once.

    Args:
        kept: where verified pairs are kept for a run after a kill.
    """
    images = {image.name: image for image in reference.images.values() if image.has_pose}
    cameras = reference.cameras
    verifier = Verifier(reference, features, matches)
    moved = shifts(reference)
    usable_images: set[str] = set()
    empty = []
    total = inlier_total = usable = 0
    with pycolmap.Database.open(str(path)) as database, pycolmap.DatabaseTransaction(database):
        write_model(database, reference)
        for name, image in tqdm(images.items(), desc="keypoints", unit="image"):
            keypoints = features.keypoints(name)
            camera = cameras[image.camera_id]
            features.check_size(
                name,
                (camera.width, camera.height),
                "use the images that the reference model was made from",
            )
            verifier.add_image(name, len(keypoints), config.max_error * features.uncertainty(name))
            if not len(keypoints):
                empty.append(name)
            keypoints += moved.get(image.camera_id, 0)
            database.write_keypoints(image.image_id, keypoints.astype(np.float32))
        if empty:
            logger.warning("%s: no keypoints in %s", features.path, some_of(empty))

        found = verified(verifier, pairs, kept)
        for (name0, name1), inliers, matched in tqdm(
            found, total=len(pairs), desc="verify", unit="pair"
        ):
            total += matched
            inlier_total += len(inliers)
            if not len(inliers):
                continue
            if len(inliers) >= MIN_PAIR_MATCHES:
                usable += 1
                usable_images.update((name0, name1))
            geometry = pycolmap.TwoViewGeometry()
            # pycolmap 4 triangulates nothing from pairs whose configuration is UNDEFINED
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = inliers
            database.write_two_view_geometry(
                images[name0].image_id, images[name1].image_id, geometry
            )
    logger.info(
        "map: %d of %d matches of %d pairs agree with the poses (%.1f%%)",
        inlier_total,
        total,
        len(pairs),
        100 * inlier_total / max(total, 1),
    )
    verification = Verification(len(pairs), total, inlier_total, usable, frozenset(usable_images))
    if verification.contradicts:
        logger.warning(
            "map: nearly all matches contradict the poses: are these cam_from_world (world to "
            "camera), the intrinsics those of the photos, and the matches those of the features?"
        )
    return verification


def triangulate(
    reference: pycolmap.Reconstruction,
    database: Path,
    image_dir: Path,
    output: Path,
    config: MappingConfig,
) -> None:
    """Triangulate the verified matches of a COLMAP database into a model, poses and cameras fixed.

    Args:
        reference: images with poses; all their ids are those of the database.
        database: keypoints and two-view geometries.
        image_dir: folder of the images, for colours.
        output: folder that exists, for the new model (binary).
        config: see `MappingConfig`.

    Raises:
        SamfeatError: COLMAP fails.
    """
    moved = shifts(reference)
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors = config.extract_colors and not moved
    take_as_given(options, options.mapper, options.triangulation)
    for part in (options, options.mapper, options.triangulation):
        if hasattr(part, "random_seed"):  # pycolmap 3.13 has none
            part.random_seed = config.seed
    images = len(reference.images)
    names = [image.name for image in reference.images.values() if image.has_pose]
    logger.info("map: triangulating %d images; COLMAP reports no progress", images)
    try:
        with readable(image_dir, names, output.parent) as photos, quiet_colmap():
            with shifted(reference, moved):
                bounded(
                    "COLMAP's triangulation",
                    lambda alive: pycolmap.triangulate_points(
                        reference, str(database), str(photos), str(output), options=options
                    ),
                    images=images,
                )
            if moved:
                put_back(output, moved, reference, photos if config.extract_colors else None)
    except (ValueError, RuntimeError, IndexError) as error:
        if (cause := cause_of(error)) is not None:
            raise SamfeatError(output.parent, cause) from error
        reason = in_one_line(error)
        raise SamfeatError(
            image_dir,
            f"COLMAP could not triangulate ({reason})",
            "run `samfeat doctor` to see whether this pycolmap works",
        ) from error
