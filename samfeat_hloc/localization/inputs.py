"""What a map and poses in it are made from: the files that the stages before have left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..colmap.model import Model, file_of, is_model, read_model
from ..colmap.rig_config import Frame
from ..datasets.queries import Query
from ..errors import SamfeatError, some_of
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.pair_lists import read_pairs
from .same_features import check_same_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MappingInputs:
    """What a map is triangulated from.

    reference_model: folder of a COLMAP model, binary or text; its image names are those of
        `features`.
    image_dir: folder of the images, for the colours of the points.
    pairs: list of matched pairs of reference images.
    features, matches: files in hloc's format; keypoints in pixels of the stored image.
    """

    reference_model: Path
    image_dir: Path
    pairs: Path
    features: Path
    matches: Path

    def hashes(self) -> dict[str, str]:
        """What the map is made from, for its record. The reference's points play no part."""
        return {
            **{
                f"reference_{part}": provenance.file_hash(file_of(self.reference_model, part))
                for part in ("cameras", "images")
            },
            **provenance.file_hashes(
                pairs=self.pairs, features=self.features, matches=self.matches
            ),
        }


@dataclass(frozen=True, eq=False)
class LocalizationInputs:
    """What the poses of queries are estimated from.

    map_dir: folder of the map, a COLMAP model.
    queries: names and intrinsics.
    pairs: list of "query database-image" in order of retrieval.
    features, matches: files in hloc's format.
    frames: queries that a rig's cameras took at once, each in one frame at most; their cameras'
        poses in the rig are in the units of the map.
    """

    map_dir: Path
    queries: Sequence[Query]
    pairs: Path
    features: Path
    matches: Path
    frames: Sequence[Frame] = ()

    def hashes(self) -> dict[str, str]:
        """What a localization is made from, for its record."""
        listed = "\n".join(f"{q.name} {q.condition} {q.camera}" for q in self.queries)
        return {
            "map": _map_hash(self.map_dir),
            "queries": hashlib.sha256(listed.encode()).hexdigest(),
            **provenance.file_hashes(
                pairs=self.pairs, features=self.features, matches=self.matches
            ),
            **({"frames": _frames_hash(self.frames)} if self.frames else {}),
        }

    @contextmanager
    def open(self) -> Iterator[OpenLocalization]:
        """Read map and retrieval, and open features and matches.

        Raises:
            SamfeatError: a file is missing or damaged, a query has no retrieved image or no
                features, a retrieved image is not in the map, or map, features and matches are
                not of the same keypoints.
        """
        retrieved = retrieved_images(self.pairs, self.queries)
        map_model = read_model(self.map_dir)
        for name, db_names in retrieved.items():
            for db_name in db_names:
                if db_name not in map_model.images:
                    raise SamfeatError(
                        self.pairs,
                        f"{db_name}, retrieved for {name}, is not in the map {self.map_dir}",
                        "retrieve from the images of the map",
                    )
        with FeatureReader(self.features) as features, MatchReader(self.matches) as matches:
            names = [query.name for query in self.queries]
            features.require(names, "extract the features of all queries")
            db_names = sorted({name for names in retrieved.values() for name in names})
            if missing := check_same_features(map_model, self.map_dir, features, db_names):
                logger.info(
                    "%s: no features of %s, %d of the %d images retrieved; poses are refined "
                    "without their matches that have no point", self.features, some_of(missing),
                    len(missing), len(db_names),
                )  # fmt: skip
            for query in self.queries:  # one pair tells; the others are matched alike
                first = retrieved[query.name][0]
                matches.matches(query.name, first, (features.count(query.name), None))
            yield OpenLocalization(map_model, retrieved, features, matches)


@dataclass(frozen=True, eq=False)
class OpenLocalization:
    """The files of a localization, open; retrieved: of every query its database images."""

    map_model: Model
    retrieved: dict[str, list[str]]
    features: FeatureReader
    matches: MatchReader


def retrieved_images(pairs: Path, queries: Sequence[Query]) -> dict[str, list[str]]:
    """Of every query its database images, each once, in the order of the list.

    Raises:
        SamfeatError: a query has none.
    """
    retrieved: dict[str, list[str]] = {}
    for name, db_name in dict.fromkeys(read_pairs(pairs)):
        retrieved.setdefault(name, []).append(db_name)
    without = [query.name for query in queries if query.name not in retrieved]
    if without:
        raise SamfeatError(
            pairs,
            f"no retrieved image for query {some_of(without)}",
            "give a list with a pair for every query",
        )
    found = {query.name: retrieved[query.name] for query in queries}
    if len(found) < len(retrieved):
        logger.info(
            "%s: it has pairs of %d queries, and %d of these are to be localized", pairs,
            len(retrieved), len(found),
        )  # fmt: skip
    return found


def _map_hash(map_dir: Path) -> str:
    """Hash of a map: of its own record where it has one, of its images and points otherwise."""
    if not is_model(map_dir):
        raise SamfeatError(map_dir, "no map in this folder", "run `samfeat triangulate` first")
    files = [map_dir / "made_by.json"]
    if not files[0].is_file():
        files = [file_of(map_dir, "images"), file_of(map_dir, "points3D")]
    parts = [provenance.file_hash(path) for path in files]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _frames_hash(frames: Sequence[Frame]) -> str:
    photos = (
        f"{number} {name} {camera.cam_from_rig.qvec} {camera.cam_from_rig.tvec}"
        for number, frame in enumerate(frames)
        for camera, name in frame.photos
    )
    return provenance.names_hash(photos)
