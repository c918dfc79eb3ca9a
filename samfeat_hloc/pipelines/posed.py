"""From posed photos to a map: features, pairs, matches, and points triangulated at the known poses.

The poses are a COLMAP model's, or a list's with a list of intrinsics. Nothing of another feature's
points is needed; where a model has points, they tell which images see the same.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..colmap.cameras import Camera
from ..colmap.model import Model, file_of, read_content, read_model
from ..colmap.poses import read_poses
from ..colmap.registration import ImageEntry, empty_model
from ..errors import SamfeatError, some_of, writing
from ..feature.presets import PRESETS
from ..files import provenance
from ..files.feature_readers import check_size
from ..files.image_folders import look
from ..files.images import image_size
from ..files.masks import Masks
from ..files.outputs import Output
from ..localization import features, global_descriptors, mapping, matches, pairs, pairs_by_rule
from ..localization.inputs import MappingInputs
from ..maps.sources import MapSources
from ..progress import tqdm
from . import methods

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PosedOptions:
    """How to map posed photos.

    preset: of extraction, a name in `PRESETS`.
    weights: SAMFeat's checkpoint; None for the shipped one.
    official_weights: `weights` is a file of the paper's public release.
    num_matched: images paired with each image.
    masks: folder of the images' masks: no keypoints where they are black.
    workers: threads that decode photos.
    device: where to compute; None for a GPU where there is one.
    """

    preset: str = "samfeat_aachen"
    weights: Path | None = None
    official_weights: bool = False
    num_matched: int = 20
    workers: int = 2
    device: str | None = None
    masks: Path | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SamfeatError(f"--preset {self.preset}", f"choose from {', '.join(PRESETS)}")
        for option in ("num_matched", "workers"):
            if getattr(self, option) < 1:
                raise SamfeatError(f"--{option.replace('_', '-')}", "give a number from 1")


def begin(
    outputs: Path, poses: Path, cameras: Mapping[str, Camera] | None, options: PosedOptions
) -> None:
    """Make the folder of a run, without what a run on other poses or with other options has left.

    Arguments:
        outputs: the folder.
        poses: of the images: a COLMAP model, or a list with ``cameras``, the intrinsics by name.

    Raises:
        SamfeatError: a folder that was not made so.
    """
    if cameras is None:
        inputs = {
            part: provenance.file_hash(file_of(poses, part)) for part in ("cameras", "images")
        }
    else:
        inputs = _listed(poses, cameras)
    decisive = replace(options, workers=1, device=None)
    config = {key: value and str(value) for key, value in asdict(decisive).items()}
    record = provenance.made_by("posed", config, inputs)
    if outputs.is_dir() and any(outputs.iterdir()):
        there = provenance.read_sidecar(outputs)
        if there is None or there.get("stage") != "posed":
            raise SamfeatError(
                outputs, "the folder holds something else", "move it, or give another --output"
            )
        if not provenance.differences(there, record):
            return
        logger.info("%s: of other poses or options, made anew", outputs)
        shutil.rmtree(outputs)
    with writing(outputs):
        outputs.mkdir(parents=True, exist_ok=True)
        provenance.write_sidecar(outputs, record)


def _listed(poses: Path, cameras: Mapping[str, Camera]) -> dict[str, str]:
    """Lists of poses and intrinsics as inputs."""
    return {
        "poses": provenance.file_hash(poses),
        "cameras": provenance.names_hash(f"{name} {cameras[name]}" for name in sorted(cameras)),
    }


def run(
    model: Path, image_dir: Path, outputs: Path, options: PosedOptions | None = None
) -> MapSources:
    """Map the images of a COLMAP model with SAMFeat.

    Leaves features.h5, pairs-db.txt, matches-db.h5, map/ and global-descriptors.h5 in `outputs`.
    A run that was interrupted goes on.

    Arguments:
        model: folder of the model, with points or without.
        image_dir: folder of its images.
        outputs: folder for all files; made when missing.

    Raises:
        SamfeatError: a model without images, missing or broken photos, too few matches that agree
            with the poses, or files in `outputs` that were created with other settings.
    """
    options = options or PosedOptions()
    reference = read_model(model)  # its content is then not read once more
    content = read_content(model)
    names = list(content.poses)
    if len(names) < 2:
        raise SamfeatError(model, "a single image", "points are seen from two poses at least")
    masks = None if options.masks is None else Masks(options.masks)
    if masks is not None:
        masks.check({name: image_dir / name for name in names})
    _check_photos(reference, image_dir)
    outputs.mkdir(parents=True, exist_ok=True)
    network, how = methods.load(
        "samfeat", options.weights, options.official_weights, device=options.device
    )
    feature_file = features.main(
        image_dir, names, outputs / "features.h5", model=network,
        options=PRESETS[options.preset], workers=options.workers, extract=how,
        masks=masks,
    )  # fmt: skip
    choose = pairs.from_covisibility if content.num_points else pairs_by_rule.from_poses
    pairs_file = choose(model, outputs / "pairs-db.txt", num_matched=options.num_matched)
    match_file = matches.main(
        pairs_file,
        feature_file,
        outputs / "matches-db.h5",
        config=methods.match_config("samfeat"),
        device=options.device,
    )
    inputs = MappingInputs(model, image_dir, pairs_file, feature_file, match_file)
    map_dir = mapping.main(inputs, outputs / "map")
    vectors = global_descriptors.main(
        feature_file, names, [], outputs / "global-descriptors.h5", device=options.device
    )
    return MapSources(map_dir, feature_file, vectors)


def _check_photos(model: Model, image_dir: Path) -> None:
    """Refuse photos of other sizes than their cameras, and tell of those without a pose."""
    for name in tqdm(model.images, desc="image sizes", delay=2, leave=False):
        path, camera = image_dir / name, model.camera_of(name)
        if path.is_file():
            check_size(
                image_dir, name, image_size(path), (camera.width, camera.height),
                "check the intrinsics, and that these are their photos",
            )  # fmt: skip
    there = look(image_dir).names
    left_out = sorted(set(there) - model.images.keys())
    if left_out:
        logger.info(
            "map: %d of %d photos have no pose and are left out: %s",
            len(left_out), len(there), some_of(left_out),
        )  # fmt: skip


def model_of_lists(poses: Path, cameras: dict[str, Camera], output: Path) -> Path:
    """A COLMAP model without points, of a list of poses and the images' intrinsics.

    Images with equal intrinsics share a camera.

    Arguments:
        poses: ``name qw qx qy qz tx ty tz`` a line, world to camera.
        cameras: intrinsics by image name.
        output: folder of the model, written as text.

    Raises:
        SamfeatError: a malformed list, an image without intrinsics, or an output that was created
            from other lists.
    """
    listed = read_poses(poses)
    missing = [name for name in listed if name not in cameras]
    if missing:
        raise SamfeatError(
            poses,
            f"no intrinsics of {missing[0]} ({len(missing)} of {len(listed)} images have none)",
            "list them all with --cameras, or give one camera for all with --camera",
        )
    model = Output(output, provenance.made_by("posed-model", {}, _listed(poses, cameras)))
    if model.is_there():
        return output
    ids: dict[Camera, int] = {}
    entries = {
        name: ImageEntry(number, ids.setdefault(cameras[name], len(ids) + 1), cameras[name])
        for number, name in enumerate(listed, start=1)
    }
    with model.making() as work:
        new = work / "model"
        new.mkdir()
        empty_model(entries, listed).write_text(str(new))
        return model.put(new)
