"""Pairs with known homographies made from a folder of photos: viewpoint, illumination, night.

The result is a folder in HPatches' layout. The same photos and seed give the same pairs; the pair
of a photo does not depend on which others are chosen.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np
import torch

from ..errors import SamfeatError, writing
from ..files import provenance
from ..files.image_folders import list_images
from ..files.images import read_image
from ..files.outputs import Output
from ..geometry import homographies, photometric
from ..progress import tqdm

logger = logging.getLogger(__name__)

KINDS = ("i", "n", "v")
LARGEST_SIDE = 480  # pixels
SMALLEST_SIDE = 160

_STILL = homographies.HomographyOptions(
    rotation=0, scale=1, perspective=0, shift=0, zoom=[1.0, 1.0]
)
_MILD = homographies.HomographyOptions(
    rotation=10, scale=1.2, perspective=0.08, shift=0.08, zoom=[0.8, 1.0]
)
_VIEWPOINT = homographies.HomographyOptions(
    rotation=35, scale=1.6, perspective=0.17, shift=0.15, zoom=[0.7, 1.0]
)


def make_pairs(
    photos: Path, output: Path, *, seed: int = 0, count: int = 25, overwrite: bool = False
) -> Path:
    """Make ``i_*``, ``n_*`` and ``v_*`` sequences of one pair each, as large as the photos allow.

    Arguments:
        photos: folder of photos, searched with all its sub-folders.
        output: folder to make; kept when it was made from the same photos with the same options.
        seed: of the choice of photos, and of what is done to them.
        count: photos to use; all where there are fewer.

    Returns:
        ``output``.

    Raises:
        SamfeatError: no photos that are large enough, or ``output`` is there and was made
            otherwise.
    """
    if count < 1:
        raise SamfeatError("count", f"{count} is not possible", "give a number from 1")
    names = sorted(list_images(photos), key=lambda name: _digest(seed, name))
    record = provenance.made_by(
        "photo-pairs",
        {"seed": seed, "count": count},
        {"photos": provenance.names_hash(f"{n} {(photos / n).stat().st_size}" for n in names)},
    )
    result = Output(output, record, overwrite=overwrite)
    if result.is_there():
        return output
    with result.making() as work, writing(output):
        made = small = 0
        with tqdm(total=min(count, len(names)), desc="photo pairs", delay=2) as progress:
            for name in names:
                photo = read_image(photos / name)
                if min(photo.shape[:2]) < SMALLEST_SIDE:
                    small += 1
                    continue
                for kind in KINDS:
                    _write(
                        work / "pairs" / f"{kind}_{_label(name)}",
                        *make_pair(photo, kind, seed, name),
                    )
                made += 1
                progress.update()
                if made == count:
                    break
        if not made:
            raise SamfeatError(
                photos,
                f"no photo with a shorter side of {SMALLEST_SIDE} pixels",
                "give larger photos",
            )
        if made < count or small:
            logger.warning(
                "photo pairs: of %d photos asked for %d are used, of %d in %s; %d are smaller than "
                "%d pixels", count, made, len(names), photos, small, SMALLEST_SIDE,
            )  # fmt: skip
        return result.put(work / "pairs")


def make_pair(
    photo: np.ndarray, kind: str, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two square views of a photo.

    Arguments:
        photo: RGB uint8 (H, W, 3).
        kind: "i" the same view in another light, "n" nearly the same by night, "v" another view.
        seed, name: what the random numbers follow from.

    Returns:
        Two RGB uint8 images (S, S, 3), and the homography (3, 3) float64 between them.
    """
    generator = torch.Generator().manual_seed(int(_digest(seed, f"{kind} {name}")[:15], 16))
    height, width = photo.shape[:2]
    side = min(LARGEST_SIDE, height, width) // 2 * 2
    sizes = torch.tensor([[float(width), float(height)]])
    options = {"i": _STILL, "n": _MILD, "v": _VIEWPOINT}[kind]
    matrix1, matrix2 = homographies.sample_views(sizes, side, options, generator)
    if kind == "i":
        matrix2 = matrix1
    canvas = torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1)[None] / 255
    views = [homographies.warp(canvas, sizes, m, side)[0] for m in (matrix1, matrix2)]
    if kind == "i":
        views[1] = photometric.relight_day(views[1], generator)
    elif kind == "n":
        views[1] = photometric.relight_night(views[1], generator)
    first, second = (
        (view[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        for view in views
    )
    homography = np.linalg.inv(matrix2[0].double().numpy()) @ matrix1[0].double().numpy()
    return first, second, homography / homography[2, 2]


def _write(folder: Path, first: np.ndarray, second: np.ndarray, homography: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, image in ((1, first), (2, second)):
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        (folder / f"{number}.png").write_bytes(encoded.tobytes())
    np.savetxt(folder / "H_1_2", homography, fmt="%.17g")


def _label(name: str) -> str:
    """A folder's name for a photo's: unlike any other photo's."""
    return f"{Path(name).stem}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
