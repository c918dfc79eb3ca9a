"""Read a reconstruction or a saved map, and keep what its report shows: photos, and no queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ..colmap.alignment import Alignment
from ..colmap.cameras import CAMERA_MODELS, Camera
from ..colmap.disagreement import SUSPICIOUS
from ..colmap.lookalike_pairs import FILE as LOOKALIKES
from ..colmap.lookalike_pairs import left_out_by
from ..colmap.structure_from_motion import models as models_in
from ..colmap.unplaced import Unplaced, unplaced
from ..errors import SamfeatError
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.images import read_image
from ..maps import saved_map
from ..pipelines.align_models import alignments_in, in_words
from ..progress import tqdm
from .contents import MatchPicture, ModelReport, PhotoReport, PhotosReport, ReportOptions, Scene
from .gather import read_summary, records_of
from .match_pictures import choose_pictures, match_picture, some
from .photos import ReportPhoto, relative, small
from .placed import ModelFigures, PlacedModel, PlacedPhoto, figures_of, of_map, of_model
from .scene import camera_size, choose_points, places, tangents, upright_frame

_POINTS_PER_PHOTO = 256
_NEIGHBOURS = 30


def is_photos(path: Path) -> bool:
    """Whether the folder is a saved map, or the outputs of a reconstruction without queries."""
    return is_map(path) or ((path / "sparse").is_dir() and not (path / "poses.txt").is_file())


def gather_photos(
    source: Path,
    images: Path | None = None,
    options: ReportOptions | None = None,
) -> PhotosReport:
    """Read a reconstruction or a saved map.

    Args:
        source: the outputs folder of `samfeat reconstruct`, or a saved map.
        images: folder of the photos; without it the one that summary.json names, if it is there.
        options: see `ReportOptions`.

    Raises:
        SamfeatError: a file is missing or damaged, or files are not of the same reconstruction.
    """
    options = options or ReportOptions()
    notes: list[str] = []
    summary: dict[str, Any] = {}
    records: dict[str, dict[str, Any]] = {}
    left_out: dict[str, Unplaced] = {}
    with ExitStack() as stack:
        features = matches = None
        if is_map(source):
            models = [of_map(source)]
        else:
            summary = read_summary(source / "summary.json")
            records = records_of(source)
            folders = models_in(source / "sparse")
            if not folders:
                raise SamfeatError(source / "sparse", "no model in it", "reconstruct again")
            models = [of_model(folder, source / "features.h5") for folder in folders]
            lookalikes = _lookalikes(source, summary, notes)
            left_out = _left_out(source / "database.db", models, lookalikes, notes)
            features = stack.enter_context(FeatureReader(source / "features.h5"))
            if (source / "matches.h5").is_file():
                matches = stack.enter_context(MatchReader(source / "matches.h5"))
        image_dir = _image_dir(images, summary, notes)
        notes += [] if is_map(source) else _on_scale(source / "sparse", len(models))
        notes += _doubts(summary)
        looks = _look(models, left_out, image_dir, notes, options.workers)
        names = sorted({*(p.name for m in models for p in m.photos), *left_out})
        figures = [figures_of(model) for model in models]
        reports, shown = [], []
        for model, figure in zip(models, figures, strict=True):
            scene, rows = _scene(model, _colors(model, looks, notes), names, options.max_points)
            reports.append(
                ModelReport(scene, figure.track_lengths, figure.errors, len(model.photos))
            )
            shown.append(rows)
            if len(rows) < len(model.xyz):
                notes.append(
                    f"The 3-D view has {len(rows):,} of a model's {len(model.xyz):,} points."
                )
        pictures = _pictures(
            models, figures, left_out, image_dir, features, matches, options, notes
        )
        found = _placed(models, figures, shown, names, looks, pictures)
        for name, why in left_out.items():
            keypoints = features.count(name) if features and features.has(name) else None
            partner = [] if why.partner is None else [(names.index(why.partner), len(why.verified))]
            found[name] = PhotoReport(
                name, None, why.reason, keypoints, 0, float("nan"), float("nan"), "", partner,
                np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.uint16),
                looks[name][0] if name in looks else None, pictures.get(name),
            )  # fmt: skip
    photos = [found[name] for name in names]
    return PhotosReport(source.resolve().name, summary, records, reports, photos, notes)


def is_map(path: Path) -> bool:
    """Whether the folder is a saved map."""
    return (path / saved_map.MANIFEST).is_file()


def _on_scale(sparse: Path, count: int) -> list[str]:
    """What the unit and the axes of each of so many models are."""
    done = alignments_in(sparse) or [Alignment("none", False)] * count
    notes = []
    if count > 1:
        own = "" if all(a.metric for a in done) else "; each has a frame and a scale of its own"
        notes.append(f"The photos fell into {count} models that do not connect{own}.")
    for number, alignment in enumerate(done, start=1):
        which = f"Model {number}, " if count > 1 else ""
        line = which + in_words(alignment)
        notes.append(f"{line[0].upper()}{line[1:]}.")
    return notes


def _lookalikes(
    source: Path, summary: Mapping[str, Any], notes: list[str]
) -> list[tuple[str, str]]:
    """The verified pairs that this reconstruction left out."""
    if not summary.get("lookalike_pairs"):
        return []
    pairs = left_out_by(source / LOOKALIKES)
    notes.append(
        f"{summary['lookalike_pairs']:,} verified pairs were left out, as they would join places "
        f"that look alike ({LOOKALIKES}; samfeat reconstruct --no-places keeps them)."
    )
    return pairs


def _doubts(summary: Mapping[str, Any]) -> list[str]:
    """Which models may have joined places that look alike."""
    return [
        f"Model {number} may be wrong: it contradicts {len(pairs)} pairs of photos that share "
        f"much ({', '.join(' and '.join(pair) for pair in pairs[:3])})."
        for number, pairs in enumerate(summary.get("disagreeing_pairs", []), start=1)
        if len(pairs) >= SUSPICIOUS
    ]


def _left_out(
    database: Path,
    models: Sequence[PlacedModel],
    lookalikes: Sequence[tuple[str, str]],
    notes: list[str],
) -> dict[str, Unplaced]:
    if not database.is_file():
        notes.append(f"Without photos that are in no model: {database.name} is not there.")
        return {}
    placed = {photo.name for model in models for photo in model.photos}
    return unplaced(database, placed, lookalikes)


def _image_dir(given: Path | None, summary: Mapping[str, Any], notes: list[str]) -> Path | None:
    if given is not None:
        if not given.is_dir():
            raise SamfeatError(given, "no such folder", "give the folder of the photos")
        return given
    configuration = summary.get("configuration")
    named = configuration.get("images") if isinstance(configuration, dict) else None
    if isinstance(named, str) and Path(named).is_dir():
        return Path(named)
    where = f"their folder {named} is not there" if named else "no folder was given"
    notes.append(f"Without photos: {where} (--images).")
    return None


def _look(
    models: Sequence[PlacedModel],
    left_out: Mapping[str, Unplaced],
    image_dir: Path | None,
    notes: list[str],
    workers: int,
) -> dict[str, tuple[ReportPhoto, np.ndarray]]:
    """A thumbnail of every photo that can be read, and its colours at the keypoints with points."""
    if image_dir is None:
        return {}
    none = np.zeros((0, 2))
    wanted = [(p.name, p.keypoints[p.seen]) for model in models for p in model.photos]
    wanted += [(name, none) for name in left_out]

    def read(item: tuple[str, np.ndarray]) -> tuple[ReportPhoto, np.ndarray] | None:
        name, xy = item
        try:
            image = read_image(image_dir / name)
        except SamfeatError:
            return None
        height, width = image.shape[:2]
        x, y = np.floor(xy).astype(int).T
        return small(image), image[y.clip(0, height - 1), x.clip(0, width - 1)]

    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        read_in_turn = pool.map(read, wanted)
        found = list(tqdm(read_in_turn, total=len(wanted), desc="photos", unit="photo", delay=1))
    unread = sorted(name for (name, _), look in zip(wanted, found, strict=True) if look is None)
    if unread:
        notes.append(
            f"{len(unread)} of {len(wanted)} photos are not shown, as they are missing or broken: "
            f"{', '.join(unread[:5])}"
        )
    looks = zip(wanted, found, strict=True)
    return {name: look for (name, _), look in looks if look is not None}


def _colors(
    model: PlacedModel, looks: Mapping[str, tuple[ReportPhoto, np.ndarray]], notes: list[str]
) -> np.ndarray:
    """Of the points, (P, 3) uint8: the model's, or the photos', or by height."""
    if model.colors is not None and model.colors.any():
        return model.colors
    if looks:
        colors = np.full((len(model.xyz), 3), 128, dtype=np.uint8)
        for photo in model.photos:
            if photo.name in looks:
                colors[photo.points[photo.seen]] = looks[photo.name][1]
        return colors
    notes.append("The points' colours say how high they are: there are no photos to take them of.")
    height = upright_frame([p.pose for p in model.photos]).points(model.xyz)[:, 2]
    if not len(height):
        return np.zeros((0, 3), dtype=np.uint8)
    low, high = np.percentile(height, [3, 97])
    share = np.clip((height - low) / max(high - low, 1e-9), 0, 1)
    return (matplotlib.colormaps["viridis"](0.15 + 0.85 * share)[:, :3] * 255).astype(np.uint8)


def _scene(
    model: PlacedModel, colors: np.ndarray, names: Sequence[str], max_points: int
) -> tuple[Scene, np.ndarray]:
    """The view of a model, and the rows of its points in it."""
    frame = upright_frame([photo.pose for photo in model.photos])
    seen = [photo.points[photo.seen] for photo in model.photos]
    shown = choose_points(len(model.xyz), seen, max_points)
    by_name = {photo.name: photo for photo in model.photos}
    poses = frame.poses(
        [by_name[name].pose if name in by_name else None for name in names],
        [tangents(by_name[name].camera if name in by_name else None) for name in names],
    )
    there = np.flatnonzero([name in by_name for name in names])
    found = places(
        frame.points(model.xyz),
        [by_name[name].points if name in by_name else np.zeros(0, np.int32) for name in names],
        poses[:, :3],
        there,
    )
    size = camera_size(poses[there, :3], found[0].radius)
    unknown = np.full_like(poses, np.nan)
    return Scene(
        frame.points(model.xyz[shown]), colors[shown], len(model.xyz), found, size, poses, poses,
        unknown,
    ), shown  # fmt: skip


def _pictures(
    models: Sequence[PlacedModel],
    figures: Sequence[ModelFigures],
    left_out: Mapping[str, Unplaced],
    image_dir: Path | None,
    features: FeatureReader | None,
    matches: MatchReader | None,
    options: ReportOptions,
    notes: list[str],
) -> dict[str, MatchPicture]:
    """Photos beside those that share most with them: all in no model, then those of few points."""
    if image_dir is None:
        return {}
    pairs: list[tuple[int, str, Any]] = []  # points of the photo, its name, how to draw it
    for model, figure in zip(models, figures, strict=True):
        for photo, shared in zip(model.photos, figure.shared, strict=True):
            if shared.any():
                other = model.photos[int(np.argmax(shared))]
                pairs.append((len(photo.seen), photo.name, (photo, other)))
    for name, why in left_out.items():
        if why.partner is not None and features is not None:
            pairs.append((-1, name, why))
    pairs.sort(key=lambda pair: pair[:2])
    chosen = [pairs[i] for i in choose_pictures(range(len(pairs)), options.max_pictures)]
    if len(chosen) < len(pairs):
        notes.append(
            f"{len(chosen)} of {len(pairs)} photos have a picture of their matches: those with the "
            "fewest points, and some of all others (--max-pictures); all have a thumbnail."
        )

    def draw(item: tuple[int, str, Any]) -> MatchPicture | None:
        _, name, of = item
        if isinstance(of, Unplaced):
            assert features is not None and of.partner is not None
            keypoints = features.keypoints(name), features.keypoints(of.partner)
            counts = len(keypoints[0]), len(keypoints[1])
            known = matches is not None and matches.has(name, of.partner)
            pair = matches.matches(name, of.partner, counts) if known and matches else of.verified
            agreeing = _among(pair, of.verified)
            other = of.partner
        else:
            photo, partner = of
            keypoints, other = (photo.keypoints, partner.keypoints), partner.name
            pair = _same_points(photo, partner)
            if matches is not None and matches.has(name, other):
                counts = len(keypoints[0]), len(keypoints[1])
                direct = matches.matches(name, other, counts)
                pair = np.unique(np.vstack([direct, pair]), axis=0)  # tracks join others too
            a, b = photo.points[pair[:, 0]], partner.points[pair[:, 1]]
            agreeing = (a >= 0) & (a == b)
        return match_picture(image_dir / name, image_dir / other, other, keypoints, pair, agreeing)

    with ThreadPoolExecutor(max_workers=max(options.workers, 1)) as pool:
        in_turn = pool.map(draw, chosen)
        drawn = list(tqdm(in_turn, total=len(chosen), desc="matches", unit="photo", delay=1))
    return {
        name: picture
        for (_, name, _), picture in zip(chosen, drawn, strict=True)
        if picture is not None
    }


def _same_points(one: PlacedPhoto, other: PlacedPhoto) -> np.ndarray:
    """(K, 2) keypoints of two photos that are the same point."""
    mine, theirs = one.seen, other.seen
    _, a, b = np.intersect1d(one.points[mine], other.points[theirs], return_indices=True)
    return np.column_stack([mine[a], theirs[b]])


def _among(pair: np.ndarray, verified: np.ndarray) -> np.ndarray:
    """Which rows of (K, 2) are rows of (L, 2)."""
    size = int(max(pair.max(initial=0), verified.max(initial=0))) + 1
    return np.isin(pair @ [size, 1], verified @ [size, 1])


def _placed(
    models: Sequence[PlacedModel],
    figures: Sequence[ModelFigures],
    shown: Sequence[np.ndarray],
    names: Sequence[str],
    looks: Mapping[str, tuple[ReportPhoto, np.ndarray]],
    pictures: Mapping[str, MatchPicture],
) -> dict[str, PhotoReport]:
    """The photos of the models, by name; of one that is in several, as it is in the largest."""
    number = {name: row for row, name in enumerate(names)}
    found: dict[str, PhotoReport] = {}
    for index, (model, figure, rows) in enumerate(zip(models, figures, shown, strict=True)):
        for row, photo in enumerate(model.photos):
            if photo.name in found:
                continue
            seen = photo.seen
            at = np.flatnonzero(np.isin(rows, photo.points[seen]))
            shared = figure.shared[row]
            best = np.argsort(-shared, kind="stable")[:_NEIGHBOURS]
            look = looks.get(photo.name)
            xy = np.zeros((0, 2), dtype=np.uint16)
            if look is not None:
                drawn = seen[some(len(seen), _POINTS_PER_PHOTO)]
                xy = relative(photo.keypoints[drawn], look[0].size)
            found[photo.name] = PhotoReport(
                photo.name, index, "", len(photo.keypoints), len(seen),
                float(figure.photo_errors[row]), float(figure.photo_tracks[row]),
                _in_words(photo.camera),
                [(number[model.photos[i].name], int(shared[i])) for i in best if shared[i]],
                at[some(len(at), _POINTS_PER_PHOTO)], xy, look[0] if look else None,
                pictures.get(photo.name),
            )  # fmt: skip
    return found


def _in_words(camera: Camera) -> str:
    focal = ""
    if CAMERA_MODELS[camera.model][2]:
        focal = f", focal length {camera.params[0]:.0f} px"
    return f"{camera.model} {camera.width} x {camera.height}{focal}"
