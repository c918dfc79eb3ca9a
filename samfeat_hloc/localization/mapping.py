"""Mapping: triangulate the database images' keypoints into a COLMAP model, poses and cameras fixed.

The reference model gives cameras and poses; matches are verified against the epipolar geometry
that those poses fix, so no two-view geometry is estimated. pycolmap then builds and refines the
points. Keypoint (0, 0), a pixel's centre here, is (0.5, 0.5) in COLMAP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..colmap.bounded import bounded
from ..colmap.database import database_errors, quiet_colmap, write_model
from ..colmap.given_cameras import put_back, shifted, shifts, take_as_given
from ..colmap.library import pycolmap
from ..colmap.model import is_model, open_in_pycolmap, read_model
from ..colmap.readable import readable
from ..colmap.verification import Verifier, verified
from ..errors import SamfeatError, cause_of, some_of
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..files.outputs import Output
from ..files.pair_lists import read_pairs, unique_pairs
from ..progress import tqdm
from .inputs import MappingInputs

logger = logging.getLogger(__name__)

_NAMED = 5  # images in a warning
_MOST_IMAGE_ID = 2**31 - 2  # of COLMAP's databases
_MIN_PAIR_MATCHES = 15  # COLMAP drops pairs with fewer verified matches


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


def main(
    inputs: MappingInputs,
    output: Path,
    *,
    config: MappingConfig | None = None,
    overwrite: bool = False,
) -> Path:
    """Triangulate a COLMAP model in the poses and cameras of a reference model.

    Verified pairs are kept beside the output until the map is there; a run that was killed goes
    on after them. The triangulation is one call of COLMAP, and done again.

    Args:
        inputs: see `MappingInputs`. Poses, cameras and all ids of the reference are kept as they
            are.
        output: folder of the new model (binary); written beside it first and then renamed.
        overwrite: replace a map that was made differently.

    Returns:
        `output`.

    Raises:
        SamfeatError: a file is missing or damaged, a name is not in the model or has no features
            or image, the matches are of other features, the map has no points, or `output` was
            made differently.
    """
    config = config or MappingConfig()
    made_by = provenance.made_by("mapping", asdict(config), inputs.hashes())
    verified_pairs = output.with_name(f"{output.name}.verified")
    result = Output(output, made_by, overwrite=overwrite, kept=verified_pairs)
    if result.is_there():
        return output

    image_dir, pairs, matches = inputs.image_dir, inputs.pairs, inputs.matches
    reference = _read_reference(inputs.reference_model)
    listed = [pair for pair in unique_pairs(read_pairs(pairs)) if pair[0] != pair[1]]
    with (
        result.making() as work,
        SegmentWriter(verified_pairs, made_by, overwrite=True) as kept,
    ):
        database = work / "database.db"
        with FeatureReader(inputs.features) as feature_file, MatchReader(matches) as match_file:
            _check_names(reference, listed, feature_file, pairs, image_dir)
            with database_errors(output):
                verification = fill_database(
                    database, reference, listed, feature_file, match_file, config, kept
                )
        if not verification.usable_pairs:
            kept.discard()  # no use in going on from there
        _check_verified(verification, pairs, matches)
        model = work / "model"
        model.mkdir()
        triangulate(reference, database, image_dir, model, config)
        _check_map(model, verification, pairs, matches)
        _tell_pointless(model, listed, verification)
        result.put(model)
        kept.discard()
    return output


def _read_reference(path: Path) -> pycolmap.Reconstruction:
    reference = open_in_pycolmap(path)
    if not any(image.has_pose for image in reference.images.values()):
        raise SamfeatError(path, "the model has no images with poses", "give a registered model")
    largest = max(reference.images)
    if largest > _MOST_IMAGE_ID:
        raise SamfeatError(
            path,
            f"image {reference.images[largest].name} has the id {largest}, and COLMAP's databases "
            f"take ids up to {_MOST_IMAGE_ID}",
            "number the images of the model anew",
        )
    return reference


def _check_names(
    reference: pycolmap.Reconstruction,
    pairs: Sequence[tuple[str, str]],
    features: FeatureReader,
    pairs_path: Path,
    image_dir: Path,
) -> None:
    known = {image.name for image in reference.images.values() if image.has_pose}
    if not pairs:
        raise SamfeatError(pairs_path, "no pairs in it", "make the list of pairs again")
    for name in (name for pair in pairs for name in pair):
        if name not in known:
            raise SamfeatError(
                pairs_path,
                f"image {name} is not in the reference model",
                "make the pairs from this model",
            )
    features.require(sorted(known), "extract the features of all images of the reference model")
    if not image_dir.is_dir():
        raise SamfeatError(image_dir, "no such folder", "name the folder of the images")
    missing = [name for name in sorted(known) if not (image_dir / name).is_file()]
    if missing:
        raise SamfeatError(
            image_dir,
            f"no image {some_of(missing)} of the reference model",
            "complete the download or name the right folder",
        )


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
            if len(inliers) >= _MIN_PAIR_MATCHES:
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
    return Verification(len(pairs), total, inlier_total, usable, frozenset(usable_images))


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SamfeatError(
            image_dir,
            f"COLMAP could not triangulate ({reason})",
            "run `samfeat doctor` to see whether this pycolmap works",
        ) from error


def _check_verified(verification: Verification, pairs: Path, matches: Path) -> None:
    v = verification
    if v.usable_pairs:
        return
    if v.matches == 0:
        reason = "there are no matches at all; check the features and the matching threshold"
    else:
        reason = (
            f"of {v.matches} matches in {v.pairs} pairs {v.inliers} agree with the reference "
            f"poses, in no pair {_MIN_PAIR_MATCHES}; check that features and reference model are "
            "of the same images"
        )
    raise SamfeatError(matches, f"the map of {pairs.name} would have 0 points: {reason}")


def _tell_pointless(
    model: Path, pairs: Sequence[tuple[str, str]], verification: Verification
) -> None:
    """Name the images without a point, which no query can be localized by, and why."""
    images = read_model(model).images
    paired = {name for pair in pairs for name in pair}
    told = []
    for name in sorted(images):
        if (images[name].points >= 0).any():
            continue
        if name not in paired:
            why = "in no pair"
        elif name not in verification.usable_images:
            why = f"in no pair {_MIN_PAIR_MATCHES} matches that agree with the poses"
        else:
            why = "its matches give no point: too little parallax"
        told.append(f"{name} ({why})")
    if told:
        logger.warning(
            "map: %d of %d images have no points: %s",
            len(told), len(images), some_of(told, _NAMED),
        )  # fmt: skip


def _check_map(model: Path, verification: Verification, pairs: Path, matches: Path) -> None:
    if is_model(model) and len(read_model(model).point_ids):
        return
    raise SamfeatError(
        matches,
        (
            f"the map of {pairs.name} would have 0 points: {verification.inliers} "
            "matches were verified but none triangulated (too little parallax, or "
            "this pycolmap ignores them)"
        ),
        "run `samfeat doctor`",
    )
