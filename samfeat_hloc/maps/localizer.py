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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..colmap.cameras import Camera
from ..colmap.library import pycolmap
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..feature.extraction import Masked, extract_batch
from ..feature.halves import as_halves
from ..feature.matching_batches import takes_halves
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..files.image_forms import ImageLike
from ..files.masks import MaskLike
from ..files.orientation import keypoints_to_stored, to_upright, turned
from ..localization.acceptance import refusal, squares
from ..localization.correspondences import Correspondences
from ..localization.matches import MatchConfig, match_many
from ..localization.vocabulary import vlad
from ..parallel.workers import Workers, sharing_torch
from . import posing, rigs, saved_map
from .localization import Clock, Localization
from .localizer_settings import LocalizerSettings
from .query import Photo, QueryFeatures, read_photo
from .rigs import RigLocalization
from .saved_map import FrozenImage, FrozenMap

_SIDE_BY_SIDE = 8  # photos at most
_CACHE_BYTES = 1 << 29  # of descriptors on the device


class Localizer:
    """Localizes photos in a frozen map, and says which ones it does not show; threads may share
    one.

    Arguments:
        frozen: the map.
        model: the network that the map was made with, on the device to compute on.
        settings: how photos are localized.
        changes: settings by their names, such as ``num_retrieved=50``; see
            :class:`samfeat_hloc.maps.localizer_settings.LocalizerSettings`.

    Raises:
        SamfeatError: another network, or options that fit no photo.
    """

    def __init__(
        self,
        frozen: FrozenMap,
        model: SAMFeat,
        settings: LocalizerSettings | None = None,
        **changes: Any,
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
        self.map = frozen
        self.model = model
        self.settings = replace(settings or LocalizerSettings(), **changes)
        self._device = next(model.parameters()).device
        self._words = torch.tensor(frozen.vocabulary, device=self._device)
        # of the images matched last, so that they are brought to the device once
        largest = max((image.descriptors.size for image in frozen.images), default=0) * 4
        count = max(self.settings.num_retrieved, _CACHE_BYTES // max(largest, 1))
        self._descriptors = lru_cache(maxsize=count)(self._read_descriptors)

    @classmethod
    def load(
        cls,
        map_dir: str | Path,
        settings: LocalizerSettings | None = None,
        *,
        weights: str | Path | None = None,
        official_weights: bool = False,
        device: str | None = None,
        **changes: Any,
    ) -> Localizer:
        """A localizer of a saved map and a checkpoint (the shipped one by default).

        Raises:
            SamfeatError: no map, a damaged one, no checkpoint, or not the map's.
        """
        if not isinstance(map_dir, (str, Path)):
            raise SamfeatError(
                "map_dir", f"a {type(map_dir).__name__} was given", "give the folder of a saved map"
            )
        settings = replace(settings or LocalizerSettings(), **changes)  # before the map is read
        frozen = saved_map.read(Path(map_dir))
        model = SAMFeat.from_pretrained(weights, official=official_weights, device=device)
        return cls(frozen, model, settings)

    @property
    def options(self) -> ExtractOptions:
        """How photos are extracted: as the settings say, or the map's way."""
        return self.settings.options or self.map.extraction

    def on(self, frozen: FrozenMap) -> Localizer:
        """This localizer on another state of its map."""
        other = copy.copy(self)
        other.map = frozen
        other._words = torch.tensor(frozen.vocabulary, device=self._device)
        return other

    def localize(
        self,
        image: ImageLike,
        camera: Camera | pycolmap.Camera | None = None,
        *,
        mask: MaskLike | None = None,
    ) -> Localization:
        """The pose of one photo.

        Arguments:
            image: a path, array, Pillow image or tensor (see
                :data:`samfeat_hloc.files.image_forms.ImageLike`), as it is stored.
            camera: its intrinsics; None takes them from the EXIF of a file, or finds the focal
                length with the pose.
            mask: (H, W), 0 where the photo is to be left out, in any form of
                :data:`samfeat_hloc.files.masks.MaskLike`; of the photo as it is stored.

        Raises:
            SamfeatError: a photo that cannot be read, intrinsics or a mask of another size, or no
                intrinsics where the focal length is not to be found.
        """
        seconds: dict[str, float] = {}
        with Clock(seconds).stage("read"):
            photo = read_photo(image, camera, self.settings.refine_focal, mask)
        upright = self._localize(photo, 0, seconds)
        if upright.pose is None and self.settings.turns:
            # all three: a facade may look the same upside down
            tried = [self._localize(photo, quarters, seconds) for quarters in (1, 2, 3)]
            best = max(tried, key=lambda found: found.num_agreeing)
            return upright if best.pose is None else best
        return upright

    def localize_many(
        self, photos: Iterable[tuple[ImageLike, Camera | pycolmap.Camera | None, MaskLike | None]]
    ) -> Iterator[Localization | SamfeatError]:
        """Several photos side by side; results come in their order.

        One thread a photo loses less than threads that share one: on a CPU as many photos as torch
        has threads, at most eight; on a GPU two, one of which is read and solved beside it.

        Arguments:
            photos: with what :meth:`localize` takes of each, image, camera and mask; only a few
                are taken before their results are.

        Returns:
            What :meth:`localize` finds, or the error that it raises.
        """

        def tried(
            photo: tuple[ImageLike, Camera | pycolmap.Camera | None, MaskLike | None],
        ) -> Localization | SamfeatError:
            image, camera, mask = photo
            try:
                return self.localize(image, camera, mask=mask)
            except SamfeatError as error:
                return error

        def name(photo: tuple[Any, ...]) -> str:
            return str(photo[0]) if isinstance(photo[0], (str, Path)) else "a photo"

        count = min(torch.get_num_threads(), _SIDE_BY_SIDE)
        on_cpu = self._device.type == "cpu"
        workers = sharing_torch(count, "localization") if on_cpu else Workers(2, "localization")
        with workers as pool:
            yield from pool.map(tried, photos, name=name)

    def localize_rig(
        self,
        images: Sequence[ImageLike],
        cameras: Sequence[Camera | pycolmap.Camera | None],
        cams_from_rig: Sequence[Pose | pycolmap.Rigid3d],
        *,
        masks: Sequence[MaskLike | None] | None = None,
    ) -> RigLocalization:
        """The pose of a rig from photos that its cameras took at once.

        Photos that show too little of the map by themselves count together. Focal lengths are not
        looked for, photos not turned, and lookalike places not left out.

        Arguments:
            images: a photo of each camera, as :meth:`localize` takes them.
            cameras: their intrinsics; None takes those of a file from its EXIF.
            cams_from_rig: their poses in the rig, in the units of the map.
            masks: of each photo, or None, as :meth:`localize` takes them.

        Raises:
            SamfeatError: no photos, lists of different lengths, a photo or mask that does not fit,
                or no intrinsics.
        """
        for name, given in (
            ("images", images), ("cameras", cameras), ("cams_from_rig", cams_from_rig)
        ):  # fmt: skip
            if isinstance(given, (str, Path)) or not isinstance(given, Sequence):
                raise SamfeatError(
                    name, f"a {type(given).__name__} was given", "give a list, one for each camera"
                )
        masks = [None] * len(images) if masks is None else masks
        lengths = {len(images), len(cameras), len(cams_from_rig), len(masks)}
        if lengths == {0} or len(lengths) > 1:
            raise SamfeatError(
                "localize_rig",
                f"{len(images)} images, {len(cameras)} cameras, {len(cams_from_rig)} cams_from_rig",
                "give one of each for every camera",
            )
        poses = [rigs.as_pose(pose) for pose in cams_from_rig]
        clock = Clock()
        views, matched_with = [], {}
        for image, camera, mask in zip(images, cameras, masks, strict=True):
            with clock.stage("read"):
                photo = read_photo(image, camera, False, mask)
            with clock.stage("extract"):
                features = self._features(photo, photo.orientation)
            with clock.stage("retrieve"):
                retrieved = self.retrieve(features.global_descriptor)
            with clock.stage("match"):
                pairs = zip(retrieved, self.match(features, retrieved), strict=True)
                matched = [posing.image_matches(*found) for found in pairs]
            matched_with.update({image.name: image for image in retrieved})
            views.append(rigs.RigView(photo.camera, features.keypoints, matched))
        image_of = posing.images_by_name(matched_with.values())
        return rigs.solve(
            views, poses, self.map.xyz, self.map.point_ids, image_of, self.settings, clock
        )

    def _localize(self, photo: Photo, quarters: int, seconds: dict[str, float]) -> Localization:
        """A photo turned clockwise; `seconds` go on from one turn to the next."""
        with Clock(seconds).stage("extract"):
            features = self._features(photo, turned(photo.orientation, quarters))
        found, _, _ = self.localize_features(
            features, photo.camera, seconds, refine_focal=photo.refine
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
        clock = Clock(seconds)
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
        clock = Clock(seconds)
        images = [posing.image_matches(*found) for found in zip(retrieved, pairs, strict=True)]
        posed = posing.solve(
            images, features.keypoints, self.map.xyz, Camera.of(camera), self.settings, clock,
            refine_focal=refine_focal,
        )  # fmt: skip
        with clock.stage("pose"):
            posed = posing.refined_with_pointless(
                posed, features.keypoints, self.map.xyz, retrieved
            )
        found, inliers = posed.found, posed.inliers
        matched = len(np.unique(found.keypoints))
        agreeing = len(np.unique(found.keypoints[inliers]))
        agree = features.keypoints[found.keypoints[inliers]]
        apart = squares(agree, self.settings.max_error)
        refused = refusal(agreeing, matched, apart, self.settings.min_inliers)
        localization = Localization(
            pose=posed.pose if refused is None else None,
            refused=refused,
            weak_pose=None if refused is None else posed.pose,
            camera=posed.camera,
            focal_deviation=posed.focal_deviation,
            num_keypoints=len(features.keypoints),
            num_matches=sum(found.matches_per_image),
            num_correspondences=len(found.keypoints),
            num_matched=matched,
            num_agreeing=agreeing,
            num_squares=apart,
            inlier_keypoints=agree,
            inlier_points=self.map.point_ids[found.points[inliers]],
            retrieved=[
                (one.name, count)
                for one, count in zip(posed.images, found.matches_per_image, strict=True)
            ],
            turned=0,
            num_ransacs=posed.ransacs,
            seconds=clock.seconds,
        )
        return localization, found, inliers

    def retrieve(self, global_descriptor: np.ndarray) -> list[FrozenImage]:
        """The map's most similar images; of equally similar ones the earlier first."""
        similarity = self.map.global_descriptors @ global_descriptor
        best = np.argsort(-similarity, kind="stable")[: self.settings.num_retrieved]
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
        """(N, D) float16 to (D, N), float32 unless the device can match halves."""
        rows = torch.from_numpy(descriptors).to(self._device)
        return (rows if takes_halves(rows.device) else rows.float()).t()

    def extract(
        self,
        image: ImageLike,
        camera: Camera | pycolmap.Camera | None = None,
        *,
        mask: MaskLike | None = None,
    ) -> tuple[QueryFeatures, Camera, bool]:
        """Features of a photo, its intrinsics, and whether the focal length is to be found.

        As :meth:`localize` takes them; the photo is not turned.
        """
        photo = read_photo(image, camera, self.settings.refine_focal, mask)
        return self._features(photo, photo.orientation), photo.camera, photo.refine

    def _features(self, photo: Photo, orientation: int) -> QueryFeatures:
        upright, mask = photo.stored, photo.mask
        if orientation != 1:
            upright = to_upright(upright, orientation)
            mask = None if mask is None else to_upright(mask, orientation)
        found = extract_batch(self.model, [Masked(upright, mask)], self.options)[0]
        keypoints = found["keypoints"].astype(np.float32).reshape(-1, 2)
        size = (photo.stored.shape[1], photo.stored.shape[0])
        if orientation != 1:
            keypoints = keypoints_to_stored(keypoints, orientation, size)
        descriptors = as_halves(found["descriptors"], turned=True)
        rows = self._on_device(descriptors).t().float()
        return QueryFeatures(
            keypoints=keypoints.astype(np.float64) + 0.5,
            descriptors=descriptors,
            size=size,
            global_descriptor=vlad(rows, self._words).cpu().numpy(),
        )
