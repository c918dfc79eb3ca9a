"""The pipeline's stages done by hloc: ``--engine hloc``.

Each method stands in for a native stage: same arguments, same files, the same rules for what is
there already. What it computes is hloc's own, called with the configurations that the plugin
registers. hloc writes into a temporary place; what arrives under the final name is whole and says
how it was made.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..colmap.model import file_of
from ..colmap.readable import readable, refuse_unread
from ..errors import SamfeatError
from ..feature.extraction import record
from ..feature.network import SAMFeat
from ..feature.options import ExtractOptions
from ..files import provenance
from ..files.h5arrays import open_hdf5
from ..files.images import check_name
from ..files.outputs import Output
from ..files.pair_lists import read_pairs
from ..localization.inputs import LocalizationInputs, MappingInputs
from ..localization.matches import MatchConfig
from ..localization.result import LocalizationResult
from ..parallel.image_checks import refuse_broken
from . import compat, configurations, localization
from .calls import check_installed, hloc_module, made_by_hloc
from .files import hdf5_file, hloc_errors, text_file

logger = logging.getLogger(__name__)

_SEED = 0  # as in the native stages
_MOST_KEYPOINTS = 32767  # hloc stores matches as int16


@dataclass(frozen=True)
class HlocEngine:
    """The stages of hloc, as `pipelines.engines.Engine` has them; overwrite: make all anew."""

    overwrite: bool = False
    side_by_side: bool = False  # hloc's modules are changed while they run

    def features(
        self, image_dir: Path, names: Sequence[str], output: Path, *, model: SAMFeat,
        options: ExtractOptions,
    ) -> Path:  # fmt: skip
        """``hloc.extract_features`` with SAMFeat; one image and one worker, as hloc has it."""
        conf = configurations.extractor("samfeat", options)
        conf["model"]["weights"] = configurations.Loaded(model)
        made_by = made_by_hloc(
            "features", record(options), _images_hash(image_dir, names), model.weights_sha256
        )
        return _extract(conf, image_dir, names, output, made_by, self.overwrite)

    def pairs_from_covisibility(self, model: Path, output: Path, *, num_matched: int) -> Path:
        """``hloc.pairs_from_covisibility``; see :func:`.pairs.from_covisibility`."""
        made_by = made_by_hloc(
            "pairs",
            {"from": "covisibility", "num_matched": num_matched},
            {"model": _model_hash(model)},
        )

        def pair(temporary: Path) -> None:
            hloc_module("pairs_from_covisibility").main(model, temporary, num_matched)

        return text_file(output, made_by, self.overwrite, pair)

    def pairs_from_retrieval(
        self, descriptors: Path, query_names: Sequence[str], db_names: Sequence[str],
        output: Path, *, num_matched: int,
    ) -> Path:  # fmt: skip
        """``hloc.pairs_from_retrieval``; see :func:`.pairs.from_retrieval`.

        hloc fails where there are fewer database images than are asked for; then all are taken.
        """
        made_by = made_by_hloc(
            "pairs",
            {"from": "retrieval", "num_matched": num_matched},
            {
                "descriptors": provenance.file_hash(descriptors),
                "queries": provenance.names_hash(query_names),
                "db": provenance.names_hash(db_names),
            },
        )
        count = min(num_matched, len(db_names))

        def pair(temporary: Path) -> None:
            hloc_module("pairs_from_retrieval").main(
                descriptors, temporary, count, query_list=list(query_names), db_list=list(db_names)
            )

        return text_file(output, made_by, self.overwrite, pair)

    def matches(
        self, pairs: Path, features: Path, output: Path, *, config: MatchConfig | None = None
    ) -> Path:
        """``hloc.match_features`` with its nearest-neighbour matcher; see :func:`.matches.main`."""
        config = config or MatchConfig()
        inputs = provenance.file_hashes(pairs=pairs, features=features)
        _check_counts(features, [name for pair in read_pairs(pairs) for name in pair])
        conf = configurations.matcher(config.distance_threshold)
        conf["model"]["do_mutual_check"] = config.mutual
        conf["model"]["ratio_threshold"] = config.ratio_threshold

        def match(temporary: Path) -> None:
            hloc_module("match_features").main(conf, pairs, features, matches=temporary)

        made_by = made_by_hloc("matches", asdict(config), inputs)
        return hdf5_file(output, made_by, self.overwrite, match)

    def mapping(self, inputs: MappingInputs, output: Path) -> Path:
        """``hloc.triangulation``; see :func:`.mapping.main`.

        Two things are not as hloc has them, so that the map is the native one to the bit: a seed,
        and half a pixel in its verification (`compat.corner_origin`).
        """
        made_by = made_by_hloc("mapping", {}, inputs.hashes())
        result = Output(output, made_by, overwrite=self.overwrite)
        if result.is_there():
            return output
        with result.making() as work:
            model = work / "model"
            triangulation = hloc_module("triangulation")
            names = sorted({name for pair in read_pairs(inputs.pairs) for name in pair})
            with (
                readable(inputs.image_dir, names, work) as photos,
                hloc_errors("triangulation", inputs.matches),
                compat.corner_origin(triangulation),
            ):
                mapped = triangulation.main(
                    model, inputs.reference_model, photos, inputs.pairs,
                    inputs.features, inputs.matches, mapper_options=_seeded(),
                )  # fmt: skip
            if len(mapped.points3D) == 0:
                raise SamfeatError(
                    inputs.matches,
                    "hloc's map has 0 points",
                    (
                        "`samfeat doctor` tells whether this hloc and pycolmap work together, "
                        "--engine native says what else may be wrong"
                    ),
                )
            for database in model.glob("database.db*"):  # the map does not need it
                database.unlink()
            return result.put(model)

    def localize(
        self, inputs: LocalizationInputs, output: Path, *, max_error: float = 12.0
    ) -> LocalizationResult:
        """``hloc.localize_sfm``; see :func:`.localize.main`."""
        return localization.localize(inputs, output, max_error=max_error, overwrite=self.overwrite)


def check_retrieval(configuration: str) -> dict[str, Any]:
    """hloc's configuration of a global descriptor.

    Raises:
        SamfeatError: hloc is not installed, or has no such global descriptor.
    """
    option = f"--retrieval {configuration}"
    check_installed(option, "leave it out, or give --query-pairs")
    confs: dict[str, dict[str, Any]] = importlib.import_module("hloc.extract_features").confs
    if configuration not in confs or not confs[configuration]["output"].startswith("global"):
        known = [name for name, conf in confs.items() if conf["output"].startswith("global")]
        raise SamfeatError(
            option, "is not a global descriptor of this hloc", f"choose from {', '.join(known)}"
        )
    return confs[configuration]


def global_descriptors(
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    *,
    configuration: str = "netvlad",
    overwrite: bool = False,
) -> Path:
    """One of hloc's own global descriptors, such as "netvlad", by ``hloc.extract_features``."""
    conf = check_retrieval(configuration)
    made_by = made_by_hloc("global_descriptors", {"conf": conf}, _images_hash(image_dir, names))
    return _extract(conf, image_dir, names, output, made_by, overwrite)


def _extract(
    conf: dict[str, Any],
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    made_by: dict[str, Any],
    overwrite: bool,
) -> Path:
    def extract(temporary: Path) -> None:
        refuse_broken(image_dir, names)
        refuse_unread(image_dir, names, "hloc")
        hloc_module("extract_features").main(
            conf, image_dir, image_list=list(names), feature_path=temporary
        )

    return hdf5_file(output, made_by, overwrite, extract)


def _images_hash(image_dir: Path, names: Sequence[str]) -> dict[str, str]:
    """The images as an input: their names and contents."""
    found = []
    for name in names:
        path = image_dir / check_name(name)
        if not path.is_file():
            raise SamfeatError(path, "no such image", "complete the image folder")
        found.append(f"{name} {provenance.file_hash(path)}")
    return {"images": provenance.names_hash(found)}


def _seeded() -> dict[str, Any]:
    """Options of triangulation with a seed, where this pycolmap takes one."""
    from ..colmap.library import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    seeded: dict[str, Any] = {}
    if hasattr(options, "random_seed"):
        seeded["random_seed"] = _SEED
    for part in ("mapper", "triangulation"):
        if hasattr(getattr(options, part), "random_seed"):
            seeded[part] = {"random_seed": _SEED}
    return seeded


def _model_hash(model: Path) -> str:
    return provenance.file_hash(file_of(model, "images"))


def _check_counts(features: Path, names: Sequence[str]) -> None:
    """Refuse features whose matches hloc would store as garbage."""
    with open_hdf5(features) as file:
        for name in dict.fromkeys(names):
            if f"{name}/keypoints" not in file:
                raise SamfeatError(features, f"no features of {name}", "extract them first")
            count = file[f"{name}/keypoints"].shape[0]
            if count > _MOST_KEYPOINTS:
                raise SamfeatError(
                    features,
                    f"{name} has {count} keypoints, hloc stores at most {_MOST_KEYPOINTS}",
                    "set max_keypoints, or use --engine native",
                )
