"""One photo after another against a map that is held in memory: nothing is written.

::

    localizer = Localizer.load("street.map")
    found = localizer.localize("photo.jpg")       # intrinsics from its EXIF
    found.pose, found.num_inliers, found.confidence, found.seconds

The stages are those of a run (extraction, VLAD retrieval, mutual nearest neighbours, lookalike
places, PnP) and so are the poses, given the same features, options and number of retrieved images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..colmap.absolute_pose import estimate_pose
from ..colmap.cameras import Camera
from ..colmap.focal_length import estimate_focal_length, refine_focal_length
from ..colmap.intrinsics import camera_from_exif, guessed_camera, rough_camera
from ..colmap.library import pycolmap
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..feature.extraction import extract_batch
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..files.image_forms import ImageLike, as_photo
from ..files.images import keypoints_to_stored, to_upright, turned
from ..localization.acceptance import MIN_INLIERS, confidence, least_inliers, refusal
from ..localization.correspondences import Correspondences, ImageMatches, merged
from ..localization.global_descriptors import vlad
from ..localization.matches import MatchConfig, match_many
from ..localization.places import Agreement, agreeing, most_promising
from . import saved_map
from .saved_map import FrozenImage, FrozenMap

NUM_RETRIEVED = 20
_MAX_DEVIATION = 0.1  # of a focal length that is found: one with more is not told by the photo
_CACHE_BYTES = 1 << 29  # of descriptors on the device


@dataclass(frozen=True, eq=False)
class QueryFeatures:
    """Local features of a photo.

    Attributes:
        keypoints: (N, 2) float64 pixels of the stored photo, its corner at (0, 0).
        descriptors: (N, D) float16, as feature files have them.
        size: width and height of the stored photo.
        global_descriptor: (K * D,) float32.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    size: tuple[int, int]
    global_descriptor: np.ndarray


@dataclass(frozen=True, eq=False)
class _Photo:
    """A photo as it is stored, its EXIF orientation, its intrinsics, whether the focal length is to
    be found, and the seconds spent on it so far."""

    stored: np.ndarray
    orientation: int
    camera: Camera
    refine: bool
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Posed:
    """A pose with its inliers, the correspondences, the images that they are of, and how often
    RANSAC was run for it."""

    pose: Pose | None
    inliers: np.ndarray
    found: Correspondences
    names: list[str]
    ransacs: int


@dataclass(frozen=True, eq=False)
class Localization:
    """Where a photo was taken.

    Attributes:
        pose: cam_from_world; None where the photo is not localized.
        refused: why it is not localized; None where it is.
        weak_pose: what was found of a photo that is not localized, if anything: as likely as not
            of another place.
        camera: the intrinsics that it was found with.
        focal_deviation: standard deviation, in pixels, of the focal length that was found with the
            pose; None where it is as it was given.
        num_keypoints: of the photo.
        num_matches: with keypoints of the images used that have a point.
        num_correspondences: different (keypoint, point) pairs among them.
        num_matched: different keypoints among them.
        inlier_keypoints: (I, 2) float64 pixels, the corner of the photo at (0, 0).
        inlier_points: (I,) int64, ids of the map's points; of the weak pose where it is one.
        retrieved: names of the database images used, most similar first, and their matches;
            those of lookalike places are left out.
        turned: degrees, clockwise, by which the photo was turned to be localized; the pose and all
            keypoints are of the photo as it is stored.
        num_ransacs: how often RANSAC was run: for a place each, for the pose, for the focal length.
        seconds: by stage: "read", "extract", "retrieve", "match", "places", "pose", and "total";
            "focal" where the focal length was looked for.
    """

    pose: Pose | None
    refused: str | None
    weak_pose: Pose | None
    camera: Camera
    focal_deviation: float | None
    num_keypoints: int
    num_matches: int
    num_correspondences: int
    num_matched: int
    inlier_keypoints: np.ndarray
    inlier_points: np.ndarray
    retrieved: list[tuple[str, int]]
    turned: int
    num_ransacs: int
    seconds: dict[str, float] = field(repr=False)

    @property
    def num_inliers(self) -> int:
        """Correspondences within the error bound of the pose."""
        return len(self.inlier_points)

    @property
    def confidence(self) -> float:
        """From 0 to 1: how probable it is that the photo shows what the map shows, where half of
        the photos do. See :func:`samfeat_hloc.localization.acceptance.confidence`.
        """
        return confidence(self.num_agreeing, self.num_matched)

    @property
    def num_agreeing(self) -> int:
        """Keypoints with an inlier: one counts once, however many of its points agree."""
        return len(np.unique(self.inlier_keypoints, axis=0))

    def as_json(self, *, weak: bool = False) -> dict[str, Any]:
        """All but the inliers themselves, as plain JSON values.

        Arguments:
            weak: give the pose of a photo that is not localized too.
        """
        pose = self.pose or (self.weak_pose if weak else None)
        return {
            "localized": self.pose is not None,
            "refused": self.refused,
            "qvec": None if pose is None else pose.qvec.tolist(),
            "tvec": None if pose is None else pose.tvec.tolist(),
            "camera": {
                "model": self.camera.model,
                "width": self.camera.width,
                "height": self.camera.height,
                "params": list(self.camera.params),
            },
            "focal_deviation": self.focal_deviation,
            "confidence": self.confidence,
            "num_keypoints": self.num_keypoints,
            "num_matches": self.num_matches,
            "num_correspondences": self.num_correspondences,
            "num_matched": self.num_matched,
            "num_inliers": self.num_inliers,
            "retrieved": self.retrieved,
            "turned": self.turned,
            "num_ransacs": self.num_ransacs,
            "seconds": self.seconds,
        }


class Localizer:
    """Localizes photos in a frozen map, and says which ones it does not show; threads may share
    one.

    Arguments:
        frozen: the map.
        model: the network that the map was made with, on the device to compute on.
        options: how photos are extracted; the map's way by default.
        num_retrieved: database images to match with each photo.
        max_error: of a pose's inliers, in pixels.
        places: leave out images of lookalike places, as a run does by default.
        min_inliers: keypoints that have to agree with a pose, at least; more where more have
            matches, see :mod:`samfeat_hloc.localization.acceptance`.
        refine_focal: find the focal length with the pose. None does so where it comes from EXIF, or
            where nothing is known of it.
        turns: try a photo that is not localized turned by 90, 180 and 270 degrees too, and take
            the turn with which most keypoints agree. Features match up to some 60 degrees of roll.

    Raises:
        SamfeatError: another network, or options that fit no photo.
    """

    def __init__(
        self,
        frozen: FrozenMap,
        model: SAMFeat,
        *,
        options: ExtractOptions | None = None,
        num_retrieved: int = NUM_RETRIEVED,
        max_error: float = 12.0,
        places: bool = True,
        min_inliers: int = MIN_INLIERS,
        refine_focal: bool | None = None,
        turns: bool = False,
    ) -> None:
        if model.weights_sha256 != frozen.weights_sha256:
            raise SamfeatError(
                "weights",
                (
                    f"the map was made with {frozen.weights_sha256[:12]}, these are "
                    f"{model.weights_sha256[:12]}"
                ),
                "give the map's checkpoint with --weights",
            )
        if num_retrieved < 1 or not max_error > 0:
            raise SamfeatError(
                f"num_retrieved {num_retrieved}, max_error {max_error}", "give numbers above 0"
            )
        self.map = frozen
        self.model = model
        self.options = options or frozen.extraction
        self.num_retrieved = num_retrieved
        self.max_error = max_error
        self.places = places
        self.min_inliers = min_inliers
        self.refine_focal = refine_focal
        self.turns = turns
        self._device = next(model.parameters()).device
        # of the images matched last, so that they are brought to the device once
        largest = max((image.descriptors.size for image in frozen.images), default=0) * 4
        count = max(num_retrieved, _CACHE_BYTES // max(largest, 1))
        self._descriptors = lru_cache(maxsize=count)(self._read_descriptors)

    @classmethod
    def load(
        cls,
        map_dir: str | Path,
        *,
        weights: str | Path | None = None,
        official_weights: bool = False,
        device: str | None = None,
        options: ExtractOptions | None = None,
        num_retrieved: int = NUM_RETRIEVED,
        max_error: float = 12.0,
        places: bool = True,
        min_inliers: int = MIN_INLIERS,
        refine_focal: bool | None = None,
        turns: bool = False,
    ) -> Localizer:
        """A localizer of a saved map and a checkpoint (the shipped one by default).

        Raises:
            SamfeatError: no map, a damaged one, no checkpoint, or not the map's.
        """
        frozen = saved_map.read(Path(map_dir))
        model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
        return cls(
            frozen, model, options=options, num_retrieved=num_retrieved, max_error=max_error,
            places=places, min_inliers=min_inliers, refine_focal=refine_focal,
            turns=turns,
        )  # fmt: skip

    def on(self, frozen: FrozenMap) -> Localizer:
        """This localizer on another state of its map."""
        other = copy.copy(self)
        other.map = frozen
        return other

    def localize(
        self, image: ImageLike, camera: Camera | pycolmap.Camera | None = None
    ) -> Localization:
        """The pose of one photo.

        Arguments:
            image: a path, array, Pillow image or tensor (see
                :data:`samfeat_hloc.files.image_forms.ImageLike`), as it is stored.
            camera: its intrinsics; None takes them from the EXIF of a file, or finds the focal
                length with the pose.

        Raises:
            SamfeatError: a photo that cannot be read, intrinsics of another size, or none where the
                focal length is not to be found.
        """
        photo = self._read(image, camera)
        upright = self._localize(photo, 0)
        if upright.pose is None and self.turns:
            # all three: a facade may look the same upside down
            tried = [self._localize(photo, quarters) for quarters in (1, 2, 3)]
            best = max(tried, key=lambda found: found.num_agreeing)
            return upright if best.pose is None else best
        return upright

    def _localize(self, photo: _Photo, quarters: int) -> Localization:
        """A photo turned clockwise; `photo.seconds` go on from one turn to the next."""
        with _Clock(photo.seconds).stage("extract"):
            features = self._features(photo.stored, turned(photo.orientation, quarters))
        found, _, _ = self.localize_features(
            features, photo.camera, photo.seconds, refine_focal=photo.refine
        )
        return replace(found, turned=90 * quarters)

    def localize_features(
        self,
        features: QueryFeatures,
        camera: Camera | pycolmap.Camera,
        seconds: dict[str, float] | None = None,
        *,
        refine_focal: bool = False,
    ) -> tuple[Localization, Correspondences, np.ndarray]:
        """As :meth:`localize`, from features; also all correspondences and which are inliers."""
        clock = _Clock(seconds)
        with clock.stage("retrieve"):
            retrieved = self.retrieve(features.global_descriptor)
        with clock.stage("match"):
            pairs = self.match(features, retrieved)
        return self.solve(
            features, camera, retrieved, pairs, clock.seconds, refine_focal=refine_focal
        )

    def solve(
        self,
        features: QueryFeatures,
        camera: Camera | pycolmap.Camera,
        retrieved: Sequence[FrozenImage],
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        seconds: dict[str, float] | None = None,
        *,
        refine_focal: bool = False,
    ) -> tuple[Localization, Correspondences, np.ndarray]:
        """As :meth:`localize_features`, from the matches with each retrieved image."""
        clock = _Clock(seconds)
        camera = Camera.of(camera)
        images = [with_points(*found) for found in zip(retrieved, pairs, strict=True)]
        posed, deviation, ransacs = None, None, 0
        if refine_focal:
            with clock.stage("focal"):
                rough = self._estimated(images, features, camera)
                ransacs += 1
            if rough is not None:
                posed = self._posed(images, features, rough, clock)
                ransacs += posed.ransacs
                with clock.stage("focal"):
                    refined = self._refined(posed, features, rough)
                if refined is not None:
                    posed, camera, deviation = refined
                else:
                    posed = None
        if posed is None:
            posed = self._posed(images, features, camera, clock)
            ransacs += posed.ransacs
        found, inliers = posed.found, posed.inliers
        matched = len(np.unique(found.keypoints))
        refused = refusal(len(np.unique(found.keypoints[inliers])), matched, self.min_inliers)
        localization = Localization(
            pose=posed.pose if refused is None else None,
            refused=refused,
            weak_pose=None if refused is None else posed.pose,
            camera=camera,
            focal_deviation=deviation,
            num_keypoints=len(features.keypoints),
            num_matches=sum(found.matches_per_image),
            num_correspondences=len(found.keypoints),
            num_matched=matched,
            inlier_keypoints=features.keypoints[found.keypoints[inliers]],
            inlier_points=self.map.point_ids[found.points[inliers]],
            retrieved=list(zip(posed.names, found.matches_per_image, strict=True)),
            turned=0,
            num_ransacs=ransacs,
            seconds=clock.seconds,
        )
        return localization, found, inliers

    def _posed(
        self, images: list[ImageMatches], features: QueryFeatures, camera: Camera, clock: _Clock
    ) -> _Posed:
        """The pose with these intrinsics."""
        intrinsics = camera.to_pycolmap()
        agreement = Agreement(images)
        with clock.stage("places"):
            if self.places:
                agreement = agreeing(
                    images, self.map.xyz, intrinsics, features.keypoints, max_error=self.max_error
                )
        with clock.stage("pose"):
            found = merged(agreement.images)
            solved = agreement.solved or estimate_pose(
                features.keypoints[found.keypoints],
                self.map.xyz[found.points],
                intrinsics,
                max_error=self.max_error,
            )
        pose, inliers = solved or (None, np.zeros(len(found.keypoints), dtype=bool))
        ransacs = agreement.ransacs + (agreement.solved is None)
        return _Posed(pose, inliers, found, [image.name for image in agreement.images], ransacs)

    def _estimated(
        self, images: list[ImageMatches], features: QueryFeatures, camera: Camera
    ) -> Camera | None:
        """The camera with the focal length that the most promising place tells."""
        found = merged(most_promising(images))
        estimated = estimate_focal_length(
            features.keypoints[found.keypoints], self.map.xyz[found.points], camera.to_pycolmap(),
            max_error=self.max_error,
            min_inliers=least_inliers(len(np.unique(found.keypoints)), self.min_inliers),
        )  # fmt: skip
        return None if estimated is None else Camera.of(estimated)

    def _refined(
        self, posed: _Posed, features: QueryFeatures, camera: Camera
    ) -> tuple[_Posed, Camera, float] | None:
        """Pose and focal length from all inliers; None where these do not tell the latter."""
        if posed.pose is None:
            return None
        refined = refine_focal_length(
            features.keypoints[posed.found.keypoints[posed.inliers]],
            self.map.xyz[posed.found.points[posed.inliers]],
            posed.pose,
            camera.to_pycolmap(),
        )
        if refined is None:
            return None
        pose, intrinsics, deviation = refined
        if deviation > _MAX_DEVIATION * intrinsics.mean_focal_length():
            return None
        return replace(posed, pose=pose), Camera.of(intrinsics), deviation

    def retrieve(self, global_descriptor: np.ndarray) -> list[FrozenImage]:
        """The map's most similar images; of equally similar ones the earlier first."""
        similarity = self.map.global_descriptors @ global_descriptor
        best = np.argsort(-similarity, kind="stable")[: self.num_retrieved]
        return [self.map.images[row] for row in best if similarity[row] >= 0]

    def match(
        self, features: QueryFeatures, images: Sequence[FrozenImage]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """With each image the matches: (K,) int64 rows of the photo's and of its keypoints."""
        query = self._on_device(features.descriptors)
        both = ((query, self._descriptors(image)) for image in images)
        pairs = []
        for group in match_many(both, MatchConfig(), workers=1):
            matches0 = group.datasets["matches0"].astype(np.int64)
            index = np.flatnonzero(matches0 >= 0)
            pairs.append((index, matches0[index]))
        return pairs

    def _read_descriptors(self, image: FrozenImage) -> torch.Tensor:
        return self._on_device(image.descriptors)

    def _on_device(self, descriptors: np.ndarray) -> torch.Tensor:
        """(N, D) float16 to (D, N) float32."""
        return torch.from_numpy(descriptors).to(self._device).float().t()

    def extract(
        self, image: ImageLike, camera: Camera | pycolmap.Camera | None = None
    ) -> tuple[QueryFeatures, Camera, bool]:
        """Features of a photo, its intrinsics, and whether the focal length is to be found.

        As :meth:`localize` takes them; the photo is not turned.
        """
        photo = self._read(image, camera)
        return self._features(photo.stored, photo.orientation), photo.camera, photo.refine

    def _read(self, image: ImageLike, camera: Camera | pycolmap.Camera | None) -> _Photo:
        clock = _Clock()
        with clock.stage("read"):
            stored, orientation = as_photo(image)
            size = (stored.shape[1], stored.shape[0])
            refine = camera is None if self.refine_focal is None else self.refine_focal
            if camera is not None:
                intrinsics = Camera.of(camera)
            elif not isinstance(image, (str, Path)):
                if not refine:
                    raise SamfeatError(
                        "camera",
                        "none was given, and only files have EXIF to read it from",
                        "give it, or let the focal length be refined",
                    )
                intrinsics = guessed_camera(*size)
            else:
                intrinsics = rough_camera(Path(image)) if refine else camera_from_exif(Path(image))
            _check_size(image, intrinsics, size)
        return _Photo(stored, orientation, intrinsics, refine, clock.seconds)

    def _features(self, stored: np.ndarray, orientation: int) -> QueryFeatures:
        upright = to_upright(stored, orientation) if orientation != 1 else stored
        found = extract_batch(self.model, [upright], self.options)[0]
        keypoints = found["keypoints"].astype(np.float32).reshape(-1, 2)
        size = (stored.shape[1], stored.shape[0])
        if orientation != 1:
            keypoints = keypoints_to_stored(keypoints, orientation, size)
        descriptors = np.ascontiguousarray(found["descriptors"].T.astype(np.float16))
        return QueryFeatures(
            keypoints=keypoints.astype(np.float64) + 0.5,
            descriptors=descriptors,
            size=size,
            global_descriptor=vlad(descriptors.astype(np.float32), self.map.vocabulary),
        )


def with_points(image: FrozenImage, pair: tuple[np.ndarray, np.ndarray]) -> ImageMatches:
    """The matches with keypoints that have a point."""
    rows = image.points[pair[1]].astype(np.int64)
    seen = rows >= 0
    return ImageMatches(image.name, image.points[image.points >= 0], pair[0][seen], rows[seen])


def _check_size(image: ImageLike, camera: Camera, size: tuple[int, int]) -> None:
    """A SamfeatError where intrinsics are not those of a photo of this size as it is stored."""
    wanted = (camera.width, camera.height)
    if size == wanted:
        return
    name = str(image) if isinstance(image, (str, Path)) else "the image"
    mend = "give the intrinsics of the image as it is stored"
    raise SamfeatError(
        name,
        (f"it is {size[0]}x{size[1]} but its intrinsics are for {wanted[0]}x{wanted[1]}"),
        mend,
    )


class _Clock:
    """Seconds by stage, and their sum."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = {} if seconds is None else seconds
        self.seconds.setdefault("total", 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.seconds["total"] += seconds
