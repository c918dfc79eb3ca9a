"""Structure from motion from scratch: a COLMAP model of photos whose poses nobody knows.

COLMAP verifies the matches and reconstructs, incrementally or globally; intrinsics start from the
photos' EXIF data and are refined, or are given and kept. The same input gives the same model: by
default COLMAP's mapper has one thread, because with several it begins with whichever of the pairs
tried at once is ready first (a later one stops the search in the earlier ones), and its bundle
adjustment adds up in another order each time. Images that are in no model may have met a bad
beginning, and others are tried.

COLMAP would register what has too few points in a model by pairs of images alone. That takes the
most of a minute for each image that has no place in the model, in every beginning, and brought
nothing on photos of places (tried on 44 photos of four places): it is not asked to.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import SamfeatError, in_one_line, writing
from ..files import provenance
from ..files.outputs import Output
from ..progress import tqdm
from .bounded import Alive, bounded
from .cameras import CAMERA_MODELS
from .database import quiet_colmap
from .given_cameras import take_as_given
from .library import pycolmap
from .lookalike_pairs import left_out_by
from .model import is_model, read_model
from .readable import readable

logger = logging.getLogger(__name__)

_MIN_MODEL_SIZE = 3  # images; COLMAP's own 10 would drop the model of a small folder
_QUICK = 100  # images; a reconstruction of so many is begun again even for a single missing one
_BEGINNINGS = 3  # images to begin with, where COLMAP's choice was bad
CAMERA_MODES = {
    "auto": pycolmap.CameraMode.AUTO,
    "single": pycolmap.CameraMode.SINGLE,
    "folder": pycolmap.CameraMode.PER_FOLDER,
    "image": pycolmap.CameraMode.PER_IMAGE,
}
TO_REGISTER = 30  # inliers that COLMAP wants of an image that joins a model


@dataclass(frozen=True)
class SfmConfig:
    """How to reconstruct.

    camera_model: COLMAP's model of the cameras that are not given.
    camera_mode: which photos share a camera that is not given: "single", all of them; "folder",
        those of a folder; "image", none; "auto", neighbouring ones where size and EXIF agree, as
        COLMAP decides it.
    refine_focal: refine focal lengths and distortion; None for all but those of given cameras.
    global_mapper: reconstruct globally (GLOMAP, pycolmap 4), not image by image.
    seed: of COLMAP's random numbers.
    threads: of COLMAP's mapper; with more than one the model varies from run to run.
    """

    camera_model: str = "SIMPLE_RADIAL"
    camera_mode: str = "auto"
    refine_focal: bool | None = None
    global_mapper: bool = False
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise SamfeatError("--mapper-threads", "give a number from 1")
        if self.camera_mode not in CAMERA_MODES:
            raise SamfeatError(
                f"--camera-mode {self.camera_mode}", f"choose from {', '.join(CAMERA_MODES)}"
            )
        if self.camera_model not in CAMERA_MODELS:
            raise SamfeatError(
                f"--camera-model {self.camera_model}",
                "no such model of COLMAP's",
                f"choose from {', '.join(CAMERA_MODELS)}",
            )
        if self.camera_model not in pycolmap.CameraModelId.__members__:
            raise SamfeatError(
                f"--camera-model {self.camera_model}",
                f"pycolmap {pycolmap.__version__} does not have it",
                "install a newer pycolmap or choose another model",
            )
        if self.global_mapper and not hasattr(pycolmap, "global_mapping"):
            raise SamfeatError(
                "--global",
                f"pycolmap {pycolmap.__version__} has no global mapper",
                "install pycolmap 4 or newer, or leave --global out",
            )

    def check_given(self, given: int, total: int) -> None:
        """Refuse to keep so many of all photos' (or cameras') intrinsics where that cannot be.

        Raises:
            SamfeatError: some are to be kept and others refined, and COLMAP cannot.
        """
        options = pycolmap.IncrementalPipelineOptions()
        some = 0 < given < total and self.refine_focal is None
        if some and (self.global_mapper or not hasattr(options, "constant_cameras")):
            raise SamfeatError(
                "--global" if self.global_mapper else f"pycolmap {pycolmap.__version__}",
                f"{given} of {total} cameras are known; it keeps all cameras or refines all",
                "give the others too, or --refine-focal, or --no-refine-focal",
            )


def main(
    image_dir: Path,
    database: Path,
    output: Path,
    *,
    config: SfmConfig | None = None,
    given: Collection[str] = (),
    lookalikes: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Reconstruct; a folder of photos of several places gives several models.

    Args:
        image_dir: folder of the photos, for the points' colours.
        database: verified matches, see `photo_database`.
        output: folder for the models, binary: `0` has the most images, then `1`, ...
        config: see `SfmConfig`.
        given: names of the photos whose intrinsics in the database are known.
        lookalikes: list of verified pairs to leave out, see `lookalike_pairs`.
        overwrite: replace models that were created with other settings.

    Returns:
        The models' folders.

    Raises:
        SamfeatError: COLMAP finds no model, the database is missing, or `output` was made
            differently.
    """
    config = config or SfmConfig()
    record = provenance.read_sidecar(database)
    if record is None or not database.is_file():
        raise SamfeatError(database, "no database of verified matches", "verify the matches first")
    inputs = {"database": provenance.file_hash(provenance.sidecar(database))}
    pairs = left_out_by(lookalikes)
    if lookalikes is not None and pairs:  # without any it is the same as without a list
        inputs["lookalikes"] = provenance.file_hash(lookalikes)
    made_by = provenance.made_by("structure_from_motion", asdict(config), inputs)
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return models(output)
    with result.making() as work:
        with pycolmap.Database.open(str(database)) as opened:
            cameras = {image.name: image.camera_id for image in opened.read_all_images()}
        kept = _Kept.of(cameras, given, config)
        used = _without(database, pairs, work) if pairs else database
        with readable(image_dir, list(cameras), work) as photos:
            found = _distinct(_reconstruct(used, photos, work, config, kept))
        if not found or not found[0].num_points3D():
            raise SamfeatError(
                database,
                "COLMAP found no two photos to start a model with",
                "take more photos with more overlap and from different positions",
            )
        new = work / "models"
        for i, model in enumerate(found):
            (new / str(i)).mkdir(parents=True)
            model.write_binary(str(new / str(i)))
        result.put(new)
    return models(output)


def _without(database: Path, pairs: Sequence[tuple[str, str]], work: Path) -> Path:
    """A copy of the database in which these pairs are not verified."""
    copy = work / database.name
    with writing(copy):
        shutil.copyfile(database, copy)
    with pycolmap.Database.open(str(copy)) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        with pycolmap.DatabaseTransaction(opened):
            for one, other in pairs:
                opened.delete_inlier_matches(ids[one], ids[other])
    return copy


def left_out(names: Sequence[str], found: Sequence[Path]) -> list[str]:
    """The images that are in none of these models."""
    placed = {name for model in found for name in read_model(model).images}
    return [name for name in names if name not in placed]


def models(output: Path) -> list[Path]:
    """The models in the output of `main`, the largest first."""
    found = [path for path in output.iterdir() if path.name.isdigit() and is_model(path)]
    return sorted(found, key=lambda path: int(path.name))


@dataclass(frozen=True)
class _Kept:
    """Intrinsics that stay as they are: of all cameras, or of these by their ids in the database.

    given: all cameras are given, so that none is implausible.
    """

    everything: bool
    cameras: frozenset[int] = frozenset()
    given: bool = False

    @classmethod
    def of(cls, cameras: Mapping[str, int], given: Collection[str], config: SfmConfig) -> _Kept:
        known = {camera for name, camera in cameras.items() if name in set(given)}
        whole = known == set(cameras.values())
        config.check_given(len(known), len(set(cameras.values())))
        if config.refine_focal is None and not whole:
            return cls(False, frozenset(known))
        everything = whole if config.refine_focal is None else not config.refine_focal
        return cls(everything, given=whole and everything)


def _reconstruct(
    database: Path, image_dir: Path, work: Path, config: SfmConfig, kept: _Kept
) -> list[pycolmap.Reconstruction]:
    paths = str(database), str(image_dir), str(work)
    try:
        with quiet_colmap():
            groups = _connected(database)
            total = sum(map(len, groups))
            if config.global_mapper:
                return _global(paths, config, kept, total)
            found = _incremental(paths, config, kept, total)
            for group in groups:
                _begin_again(found, group, paths, config, kept)
            return found
    except (ValueError, RuntimeError, IndexError) as error:
        raise SamfeatError(
            database, f"COLMAP could not reconstruct ({in_one_line(error)})"
        ) from error


def _begin_again(
    found: list[pycolmap.Reconstruction],
    group: Sequence[tuple[int, str]],
    paths: tuple[str, str, str],
    config: SfmConfig,
    kept: _Kept,
) -> None:
    """Add models that begin with images of a group that are not in its largest one."""
    tried: set[int] = set()
    for _ in range(_BEGINNINGS):
        images = {image for image, _ in group}
        placed = max((images & set(model.reg_image_ids()) for model in found), key=len, default=())
        missing = len(group) - len(placed)
        left = [(i, name) for i, name in group if i not in placed and i not in tried]
        if not left or (len(group) > _QUICK and missing < len(placed)):
            return
        first, name = left[0]
        tried.add(first)
        logger.info(
            "models: %d of %d connected images; trying again from %s",
            len(placed), len(group), name,
        )  # fmt: skip
        found += _incremental(paths, config, kept, len(group), first)


def _global(
    paths: tuple[str, str, str], config: SfmConfig, kept: _Kept, total: int
) -> list[pycolmap.Reconstruction]:
    logger.info("models: all images at once; COLMAP reports no progress")
    options = pycolmap.GlobalPipelineOptions()
    options.min_model_size = _MIN_MODEL_SIZE
    options.num_threads = config.threads
    options.random_seed = config.seed
    if kept.everything:
        options.mapper.bundle_adjustment.refine_focal_length = False
        options.mapper.bundle_adjustment.refine_extra_params = False
    found = bounded(
        "COLMAP's global mapper",
        lambda alive: pycolmap.global_mapping(*paths, options=options),
        images=total,
    )
    return list(found.values())


def _incremental(
    paths: tuple[str, str, str],
    config: SfmConfig,
    kept: _Kept,
    total: int,
    first: int | None = None,
) -> list[pycolmap.Reconstruction]:
    """Models grown image by image; from the image `first`, where given."""
    options = pycolmap.IncrementalPipelineOptions()
    if kept.everything:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
    elif kept.cameras:
        options.constant_cameras = set(kept.cameras)
    if kept.given:
        take_as_given(options, options.mapper)
    options.min_model_size = _MIN_MODEL_SIZE
    options.num_threads = config.threads
    if hasattr(options, "structure_less_registration_fallback"):  # pycolmap 3.13 has none
        options.structure_less_registration_fallback = False
    if first is not None:
        options.init_image_id1 = first
        options.multiple_models = False
    for part in (options, options.mapper, options.triangulation):
        part.random_seed = config.seed
    with tqdm(total=total, desc="reconstruct", unit="image") as progress:

        def reconstruct(alive: Alive) -> dict[int, pycolmap.Reconstruction]:
            # what takes no seed goes on from this one, which each thread has for itself
            pycolmap.set_random_seed(config.seed)

            def start_model() -> None:
                alive()
                progress.reset()
                progress.update(2)

            def next_image() -> None:
                alive()
                if progress.n < total:  # an image that was filtered out may come again
                    progress.update()

            return pycolmap.incremental_mapping(
                *paths,
                options=options,
                initial_image_pair_callback=start_model,
                next_image_callback=next_image,
            )

        found = bounded("COLMAP's mapper", reconstruct, images=total)
    return list(found.values())


def _connected(database: Path) -> list[list[tuple[int, str]]]:
    """Groups of images that COLMAP may join in one model, by id and name.

    Joined by verified pairs with as many inliers as it wants to register an image; the largest
    group first, and in it those with the most verified matches.
    """
    with pycolmap.Database.open(str(database)) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pairs, inliers = opened.read_two_view_geometry_num_inliers()
    matches = dict.fromkeys(names, 0)
    group = {image: {image} for image in names}
    for pair, number in zip(pairs, inliers, strict=True):
        if number < TO_REGISTER:
            continue
        a, b = pycolmap.pair_id_to_image_pair(pair)
        matches[a] += number
        matches[b] += number
        if group[a] is not group[b]:
            group[a] |= group[b]
            for image in group[b]:
                group[image] = group[a]
    found = {id(images): images for images in group.values() if len(images) >= _MIN_MODEL_SIZE}
    return [
        [(i, names[i]) for i in sorted(images, key=lambda i: (-matches[i], i))]
        for images in sorted(found.values(), key=lambda images: (-len(images), min(images)))
    ]


def _distinct(found: list[pycolmap.Reconstruction]) -> list[pycolmap.Reconstruction]:
    """Models by size, without those whose images are all in a larger one: failed beginnings."""
    found = sorted(found, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    seen: set[int] = set()
    kept = []
    for model in found:
        images = set(model.reg_image_ids())
        if images - seen:
            kept.append(model)
            seen |= images
    return kept
