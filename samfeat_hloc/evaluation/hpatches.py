"""HPatches and folders in its layout: which pairs there are, and how features match on them.

A folder for each sequence, named ``<kind>_<name>`` (``i_`` illumination, ``v_`` viewpoint, or any
other kind), with images ``1.*``, ``2.*``… of any format and homographies ``H_1_2``, ``H_1_3``….
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..files.images import EXTENSIONS, check_name, image_size
from ..progress import tqdm
from . import matching
from .homography import RANSAC_THRESHOLD, read_homography
from .matching import HOMOGRAPHY_THRESHOLDS, MatchingResult, PairResult
from .predictions import Predictions
from .tables import aligned

logger = logging.getLogger(__name__)

# Left out by D2-Net for their size, and by everyone who compares with it since.
_EXCLUDED = """i_contruction i_crownnight i_dc i_pencils i_whitebuilding v_artisans v_astronautis
v_talent"""
EXCLUDED = frozenset(_EXCLUDED.split())

_ILLUMINATION = """ajuntament autannes bologna books boutique bridger brooklyn castle chestnuts
contruction crownday crownnight dc dome duda fenis fog fruits gonnenberg greenhouse greentea
indiana kions ktirio kurhaus leuven lionday lionnight londonbridge melon miniature nescafe nijmegen
nuts objects parking partyfood pencils pinard pool porta resort salon santuario school ski smurf
steps table tools toy troulos veggies village whitebuilding yellowtent zion"""
_VIEWPOINT = """abstract adam apprentices artisans astronautis azzola bark bees beyus bip bird
birdwoman blueprint boat bricks busstop calder cartooncity charing churchill circus coffeehouse
colors courses dirtywall dogman eastsouth feast fest gardens grace graffiti home laptop london
machines man maskedman pomegranate posters samples soldiers strand sunseason tabletop talent
tempera there underground vitro wall wapping war weapons woman wormhole wounded yard yuri"""

SEQUENCES = tuple(
    name
    for kind, names in (("i", _ILLUMINATION), ("v", _VIEWPOINT))
    for name in (f"{kind}_{word}" for word in names.split())
    if name not in EXCLUDED
)
IMAGES = range(2, 7)  # matched with image 1


@dataclass(frozen=True)
class Pair:
    """Image 1 and image k of a sequence.

    images: names relative to the folder ("v_wall/1.ppm"). kind: the sequence's prefix.
    homography: (3, 3) from image 1 to image k. sizes: width and height of both.
    """

    images: tuple[str, str]
    kind: str
    homography: np.ndarray
    sizes: tuple[tuple[int, int], tuple[int, int]]


def missing_sequences(root: Path) -> list[str]:
    """Those of the 108 sequences that are not there, or not whole, and what they lack."""
    missing = []
    for sequence in SEQUENCES:
        folder = Path(root) / sequence
        if not folder.is_dir():
            missing.append(sequence)
            continue
        lacks = [f"image {k}" for k in (1, *IMAGES) if not _images(folder, k)]
        lacks += [f"H_1_{k}" for k in IMAGES if not (folder / f"H_1_{k}").is_file()]
        if lacks:
            missing.append(f"{sequence} (no {', '.join(lacks)})")
    return missing


def read_pairs(root: Path, *, skip_incomplete: bool = False) -> list[Pair]:
    """All pairs of a folder in HPatches' layout, D2-Net's exclusions left out.

    Arguments:
        skip_incomplete: pass over homographies without their images; else they are errors.

    Raises:
        SamfeatError: no such folder, no sequence in it, an image without its homography's mate or
            twice, an image that cannot be read, a homography that is malformed or singular.
    """
    root = Path(root)
    if not root.is_dir():
        raise SamfeatError(root, "no such folder", "give the folder of the sequences")
    pairs = []
    sizes: dict[str, tuple[int, int]] = {}
    folders = sorted(f for f in root.iterdir() if f.is_dir() and f.name not in EXCLUDED)
    passed, odd = [], []
    for folder in folders:
        for path in sorted(folder.glob("H_1_*"), key=lambda p: (len(p.name), p.name)):
            k = path.name.removeprefix("H_1_")
            if not k.isdecimal():
                odd.append(f"{folder.name}/{path.name}")
                continue
            found = [_images(folder, number) for number in (1, int(k))]
            if skip_incomplete and not all(found):
                passed.append(f"{folder.name}/{path.name}")
                continue
            names = tuple(
                _only(folder, number, images)
                for number, images in zip((1, int(k)), found, strict=True)
            )
            for name in names:
                sizes.setdefault(name, image_size(root / name))
            kind = folder.name.split("_", 1)[0]
            both = (sizes[names[0]], sizes[names[1]])
            pairs.append(Pair((names[0], names[1]), kind, read_homography(path), both))
    for names_left, why in ((passed, "lack an image"), (odd, "are not called H_1_NUMBER")):
        if names_left:
            logger.warning(
                "%s: %d of %d homographies %s and are left out, e.g. %s",
                root, len(names_left), len(pairs) + len(passed) + len(odd), why, names_left[0],
            )  # fmt: skip
    if not pairs:
        raise SamfeatError(
            root,
            "no sequences in HPatches' layout (folders with 1.ppm, 2.ppm, H_1_2)",
            "check the path",
        )
    return pairs


def image_names(pairs: Sequence[Pair]) -> list[str]:
    """The images of these pairs, each once, in their order."""
    return list(dict.fromkeys(name for pair in pairs for name in pair.images))


def missing_features(pairs: Sequence[Pair], predictions: Predictions) -> list[str]:
    """Images that these predictions have no features of."""
    return [name for name in image_names(pairs) if not predictions.has(name)]


def evaluate(
    pairs: Sequence[Pair],
    predictions: Predictions,
    *,
    label: str = "",
    short_side: int | None = None,
    ransac_threshold: float = RANSAC_THRESHOLD,
) -> list[PairResult]:
    """Match every pair and compare with its homography; see :func:`.matching.evaluate_pair`.

    Raises:
        SamfeatError: an image without features, features that are broken, or made from an image
            of another size.
    """
    results: list[PairResult] = []
    read: dict[str, matching.CachedFeatures] = {}
    for pair in tqdm(pairs, desc=label or "pairs", unit="pair", delay=2):
        # Pairs of a sequence follow each other and share image 1.
        read = {name: read[name] for name in pair.images if name in read}
        for name, size in zip(pair.images, pair.sizes, strict=True):
            if name not in read:
                read[name] = of_size(predictions.read(name), name, size, label)
        results.append(
            matching.evaluate_pair(
                pair.images, pair.kind, read[pair.images[0]], read[pair.images[1]],
                pair.homography, pair.sizes,
                short_side=short_side, ransac_threshold=ransac_threshold,
            )
        )  # fmt: skip
    return results


@dataclass(frozen=True)
class Comparison:
    """Methods measured on the same pairs.

    results: by method, then by kind ("all" last). published: accuracies at 1 to 10 pixels by
    method and kind, of curves that were read. note: what has to be said with every figure, such
    as that the data set is not whole.
    """

    title: str
    results: dict[str, dict[str, MatchingResult]]
    published: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    note: str = ""

    def table(self) -> str:
        """Aligned text: a line for each kind and method; shares in percent."""
        header = ["", "method", "pairs", "features", "matches", "right", "repeated"]
        header += [f"MMA@{t}" for t in (1, 3, 5, 10)] + [f"AUC {matching.AREA_UP_TO}px"]
        header += [f"H AUC@{t}" for t in HOMOGRAPHY_THRESHOLDS]
        rows = []
        for kind in self.kinds():
            for method, results in self.results.items():
                if kind in results:
                    rows.append([kind, method, *_cells(results[kind])])
            for method, curves in self.published.items():
                if kind in curves:
                    rows.append(
                        [kind, f"{method} (published)", "", "", "", "", "", *_curve(curves[kind])]
                    )
        note = [f"note: {self.note}"] if self.note else []
        return "\n".join([self.title, *note, aligned(header, rows, "llr")])

    def kinds(self) -> list[str]:
        """All kinds, in the order in which they first appear, "all" last."""
        tables: list[Mapping[str, Any]] = [*self.results.values(), *self.published.values()]
        kinds = dict.fromkeys(kind for table in tables for kind in table)
        return [k for k in kinds if k != "all"] + [k for k in kinds if k == "all"]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "title": self.title,
            "note": self.note or None,
            "methods": {
                method: {kind: result.as_json() for kind, result in results.items()}
                for method, results in self.results.items()
            },
            "published": {
                method: {kind: curve.tolist() for kind, curve in curves.items()}
                for method, curves in self.published.items()
            },
        }


def pairs_as_json(results: Sequence[PairResult]) -> list[dict[str, Any]]:
    """Figures of each pair as plain values; an infinite corner error is None."""
    return [
        {
            "images": list(pair.images),
            "matches": len(pair.errors),
            "right_matches": int((pair.errors <= matching.RIGHT_WITHIN).sum()),
            "repeatability": round(pair.repeatability, 6),
            "accuracy": [round(float(share), 6) for share in matching.accuracy(pair.errors)],
            "corner_error": pair.corner_error if np.isfinite(pair.corner_error) else None,
        }
        for pair in results
    ]


def _cells(result: MatchingResult) -> list[str]:
    return [
        str(result.num_pairs), f"{result.num_features:.0f}", f"{result.num_matches:.0f}",
        f"{result.right_matches:.0f}", f"{100 * result.repeatability:.1f}",
        *_curve(result.accuracy), *(f"{100 * area:.1f}" for area in result.homography),
    ]  # fmt: skip


def _curve(accuracies: Sequence[float] | np.ndarray) -> list[str]:
    shown = [accuracies[t - 1] for t in (1, 3, 5, 10)] + [matching.area_of(accuracies)]
    return [f"{100 * value:.1f}" for value in shown]


def of_size(
    found: matching.CachedFeatures, name: str, size: tuple[int, int] | None, label: str
) -> matching.CachedFeatures:
    """The features themselves; a SamfeatError where they are of an image of another size."""
    if size is not None and found.image_size is not None and found.image_size != size:
        raise SamfeatError(
            name,
            (
                f"the image has {size[0]} x {size[1]} pixels, but "
                f"{label or 'its features'} were made from {found.image_size[0]} x "
                f"{found.image_size[1]}"
            ),
            "extract from the same images",
        )
    return found


def _images(folder: Path, number: int) -> list[Path]:
    return sorted(p for p in folder.glob(f"{number}.*") if p.suffix.lower() in EXTENSIONS)


def _only(folder: Path, number: int, images: Sequence[Path]) -> str:
    if len(images) != 1:
        wrong = ", ".join(path.name for path in images) or "no image of that number"
        raise SamfeatError(folder, f"{wrong} for {number}", f"keep one image {number}.*")
    return check_name(f"{folder.name}/{images[0].name}")
