"""The whole way from a folder of photos without poses to a COLMAP model, stage by stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..colmap import lookalike_pairs, photo_database, structure_from_motion
from ..colmap.alignment import Alignment
from ..colmap.cameras import Camera
from ..colmap.disagreement import SUSPICIOUS, disagreeing
from ..colmap.structure_from_motion import SfmConfig
from ..errors import SamfeatError, some_of
from ..evaluation.reconstruction import ReconstructionFigures, evaluate
from ..evaluation.record import measurement
from ..feature.presets import PRESETS
from ..files.atomic import write_atomically
from ..files.image_folders import list_images
from ..files.masks import Masks
from ..files.pair_lists import read_pairs
from ..files.provenance import NO_RECORD, read_sidecar
from ..localization import (
    features,
    global_descriptors,
    matches,
    pairs,
    pairs_by_rule,
    sequences,
    video_frames,
)
from . import align_models, methods
from . import turns as turns_stage
from .known_cameras import known_cameras

logger = logging.getLogger(__name__)

PAIRING = ("auto", "exhaustive", "retrieval", "sequence")
MOST_EXHAUSTIVE = 100  # photos; "auto" retrieves from there on
_CLUSTERS = 64


@dataclass(frozen=True)
class ReconstructOptions:
    """How to reconstruct.

    method: features, "samfeat" or "rootsift".
    preset: a preset of extraction; RootSIFT takes its size and number of keypoints.
    weights: SAMFeat's checkpoint; None for the shipped one.
    official_weights: `weights` is a file of the paper's public release.
    pairing: "exhaustive", "retrieval" (VLAD of the features), "sequence" (see
        `localization.sequences`), or "auto": all pairs up to `MOST_EXHAUSTIVE` photos, and beyond
        by retrieval, or of a video as a sequence.
    pairs: a list of pairs to use instead.
    num_retrieved: photos retrieved for each photo.
    overlap: photos that follow a photo in a sequence and are matched with it.
    motion: between the frames of a video, see `localization.video_frames`.
    sfm: cameras and mapper.
    camera: known intrinsics of all photos.
    cameras: list of known intrinsics, ``name MODEL width height params...`` a line.
    align: "gps", or a list ``name x y z`` of known positions in metres; None leaves the scale
        arbitrary.
    places: leave out pairs that would join places that look alike, see `colmap.lookalikes`.
    turns: find photos that stand turned by 90, 180 or 270 degrees, which EXIF does not say.
    masks: folder of the photos' masks: no keypoints where they are black.
    workers: threads that decode photos.
    device: of the network, matching and retrieval; see `samfeat_hloc.parallel.devices.device_of`.
    overwrite: do every stage again.
    """

    method: str = "samfeat"
    preset: str = "samfeat_aachen"
    weights: Path | None = None
    official_weights: bool = False
    pairing: str = "auto"
    pairs: Path | None = None
    num_retrieved: int = 20
    overlap: int = sequences.OVERLAP
    motion: float = video_frames.MOTION
    sfm: SfmConfig = field(default_factory=SfmConfig)
    camera: Camera | None = None
    cameras: Path | None = None
    align: str | None = None
    places: bool = True
    turns: bool = False
    masks: Path | None = None
    workers: int = 2
    device: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (
            ("feature-type", self.method, methods.METHODS),
            ("preset", self.preset, tuple(PRESETS)),
            ("pairing", self.pairing, PAIRING),
        ):
            if value not in known:
                raise SamfeatError(f"--{option} {value}", f"choose from {', '.join(known)}")
        for option in ("num_retrieved", "overlap", "workers"):
            if getattr(self, option) < 1:
                raise SamfeatError(f"--{option.replace('_', '-')}", "give a number from 1")
        if not 0 < self.motion < 1:
            raise SamfeatError(f"--motion {self.motion:g}", "give a share from 0 to 1")
        if self.turns and self.method != "samfeat":
            raise SamfeatError(
                "--turns", "RootSIFT finds turned photos as they are", "leave it out"
            )
        methods.check(self.method, self.weights, self.official_weights)


@dataclass(frozen=True)
class Reconstructed:
    """What a run leaves: the models, the largest first, and the figures of that one.

    left_out: photos that are in no model.
    alignments: how each model came to its coordinates.
    turns: degrees, clockwise, by which photos were turned to match the others, by name.
    lookalike_pairs: verified pairs that were left out, as they would join places that look alike.
    disagreeing: for each model the pairs whose photos share much, and that it contradicts. With
        `SUSPICIOUS` of them it may have joined places that look alike.
    """

    models: list[Path]
    num_images: int
    figures: ReconstructionFigures
    left_out: list[str]
    alignments: list[Alignment]
    turns: dict[str, int]
    lookalike_pairs: int
    disagreeing: list[list[tuple[str, str]]]

    @property
    def suspicious(self) -> list[tuple[Path, list[tuple[str, str]]]]:
        """The models that may have joined places that look alike, with their pairs."""
        each = zip(self.models, self.disagreeing, strict=True)
        return [(model, pairs) for model, pairs in each if len(pairs) >= SUSPICIOUS]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "images": self.num_images,
            "left_out": self.left_out,
            "turns": self.turns,
            "lookalike_pairs": self.lookalike_pairs,
            "disagreeing_pairs": self.disagreeing,
            "alignments": [one.as_json() for one in self.alignments],
            **self.figures.as_json(),
        }


def run(image_dir: Path, outputs: Path, options: ReconstructOptions | None = None) -> Reconstructed:
    """Reconstruct the photos below a folder, or frames of a video.

    Leaves features.h5, the pairs, matches.h5, database.db (COLMAP's, verified),
    pairs-lookalike.txt (verified pairs that are left out), sparse/0, 1, ... (models, the largest
    first) and summary.json in `outputs`, and of a video frames/. A run that
    was interrupted goes on.

    Arguments:
        image_dir: the folder, or the file of the video, whose frames are of one camera.
        outputs: folder of all results.

    Raises:
        SamfeatError: no or broken photos, fewer than two, a file that is no video, nothing to
            reconstruct, positions that the largest model cannot be aligned to (the models are there
            then, as they are without), or files in `outputs` that were created with other settings.
    """
    options = options or ReconstructOptions()
    if image_dir.is_file():
        image_dir, options = _of_video(image_dir, outputs, options)
    names = list_images(image_dir)
    if len(names) < 2:
        raise SamfeatError(image_dir, "a single photo", "reconstruction needs several")
    cameras = known_cameras(image_dir, names, options.camera, options.cameras)
    options.sfm.check_given(len(cameras), len(names))
    positions = align_models.known_positions(image_dir, names, options.align)
    outputs.mkdir(parents=True, exist_ok=True)
    database = outputs / "database.db"
    if database.exists() and read_sidecar(database) is None:  # a COLMAP project of the user's
        raise SamfeatError(database, *NO_RECORD)
    again: dict[str, Any] = {"overwrite": options.overwrite}
    turns = find_turns(image_dir, names, outputs / "turns.txt", options)
    feature_file = extract(image_dir, names, outputs / "features.h5", options, turns)
    pairs_file = choose_pairs(names, outputs, feature_file, options)
    match_file = matches.main(
        pairs_file, feature_file, outputs / "matches.h5",
        config=methods.match_config(options.method), device=options.device, **again,
    )  # fmt: skip
    photo_database.main(
        image_dir, pairs_file, feature_file, match_file, database,
        config=options.sfm, cameras=cameras, **again,
    )  # fmt: skip
    lookalikes = None
    if options.places:
        lookalikes = lookalike_pairs.main(database, outputs / lookalike_pairs.FILE, **again)
    models = structure_from_motion.main(
        image_dir, database, outputs / "sparse", config=options.sfm, given=cameras,
        lookalikes=lookalikes, **again,
    )  # fmt: skip
    alignments, failed = [], None
    try:
        alignments = align_models.main(outputs / "sparse", image_dir, positions, turns)
    except SamfeatError as error:
        failed = error
    figures = evaluate(outputs, options.method)
    left_out = structure_from_motion.left_out(names, models)
    if left_out:
        logger.warning(
            "models: %d of %d photos are in no model: %s",
            len(left_out), len(names), ", ".join(left_out),
        )  # fmt: skip
    degrees = {name: 90 * quarters for name, quarters in turns.items()}
    unused = lookalike_pairs.left_out_by(lookalikes)
    verified = lookalike_pairs.read(database)
    done = Reconstructed(
        models, len(names), figures, left_out, alignments, degrees, len(unused),
        [disagreeing(*verified, model, unused) for model in models],
    )  # fmt: skip
    for model, contradicted in done.suspicious:
        logger.warning(
            "%s: may be wrong: it contradicts %d pairs of photos that share much: %s; places "
            "that look alike may be joined in it",
            model, len(contradicted), some_of([" and ".join(pair) for pair in contradicted]),
        )  # fmt: skip
    configuration = {"images": image_dir.absolute(), **asdict(options)}
    content = {**done.as_json(), **measurement(configuration)}
    write_atomically(outputs / "summary.json", json.dumps(content, indent=1) + "\n")
    if failed is not None:
        raise failed
    return done


def _of_video(
    video: Path, outputs: Path, options: ReconstructOptions
) -> tuple[Path, ReconstructOptions]:
    """The folder of the chosen frames, and the options to reconstruct them."""
    folder = outputs / "frames"
    frames = video_frames.main(video, folder, motion=options.motion, overwrite=options.overwrite)
    if options.pairing == "auto" and len(frames) > MOST_EXHAUSTIVE:
        options = replace(options, pairing="sequence")
    if options.sfm.camera_mode == "auto":
        options = replace(options, sfm=replace(options.sfm, camera_mode="single"))
    return folder, options


def find_turns(
    image_dir: Path, names: list[str], output: Path, options: ReconstructOptions
) -> dict[str, int]:
    """The quarters by which photos stand turned, where that is asked for; see `turns.main`."""
    if not options.turns:
        return {}
    model, how = methods.load(
        options.method, options.weights, options.official_weights, device=options.device
    )
    return turns_stage.main(
        image_dir, names, output, model=model, extract=how, workers=options.workers,
        device=options.device, masks=None if options.masks is None else Masks(options.masks),
        overwrite=options.overwrite,
    )  # fmt: skip


def extract(
    image_dir: Path,
    names: list[str],
    output: Path,
    options: ReconstructOptions,
    turns: Mapping[str, int] | None = None,
) -> Path:
    """The features of a method; see `features.main`."""
    model, how = methods.load(
        options.method, options.weights, options.official_weights, device=options.device
    )
    return features.main(
        image_dir, names, output, model=model, options=PRESETS[options.preset], extract=how,
        workers=options.workers, overwrite=options.overwrite,
        masks=None if options.masks is None else Masks(options.masks), turns=turns,
    )  # fmt: skip


def choose_pairs(
    names: list[str], outputs: Path, feature_file: Path, options: ReconstructOptions
) -> Path:
    """The pairs file to match by: the one given, or all pairs, retrieved ones, or a sequence's.

    Raises:
        SamfeatError: a given list with names that are not among the images, or pairs in
            `outputs` that were created with other settings.
    """
    if options.pairs is not None:
        known = set(names)
        for name in (name for pair in read_pairs(options.pairs) for name in pair):
            if name not in known:
                raise SamfeatError(options.pairs, f"{name} is not in the image folder")
        return options.pairs
    exhaustive = options.pairing == "exhaustive"
    if options.pairing == "auto":
        exhaustive = len(names) <= MOST_EXHAUSTIVE
    again: dict[str, Any] = {"overwrite": options.overwrite}
    if exhaustive:
        return pairs_by_rule.exhaustive(names, outputs / "pairs-exhaustive.txt", **again)
    descriptors = global_descriptors.main(
        feature_file, names, [], outputs / "global-descriptors.h5", clusters=_CLUSTERS,
        device=options.device, **again,
    )  # fmt: skip
    if options.pairing == "sequence":
        return sequences.main(
            names, outputs / f"pairs-sequence{options.overlap}.txt", overlap=options.overlap,
            descriptors=descriptors, num_retrieved=options.num_retrieved, **again,
        )  # fmt: skip
    return pairs.from_retrieval(
        descriptors, names, names, outputs / f"pairs-vlad{options.num_retrieved}.txt",
        num_matched=options.num_retrieved, **again,
    )  # fmt: skip


def with_method(options: ReconstructOptions, method: str) -> ReconstructOptions:
    """The same options for another method's features."""
    return replace(options, method=method, weights=None, official_weights=False, turns=False)
