"""Local features of many images into one file of hloc's format."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import SamfeatError, some_of
from ..feature.extraction import (
    extract_batch,
    record,
    resized_shape,
)
from ..feature.halves import as_halves
from ..feature.local_features import FeatureArrays
from ..feature.options import ExtractOptions
from ..files import images, provenance
from ..files.h5store import Group, SegmentWriter
from ..files.masks import Masks
from ..files.orientation import keypoints_to_stored
from ..parallel.cluster import Cluster
from ..parallel.image_checks import refuse_broken
from ..parallel.workers import Workers, sharing_torch
from ..progress import tqdm
from .decoded_photos import DecodedPhoto, StoredPhotos, batches_of_a_size, decoded

logger = logging.getLogger(__name__)

STORAGE = ("full", "half", "quantised")
_DIGITS = {"keypoints": 2, "keypoint_scores": 3, "descriptors": 3}  # decimal places, quantised
DETECTION_NOISE = 1.0  # pixels of the resized image, as hloc assumes
_BATCH_SIZE = {"cpu": 1, "cuda": 8}
_SIDE_BY_SIDE = 8  # batches at most; each holds some hundred MB of feature maps
_TURNS = {"cuda": 2}  # batches of a GPU: one computes while another is brought up or down
_AHEAD = 2  # batches decoded while one is in the network
_THREADS = {"cpu": 8}  # that decode, at most
_THREADS_OF_A_GPU = 16
_BATCHES_A_TASK = 8  # through one worker's network, decoded ahead, on Ray


class Extractor(Protocol):
    """What extracts, and knows its weights."""

    weights_sha256: str

    def parameters(self) -> Any: ...


Extract = Callable[[Any, Sequence[Any], ExtractOptions], list[FeatureArrays]]


def main(
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    *,
    model: Extractor,
    options: ExtractOptions,
    batch_size: int | None = None,
    workers: int | None = None,
    storage: str = "half",
    overwrite: bool = False,
    extract: Extract = extract_batch,
    cluster: Cluster | None = None,
    masks: Masks | None = None,
    turns: Mapping[str, int] | None = None,
) -> Path:
    """Extract features of ``names`` into ``output``.

    A group an image: ``keypoints`` (N, 2) float32 xy in pixels of the stored image (centre of the
    top-left pixel at (0, 0); attribute ``uncertainty``, pixels), ``keypoint_scores`` (N,) float32,
    ``descriptors`` (D, N), ``image_size`` (2,) int64 width and height. Photos with an EXIF
    orientation are turned upright for the network and their keypoints turned back.

    Images that the file already has are kept when the model, the options and the image (by a hash
    of its file, and of its mask) are the same; new and changed ones are added. A run that
    finds images done reads their files once to see whether they have changed.

    Arguments:
        image_dir: folder of the images.
        names: images relative to it, with ``/``.
        model: the network, on the device to compute on.
        options: how to extract.
        batch_size: images of equal size through the network at once; None for 1 on a CPU, 8 on
            a GPU. A CPU has several batches side by side, one for each of torch's threads, at
            most 8.
        workers: threads that decode images (and resize them, for a GPU); None for as many as there
            are processors, at most 8, or 16 for a GPU.
        storage: how descriptors are kept: "half" as float16, as in hloc; "full" as float32;
            "quantised" to 0.001, and keypoints to 0.01 pixels, in as few bits as that takes. All
            programs read the last as float32, as HDF5 does the work.
        overwrite: extract all images anew.
        extract: what turns images into features.
        cluster: where to extract, for a ``model`` that is a torch module; None for here.
        masks: of the images; where these are black there are no keypoints.
        turns: quarters, clockwise, by image name, by which images are turned for the network from
            how their EXIF has them; keypoints are in pixels of the stored image all the same.

    Raises:
        SamfeatError: images that are missing or broken (all in one error), a name that is not
            allowed, masks of none of the images or of another size, an output made with another
            model or other options. What is extracted so far is kept.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise SamfeatError(
            image_dir, "there are no images to extract from", "check the image lists"
        )
    _check_images(image_dir, names)
    for what, number in (("batch_size", batch_size), ("workers", workers)):
        if number is not None and number < 1:
            raise SamfeatError(f"{what} {number}", "give a number from 1")
    if storage not in STORAGE:
        raise SamfeatError(f"storage {storage}", f"choose from {', '.join(STORAGE)}")
    config = record(options) | ({"storage": storage} if storage != "half" else {})
    if masks is not None:
        masks.check({name: image_dir / name for name in names})
        config["masks"] = True
    turns = {name: quarters for name, quarters in (turns or {}).items() if quarters}
    if turns:
        config["turns"] = True
    made_by = provenance.made_by("features", config, {}, model.weights_sha256)
    with SegmentWriter(output, made_by, overwrite=overwrite, compare_inputs=False) as writer:
        extraction = _Extraction(
            StoredPhotos(image_dir, masks, turns), model, options, extract, workers, storage
        )
        same = _unchanged(extraction.photos, names, writer.done, workers)
        if len(same) == len(names) and writer.is_finished({n: writer.done[n] for n in same}):
            return output
        device = next(iter(model.parameters())).device.type if cluster is None else cluster.device
        refuse_broken(image_dir, [n for n in names if n not in same], workers=workers)
        if batch_size is None:
            batch_size = _BATCH_SIZE.get(device, 1)
        batches = [
            batch
            for batch in batches_of_a_size(image_dir, names, options, batch_size)
            if not same.issuperset(batch)
        ]
        left = sum(len(batch) for batch in batches)
        if left < len(names):
            logger.info("features: %d of %d images are done already", len(names) - left, len(names))
        if cluster is None:
            found = extraction.groups(batches)
        else:
            tasks = cluster.batches(batches, _BATCHES_A_TASK, device=device)
            found = chain.from_iterable(
                cluster.map(extraction.for_worker(device), tasks, device=device)
            )
        empty = []
        with (
            _all_broken(image_dir, [n for n in names if n not in same], workers),
            tqdm(total=left, desc="features", unit="image") as progress,
        ):
            for groups in found:
                empty += [name for name, g in groups.items() if len(g.datasets["keypoints"]) == 0]
                writer.add(groups)
                progress.update(len(groups))
        if empty:
            logger.warning(
                "features: no keypoints in %s; nothing can be matched there", some_of(empty)
            )
        everything = [f"{name} {source}" for name, source in writer.done.items()]
        inputs = {"images": provenance.names_hash(everything)}
        return writer.finish(made_by={**made_by, "inputs": inputs})


@contextmanager
def _all_broken(image_dir: Path, names: Sequence[str], workers: int | None) -> Iterator[None]:
    """Where an image turns out to be broken within, look for all others that are."""
    try:
        yield
    except images.BrokenImage:
        refuse_broken(image_dir, names, decode=True, workers=workers)
        raise


@dataclass(frozen=True)
class _Extraction:
    """Batches of images in, their groups out."""

    photos: StoredPhotos
    model: Any
    options: ExtractOptions
    extract: Extract
    workers: int | None
    storage: str
    device: str | None = None  # where a worker of a cluster has to bring the model

    def for_worker(self, device: str) -> _Extraction:
        """One that is sent to machines that may lack this one's device and working folder."""
        model: Any = copy.deepcopy(self.model)
        masks = self.photos.masks
        photos = replace(
            self.photos,
            image_dir=self.photos.image_dir.absolute(),
            masks=None if masks is None else Masks(masks.folder.absolute()),
        )
        return replace(self, photos=photos, model=model.to("cpu"), device=device)

    def __call__(self, batches: Sequence[Sequence[str]]) -> list[dict[str, Group]]:
        return list(self.groups(batches))

    def groups(self, batches: Sequence[Sequence[str]]) -> Iterator[dict[str, Group]]:
        if self.device is not None:
            self.model.to(self.device)
        device = next(iter(self.model.parameters())).device.type
        read: Callable[..., DecodedPhoto] = self.photos.read
        threads = _threads(self.workers, device)
        ahead = _AHEAD * max(map(len, batches), default=1)
        if device != "cpu" or device in _TURNS:
            ahead = max(ahead, 2 * threads)
            if self.extract is extract_batch:
                read = partial(read, options=self.options)
        photos = decoded(read, batches, threads, ahead)
        side_by_side = min(torch.get_num_threads(), _SIDE_BY_SIDE)
        if device in _TURNS:
            turns = _TURNS[device]
            with Workers(turns, "extraction") as pool:
                yield from pool.map(
                    self._groups, photos, name=lambda batch: batch[0].name, ahead=turns + 1
                )
            return
        if device != "cpu" or side_by_side == 1:
            yield from map(self._groups, photos)
            return
        with sharing_torch(side_by_side, "extraction") as pool:
            yield from pool.map(
                self._groups, photos, name=lambda batch: batch[0].name, ahead=side_by_side
            )

    def _groups(self, photos: Sequence[DecodedPhoto]) -> dict[str, Group]:
        return _extract(self.model, photos, self.options, self.extract, self.storage)


def _check_images(image_dir: Path, names: Sequence[str]) -> None:
    if not image_dir.is_dir():
        raise SamfeatError(image_dir, "no such image folder", "check the path")
    missing = [name for name in names if not (image_dir / images.check_name(name)).is_file()]
    if missing:
        raise SamfeatError(
            image_dir, f"no image {some_of(missing)}", "complete the folder or the image list"
        )


def _unchanged(
    photos: StoredPhotos, names: Sequence[str], done: Mapping[str, str], workers: int | None
) -> set[str]:
    """The images that are done and whose files still are what the features were made from."""
    there = [name for name in names if name in done]

    def same(name: str) -> bool:
        return done[name] == photos.source(name)

    with Workers(_threads(workers, "cpu"), "hashing") as pool:
        found = pool.map(same, there, name=str)
        told = tqdm(found, total=len(there), desc="images done", unit="image", delay=2, leave=False)
        return {name for name, is_same in zip(there, told, strict=True) if is_same}


def _threads(workers: int | None, device: str) -> int:
    return workers or min(_THREADS.get(device, _THREADS_OF_A_GPU), os.cpu_count() or 1)


def _extract(
    model: Extractor,
    photos: Sequence[DecodedPhoto],
    options: ExtractOptions,
    extract: Extract,
    storage: str,
) -> dict[str, Group]:
    try:
        results = extract(model, [photo.pixels for photo in photos], options)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(photos) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's allocator on a CPU
            raise _out_of_memory(photos) from error
        raise
    return {
        photo.name: _group(photo, found, options, storage)
        for photo, found in zip(photos, results, strict=True)
    }


def _out_of_memory(photos: Sequence[DecodedPhoto]) -> SamfeatError:
    return SamfeatError(
        photos[0].name,
        f"not enough memory for {len(photos)} such images at once",
        "lower --batch-size or --resize",
    )


def _group(
    photo: DecodedPhoto, found: FeatureArrays, options: ExtractOptions, storage: str
) -> Group:
    keypoints = found["keypoints"].astype(np.float32).reshape(-1, 2)
    if photo.orientation != 1:
        keypoints = keypoints_to_stored(keypoints, photo.orientation, photo.stored_size)
    width, height = photo.size
    resized_height, resized_width = resized_shape(height, width, options)
    scale = (width / resized_width + height / resized_height) / 2
    descriptors = found["descriptors"].astype(np.float32, copy=False)
    datasets: dict[str, np.ndarray] = {
        "keypoints": keypoints,
        "keypoint_scores": found["keypoint_scores"].astype(np.float32),
        "descriptors": as_halves(descriptors) if storage == "half" else descriptors,
        "image_size": np.array(photo.stored_size, dtype=np.int64),
    }
    return Group(
        datasets,
        {"keypoints": {"uncertainty": DETECTION_NOISE * scale}},
        photo.source,
        digits=_DIGITS if storage == "quantised" else {},
    )
