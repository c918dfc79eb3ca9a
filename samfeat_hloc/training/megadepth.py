"""MegaDepth as D2-Net's preprocessing leaves it on disk.

Below the data set's folder, for each scene (such as 0000)::

    Undistorted_SfM/0000/images/*.jpg                   undistorted photos
    Undistorted_SfM/0000/sparse[-txt]/                  their COLMAP model, binary or text
    phoenix/S6/zl548/MegaDepth_v1/0000/dense0/depths/*.h5     depth maps, dataset "depth"
    (or MegaDepth_v1/0000/dense0/depths/ or depth_undistorted/0000/)

D2-Net's ``scene_info/*.npz`` were computed from these models and depth maps. They hold pickled
Python objects, which can run code when they are loaded, and are not read: the same pairs are found
from the models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Generic

import torch

from ..colmap.model import is_model
from ..errors import SamfeatError
from ..progress import tqdm
from ..teachers.cache import Taught
from .keypoint_labels import PhotoLabels
from .pairs import PairBatch, PairOptions
from .posed_pairs import PosedSource
from .posed_scene import Known, PosedScene, T_co, read_scene
from .posed_views import PosedOptions

logger = logging.getLogger(__name__)

LEAST_DEPTH_BYTES = 100 * 1024  # smaller files hold orders of depth, not depths
_DEPTHS = (
    "phoenix/S6/zl548/MegaDepth_v1/{}/dense0/depths",
    "MegaDepth_v1/{}/dense0/depths",
    "depth_undistorted/{}",
)
_MODELS = ("sparse", "sparse/0", "sparse-txt")


class MegadepthSource:
    """Pairs of MegaDepth's scenes, each scene as often as any other."""

    def __init__(self, posed: PosedSource) -> None:
        self._posed = posed

    @classmethod
    def open(
        cls, root: Path, *, scenes: Sequence[str] | None = None,
        teacher: Known[Taught] | None = None, least_depth_bytes: int = LEAST_DEPTH_BYTES,
        options: PosedOptions | None = None, labels: Known[PhotoLabels] | None = None,
    ) -> MegadepthSource:  # fmt: skip
        """Read the scenes' models; minutes for all of MegaDepth.

        Arguments:
            root: the folder that holds ``Undistorted_SfM`` and the depth maps.
            scenes: names of scenes; None takes all that are there.
            teacher, labels: know the photos by their names below ``Undistorted_SfM``
                (``0000/images/x.jpg``).

        Raises:
            SamfeatError: no such folders, a scene that was asked for is not there, or no scene
                with overlapping photos and depth maps.
        """
        root = Path(root)
        folder = root / "Undistorted_SfM"
        if not folder.is_dir():
            hint = (
                "scene_info holds pickled Python objects, which are not read; "
                if (root / "scene_info").is_dir()
                else ""
            )
            raise SamfeatError(
                folder,
                "no such folder",
                (
                    f"{hint}give the folder that holds Undistorted_SfM and the depth maps of "
                    "MegaDepth in D2-Net's form"
                ),
            )
        names = list(scenes or sorted(path.name for path in folder.iterdir() if path.is_dir()))
        read: list[PosedScene] = []
        for name in tqdm(names, desc="MegaDepth scenes", unit="scene", delay=2):
            try:
                read.append(_read_scene(root, name, teacher, labels, least_depth_bytes))
            except SamfeatError as error:
                if scenes is not None:
                    raise
                logger.warning("left out: %s", error)
        if not read:
            raise SamfeatError(
                folder,
                (
                    f"none of its {len(names)} scenes has a model, photos and depth maps of "
                    "overlapping images"
                ),
                f"depth maps are looked for in {_DEPTHS[0].format('SCENE')}",
            )
        return cls(PosedSource(read, options))

    @property
    def num_pairs(self) -> int:
        """All that overlap."""
        return self._posed.num_pairs

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        """``count`` random pairs on the generator's device; see :class:`.pairs.PairSource`."""
        return self._posed.batch(count, options, generator)


class _Below(Generic[T_co]):
    """What is known of images by longer names: with the folders that they are in."""

    def __init__(self, known: Known[T_co], folder: str) -> None:
        self._known, self._folder = known, folder

    def __contains__(self, name: object) -> bool:
        return f"{self._folder}/{name}" in self._known

    def read(self, name: str) -> T_co:
        return self._known.read(f"{self._folder}/{name}")


def _read_scene(
    root: Path, name: str, teacher: Known[Taught] | None, labels: Known[PhotoLabels] | None,
    least_bytes: int,
) -> PosedScene:  # fmt: skip
    scene = root / "Undistorted_SfM" / name
    model = next((scene / part for part in _MODELS if is_model(scene / part)), scene / "sparse")
    places = [root / place.format(name) for place in _DEPTHS]
    depth = next((place for place in places if place.is_dir()), places[0])
    photos = f"{name}/images"
    return read_scene(
        model, scene / "images", depth, None if teacher is None else _Below(teacher, photos),
        labels=None if labels is None else _Below(labels, photos), least_depth_bytes=least_bytes,
    )  # fmt: skip
