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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..colmap.absolute_pose import estimate_pose
from ..colmap.cameras import Camera
from ..colmap.intrinsics import camera_from_exif
from ..colmap.library import pycolmap
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..feature.extraction import extract_batch
from ..feature.matching import nearest_neighbours
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..files.image_forms import ImageLike, as_photo
from ..files.images import keypoints_to_stored, to_upright
from ..localization.correspondences import Correspondences, ImageMatches, merged
from ..localization.global_descriptors import vlad
from ..localization.places import agreeing
from . import saved_map
from .saved_map import FrozenImage, FrozenMap

NUM_RETRIEVED = 20
_HALF_CONFIDENCE = 20  # inliers that a confidence of a half takes


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
class Localization:
    """Where a photo was taken.

    Attributes:
        pose: cam_from_world; None where no pose was found.
        camera: the intrinsics that it was found with.
        num_keypoints: of the photo.
        num_matches: with keypoints of the images used that have a point.
        num_correspondences: different (keypoint, point) pairs among them.
        inlier_keypoints: (I, 2) float64 pixels, the corner of the photo at (0, 0).
        inlier_points: (I,) int64, ids of the map's points.
        retrieved: names of the database images used, most similar first, and their matches;
            those of lookalike places are left out.
        seconds: by stage: "read", "extract", "retrieve", "match", "places", "pose", and "total".
    """

    pose: Pose | None
    camera: Camera
    num_keypoints: int
    num_matches: int
    num_correspondences: int
    inlier_keypoints: np.ndarray
    inlier_points: np.ndarray
    retrieved: list[tuple[str, int]]
    seconds: dict[str, float] = field(repr=False)

    @property
    def num_inliers(self) -> int:
        """Correspondences within the error bound of the pose."""
        return len(self.inlier_points)

    @property
    def confidence(self) -> float:
        """From 0 (no pose) towards 1: n / (n + 20) for n keypoints that agree with the pose.

        A keypoint counts once, however many of its points agree. It orders poses by their
        support, and is no probability: a place that looks like another has support too.
        """
        agreeing = len(np.unique(self.inlier_keypoints, axis=0))
        return agreeing / (agreeing + _HALF_CONFIDENCE)

    def as_json(self) -> dict[str, Any]:
        """All but the inliers themselves, as plain JSON values."""
        pose = self.pose
        return {
            "localized": pose is not None,
            "qvec": None if pose is None else pose.qvec.tolist(),
            "tvec": None if pose is None else pose.tvec.tolist(),
            "camera": {
                "model": self.camera.model,
                "width": self.camera.width,
                "height": self.camera.height,
                "params": list(self.camera.params),
            },
            "confidence": self.confidence,
            "num_keypoints": self.num_keypoints,
            "num_matches": self.num_matches,
            "num_correspondences": self.num_correspondences,
            "num_inliers": self.num_inliers,
            "retrieved": self.retrieved,
            "seconds": self.seconds,
        }


class Localizer:
    """Localizes photos in a frozen map; threads may share one.

    Arguments:
        frozen: the map.
        model: the network that the map was made with, on the device to compute on.
        options: how photos are extracted; the map's way by default.
        num_retrieved: database images to match with each photo.
        max_error: of a pose's inliers, in pixels.
        places: leave out images of lookalike places, as a run does by default.

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
        self._device = next(model.parameters()).device

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
    ) -> Localizer:
        """A localizer of a saved map and a checkpoint (the shipped one by default).

        Raises:
            SamfeatError: no map, a damaged one, no checkpoint, or not the map's.
        """
        frozen = saved_map.read(Path(map_dir))
        model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
        return cls(
            frozen, model, options=options, num_retrieved=num_retrieved, max_error=max_error,
            places=places,
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
            camera: its intrinsics; None takes them from the EXIF of a file.

        Raises:
            SamfeatError: a photo that cannot be read, no intrinsics, or those of another size.
        """
        return self.localize_features(*self._extracted(image, camera))[0]

    def localize_features(
        self,
        features: QueryFeatures,
        camera: Camera | pycolmap.Camera,
        seconds: dict[str, float] | None = None,
    ) -> tuple[Localization, Correspondences, np.ndarray]:
        """As :meth:`localize`, from features; also all correspondences and which are inliers."""
        clock = _Clock(seconds)
        with clock.stage("retrieve"):
            retrieved = self.retrieve(features.global_descriptor)
        with clock.stage("match"):
            pairs = self.match(features, retrieved)
        return self.solve(features, camera, retrieved, pairs, clock.seconds)

    def solve(
        self,
        features: QueryFeatures,
        camera: Camera | pycolmap.Camera,
        retrieved: Sequence[FrozenImage],
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        seconds: dict[str, float] | None = None,
    ) -> tuple[Localization, Correspondences, np.ndarray]:
        """As :meth:`localize_features`, from the matches with each retrieved image."""
        clock = _Clock(seconds)
        camera = Camera.of(camera)
        intrinsics = camera.to_pycolmap()
        images = [with_points(*found) for found in zip(retrieved, pairs, strict=True)]
        solved = None
        with clock.stage("places"):
            if self.places:
                agreement = agreeing(
                    images, self.map.xyz, intrinsics, features.keypoints, max_error=self.max_error
                )
                images, solved = agreement.images, agreement.solved
        with clock.stage("pose"):
            found = merged(images)
            solved = solved or estimate_pose(
                features.keypoints[found.keypoints],
                self.map.xyz[found.points],
                intrinsics,
                max_error=self.max_error,
            )
        pose, inliers = solved or (None, np.zeros(len(found.keypoints), dtype=bool))
        names = [image.name for image in images]
        localization = Localization(
            pose=pose,
            camera=camera,
            num_keypoints=len(features.keypoints),
            num_matches=sum(found.matches_per_image),
            num_correspondences=len(found.keypoints),
            inlier_keypoints=features.keypoints[found.keypoints[inliers]],
            inlier_points=self.map.point_ids[found.points[inliers]],
            retrieved=list(zip(names, found.matches_per_image, strict=True)),
            seconds=clock.seconds,
        )
        return localization, found, inliers

    def extract_with_camera(
        self, image: ImageLike, camera: Camera | pycolmap.Camera | None = None
    ) -> tuple[QueryFeatures, Camera]:
        """Features of a photo and its intrinsics, as :meth:`localize` takes them."""
        return self._extracted(image, camera)[:2]

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
        pairs = []
        for image in images:
            matches, _ = nearest_neighbours(query, self._on_device(image.descriptors))
            matches0 = matches.cpu().numpy()
            index = np.flatnonzero(matches0 >= 0)
            pairs.append((index, matches0[index]))
        return pairs

    def _on_device(self, descriptors: np.ndarray) -> torch.Tensor:
        """(N, D) float16 to (D, N) float32."""
        return torch.from_numpy(descriptors).to(self._device).float().t()

    def _extracted(
        self, image: ImageLike, camera: Camera | pycolmap.Camera | None
    ) -> tuple[QueryFeatures, Camera, dict[str, float]]:
        clock = _Clock()
        with clock.stage("read"):
            stored, orientation = as_photo(image)
            if camera is not None:
                camera = Camera.of(camera)
            elif isinstance(image, (str, Path)):
                camera = camera_from_exif(Path(image))
            else:
                raise SamfeatError(
                    "camera", "none was given, and only files have EXIF to read it from", "give it"
                )
            _check_size(image, camera, (stored.shape[1], stored.shape[0]))
        with clock.stage("extract"):
            features = self._features(stored, orientation)
        return features, camera, clock.seconds

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
        self.seconds = {"total": 0.0} if seconds is None else seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.seconds["total"] += self.seconds[name]
