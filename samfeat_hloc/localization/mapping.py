"""Mapping: triangulate the database images' keypoints into a COLMAP model, poses and cameras fixed.

The reference model gives cameras and poses; matches are verified against the epipolar geometry
that those poses fix, so no two-view geometry is estimated. pycolmap then builds and refines the
points. Keypoint (0, 0), a pixel's centre here, is (0.5, 0.5) in COLMAP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..colmap.database import database_errors
from ..colmap.library import pycolmap
from ..colmap.model import is_model, open_in_pycolmap, read_model
from ..colmap.triangulation import (
    MIN_PAIR_MATCHES,
    MappingConfig,
    Verification,
    fill_database,
    triangulate,
)
from ..errors import SamfeatError, some_of
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.h5store import SegmentWriter
from ..files.outputs import Output
from ..files.pair_lists import read_pairs, unique_pairs
from .inputs import MappingInputs

logger = logging.getLogger(__name__)

_NAMED = 5  # images in a warning
_MOST_IMAGE_ID = 2**31 - 2  # of COLMAP's databases


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
        overwrite: replace a map that was created with other settings.

    Returns:
        `output`.

    Raises:
        SamfeatError: a file is missing or damaged, a name is not in the model or has no features
            or image, the matches are of other features, the map has no points, or `output` was
            created with other settings.
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
        raise SamfeatError(
            path, "the model has no images with poses", "take a model with registered images"
        )
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
        raise SamfeatError(pairs_path, "it has no pairs", "make the list of pairs again")
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


def _check_verified(verification: Verification, pairs: Path, matches: Path) -> None:
    v = verification
    if v.usable_pairs:
        return
    if v.matches == 0:
        reason = "there are no matches at all; check the features and the matching threshold"
    else:
        reason = (
            f"of {v.matches} matches in {v.pairs} pairs {v.inliers} agree with the reference "
            f"poses, in no pair {MIN_PAIR_MATCHES}; check that features and reference model are "
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
            why = f"in no pair {MIN_PAIR_MATCHES} matches that agree with the poses"
        elif verification.contradicts:
            why = "its matches contradict the poses"
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
    none = f"the map of {pairs.name} would have 0 points"
    if verification.contradicts:
        raise SamfeatError(matches, f"{none}: its matches contradict the poses", "check the poses")
    raise SamfeatError(
        matches,
        (
            f"{none}: {verification.inliers} matches were verified but none triangulated (too "
            "little parallax, or this pycolmap ignores them)"
        ),
        "run `samfeat doctor`",
    )
