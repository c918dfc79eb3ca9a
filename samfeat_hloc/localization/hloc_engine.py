"""The pipeline's stages done by hloc: ``--engine hloc``.

Each function stands in for a native stage: same arguments, same files, the same rules for what is
there already. What it computes is hloc's own, called with the configurations that the plugin
registers. hloc writes into a temporary place; what arrives under the final name is whole and says
how it was made.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError
from ..extract import ExtractOptions
from ..hloc_plugin import HLOC_ADDRESS, NOT_INSTALLED, compat, configurations, register
from ..images import check_name
from ..network import SAMFeat
from . import localize as native_localize
from . import mapping as native_mapping
from . import provenance
from .colmap_database import put_in_place, work_folder
from .dataset import Query
from .feature_readers import FeatureReader
from .hloc_files import hdf5_file, hloc_errors, text_file
from .localize import LocalizationResult, QueryResult
from .map_model import is_model, read_map
from .matches import MatchConfig
from .pairs import read_pairs
from .poses import Pose

logger = logging.getLogger(__name__)

_SEED = 0  # as in the native stages
_MOST_KEYPOINTS = 32767  # hloc stores matches as int16


def check_installed() -> str:
    """hloc's version; raises a SamfeatError that says how to install hloc where it is not."""
    if not register(quiet=True):
        raise SamfeatError(f"--engine hloc: {NOT_INSTALLED}; or use --engine native")
    return str(importlib.import_module("hloc").__version__)


def features(
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    *,
    model: SAMFeat,
    options: ExtractOptions,
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """``hloc.extract_features`` with SAMFeat; see :func:`.features.main`.

    ``batch_size`` and ``workers`` are hloc's own (one image, one worker), whatever is given.
    """
    conf = configurations.extractor("samfeat", options)
    conf["model"]["weights"] = configurations.Loaded(model)
    made_by = _made_by(
        "features", options.asdict(), _images_hash(image_dir, names), model.weights_sha256
    )
    return _extract(conf, image_dir, names, output, made_by, overwrite)


def global_descriptors(
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    *,
    configuration: str = "netvlad",
    overwrite: bool = False,
) -> Path:
    """One of hloc's own global descriptors, such as "netvlad", by ``hloc.extract_features``."""
    check_installed()
    confs = importlib.import_module("hloc.extract_features").confs
    if configuration not in confs or not confs[configuration]["output"].startswith("global"):
        known = [name for name, conf in confs.items() if conf["output"].startswith("global")]
        raise SamfeatError(
            f"{configuration}: is no global descriptor of this hloc; choose from {', '.join(known)}"
        )
    conf = confs[configuration]
    made_by = _made_by("global_descriptors", {"conf": conf}, _images_hash(image_dir, names))
    return _extract(conf, image_dir, names, output, made_by, overwrite)


def pairs_from_covisibility(
    model: Path, output: Path, *, num_matched: int = 20, overwrite: bool = False
) -> Path:
    """``hloc.pairs_from_covisibility``; see :func:`.pairs.from_covisibility`."""
    made_by = _made_by(
        "pairs", {"from": "covisibility", "num_matched": num_matched}, {"model": _model_hash(model)}
    )
    return text_file(
        output,
        made_by,
        overwrite,
        lambda temporary: _hloc("pairs_from_covisibility").main(model, temporary, num_matched),
    )


def pairs_from_retrieval(
    descriptors: Path,
    query_names: Sequence[str],
    db_names: Sequence[str],
    output: Path,
    *,
    num_matched: int = 50,
    overwrite: bool = False,
) -> Path:
    """``hloc.pairs_from_retrieval``; see :func:`.pairs.from_retrieval`.

    hloc fails where there are fewer database images than are asked for; then all are taken.
    """
    made_by = _made_by(
        "pairs",
        {"from": "retrieval", "num_matched": num_matched},
        {
            "descriptors": provenance.file_hash(descriptors),
            "queries": provenance.names_hash(query_names),
            "db": provenance.names_hash(db_names),
        },
    )
    count = min(num_matched, len(db_names))
    return text_file(
        output,
        made_by,
        overwrite,
        lambda temporary: _hloc("pairs_from_retrieval").main(
            descriptors, temporary, count, query_list=list(query_names), db_list=list(db_names)
        ),
    )


def matches(
    pairs: Path,
    features: Path,
    output: Path,
    *,
    features_ref: Path | None = None,
    config: MatchConfig | None = None,
    overwrite: bool = False,
) -> Path:
    """``hloc.match_features`` with its nearest-neighbour matcher; see :func:`.matches.main`."""
    config = config or MatchConfig()
    inputs = {
        "pairs": provenance.file_hash(pairs),
        "features": provenance.file_hash(features),
    }
    if features_ref is not None:
        inputs["features_ref"] = provenance.file_hash(features_ref)
    listed = read_pairs(pairs)
    _check_counts(features, [name for name, _ in listed])
    _check_counts(features_ref or features, [name for _, name in listed])
    conf = configurations.matcher(config.distance_threshold)
    conf["model"]["do_mutual_check"] = config.mutual
    conf["model"]["ratio_threshold"] = config.ratio_threshold

    def match(temporary: Path) -> None:
        _hloc("match_features").main(
            conf, pairs, features, matches=temporary, features_ref=features_ref
        )

    return hdf5_file(output, _made_by("matches", asdict(config), inputs), overwrite, match)


def mapping(
    reference_model: Path,
    image_dir: Path,
    pairs: Path,
    features: Path,
    matches: Path,
    output: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """``hloc.triangulation``; see :func:`.mapping.main`.

    Two things are not as hloc has them, so that the map is the native one to the bit: a seed, and
    half a pixel in its verification (:func:`samfeat_hloc.hloc_plugin.compat.corner_origin`).
    hloc v1.4 does not know this generation of pycolmap: there, the native stage is used.
    """
    if compat.is_legacy(check_installed()):
        _say_native("mapping")
        return native_mapping.main(
            reference_model, image_dir, pairs, features, matches, output, overwrite=overwrite
        )
    made_by = _made_by(
        "mapping",
        {},
        {
            "reference_model": _model_hash(reference_model),
            "pairs": provenance.file_hash(pairs),
            "features": provenance.file_hash(features),
            "matches": provenance.file_hash(matches),
        },
    )
    if native_mapping.finished(output, made_by, overwrite):
        logger.info("map: %s is there already, skipped", output)
        return output
    with work_folder(output) as work:
        model = work / "model"
        triangulation = _hloc("triangulation")
        with hloc_errors("triangulation", matches), compat.corner_origin(triangulation):
            mapped = triangulation.main(
                model, reference_model, image_dir, pairs, features, matches,
                mapper_options=_seeded(),
            )  # fmt: skip
        if len(mapped.points3D) == 0:
            raise SamfeatError(
                f"{matches}: hloc's map has 0 points; `samfeat doctor` tells whether this hloc and"
                " pycolmap work together, --engine native tells what else is wrong"
            )
        for database in model.glob("database.db*"):  # the map does not need it
            database.unlink()
        provenance.write_sidecar(model, made_by)
        put_in_place(model, output)
    return output


def localize(
    map_dir: Path,
    queries: Sequence[Query],
    pairs: Path,
    features: Path,
    matches: Path,
    output: Path,
    *,
    max_error: float = 12.0,
    overwrite: bool = False,
    workers: int = 2,
) -> LocalizationResult:
    """``hloc.localize_sfm``; see :func:`.localize.main`. ``workers`` is hloc's own: one.

    hloc v1.4 does not know this generation of pycolmap: there, the native stage is used.
    """
    if compat.is_legacy(check_installed()):
        _say_native("localization")
        return native_localize.main(
            map_dir, queries, pairs, features, matches, output,
            max_error=max_error, overwrite=overwrite, workers=workers,
        )  # fmt: skip
    listing = "".join(
        f"{q.name} {q.camera.model} {q.camera.width} {q.camera.height}"
        f" {' '.join(map(repr, q.camera.params))}\n"
        for q in queries
    )
    made_by = _made_by(
        "localize",
        {"max_error": max_error},
        {
            **native_localize.input_hashes(map_dir, queries, pairs, features, matches),
            "queries": provenance.names_hash(listing.splitlines()),  # as hloc is given them
        },
    )
    if output.exists() and not overwrite:
        provenance.check(provenance.read_sidecar(output), made_by, output)
        logger.info("localize: %s is there already, skipped", output)
        return native_localize.read_result(output)
    retrieved: dict[str, list[str]] = {}
    for name, db_name in read_pairs(pairs):
        retrieved.setdefault(name, []).append(db_name)
    in_map = set(read_map(map_dir).images)
    for query in queries:
        if not in_map.intersection(retrieved.get(query.name, ())):
            raise SamfeatError(
                f"{pairs}: no image of the map retrieved for query {query.name}; give a list with"
                " a pair for every query"
            )
    with work_folder(output) as work:
        (work / "queries.txt").write_text(listing, encoding="utf-8")
        module = _hloc("localize_sfm")
        with hloc_errors("localize_sfm", map_dir), _recorded(module) as log:
            module.main(
                map_dir, work / "queries.txt", pairs, features, matches, work / "poses.txt",
                config={"estimation": {"ransac": native_localize.ransac_options(max_error)}},
            )  # fmt: skip
        poses = _read_in_order(work / "poses.txt", [query.name for query in queries])
    results = {query.name: _result(query, poses[query.name], log, features) for query in queries}
    native_localize.write_result(results, output, made_by)
    result = LocalizationResult(results)
    logger.info("localize: %d of %d queries", result.num_localized, len(queries))
    return result


@contextlib.contextmanager
def _recorded(module: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """What hloc logs of every query, which it would otherwise only leave in a pickle."""
    original = module.pose_from_cluster
    log: dict[str, dict[str, Any]] = {}

    @functools.wraps(original)
    def recording(localizer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        found, entry = original(localizer, name, *args, **kwargs)
        names = [localizer.reconstruction.images[i].name for i in entry["db"]]
        log[name] = {**entry, "retrieved": names}
        return found, entry

    module.pose_from_cluster = recording
    try:
        yield log
    finally:
        module.pose_from_cluster = original


def _read_in_order(path: Path, names: Sequence[str]) -> dict[str, Pose]:
    """hloc's poses by full name: it writes base names only, but in the order of the queries."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line]
    if [line[0] for line in lines] != [name.rsplit("/", 1)[-1] for name in names]:
        raise SamfeatError(
            f"{path.name}: hloc did not write one pose for each query; use --engine native"
        )
    values = [np.array([float(value) for value in line[1:]]) for line in lines]
    return {n: Pose(qvec=v[:4], tvec=v[4:]) for n, v in zip(names, values, strict=True)}


def _result(
    query: Query, pose: Pose, log: dict[str, dict[str, Any]], features: Path
) -> QueryResult:
    entry = log[query.name]
    found = entry["PnP_ret"]
    keypoints, points_to_db = entry["keypoint_index_to_db"]
    points = np.array(entry["points3D_ids"], dtype=np.int64)
    counts = [0] * len(entry["retrieved"])
    for _, sources in points_to_db:
        for index in sources:
            counts[index] += 1
    inliers = np.zeros(len(points), bool)
    if found is not None:
        inliers = np.asarray(found["inlier_mask"], dtype=bool)
    with FeatureReader(features) as reader:
        num_keypoints = len(reader.keypoints(query.name))
    return QueryResult(
        name=query.name,
        condition=query.condition,
        pose=pose,
        status=native_localize.FALLBACK if found is None else native_localize.LOCALIZED,
        num_keypoints=num_keypoints,
        num_matches=int(entry["num_matches"]),
        num_correspondences=len(points),
        retrieved=list(zip(entry["retrieved"], counts, strict=True)),
        inlier_keypoints=np.array(keypoints, dtype=np.int32)[inliers],
        inlier_points=points[inliers],
    )


def _hloc(name: str) -> Any:
    """One of hloc's modules, with SAMFeat registered."""
    check_installed()
    with hloc_errors(name, Path(f"hloc.{name}")):
        return importlib.import_module(f"hloc.{name}")


def _made_by(
    stage: str, config: dict[str, Any], inputs: dict[str, str], weights_sha256: str | None = None
) -> dict[str, Any]:
    """Provenance that tells hloc's files from the native ones."""
    version = check_installed()
    made_by = provenance.made_by(stage, {"engine": "hloc", **config}, inputs, weights_sha256)
    made_by["versions"]["hloc"] = version
    return made_by


def _extract(
    conf: dict[str, Any],
    image_dir: Path,
    names: Sequence[str],
    output: Path,
    made_by: dict[str, Any],
    overwrite: bool,
) -> Path:
    def extract(temporary: Path) -> None:
        _hloc("extract_features").main(
            conf, image_dir, image_list=list(names), feature_path=temporary
        )

    return hdf5_file(output, made_by, overwrite, extract)


def _images_hash(image_dir: Path, names: Sequence[str]) -> dict[str, str]:
    """The images as an input: names and sizes in bytes, as the native stage has it."""
    sizes = []
    for name in names:
        path = image_dir / check_name(name)
        if not path.is_file():
            raise SamfeatError(f"{path}: no such image; complete the image folder")
        sizes.append(f"{name} {path.stat().st_size} bytes")
    return {"images": provenance.names_hash(sizes)}


def _seeded() -> dict[str, Any]:
    """Options of triangulation with a seed, where this pycolmap takes one."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    seeded: dict[str, Any] = {}
    if hasattr(options, "random_seed"):
        seeded["random_seed"] = _SEED
    for part in ("mapper", "triangulation"):
        if hasattr(getattr(options, part), "random_seed"):
            seeded[part] = {"random_seed": _SEED}
    return seeded


def _model_hash(model: Path) -> str:
    if not is_model(model):
        raise SamfeatError(
            f"{model}: not a COLMAP model; it needs cameras, images and points3D, .bin or .txt"
        )
    binary = model / "images.bin"
    return provenance.file_hash(binary if binary.is_file() else model / "images.txt")


def _check_counts(features: Path, names: Sequence[str]) -> None:
    """Refuse features whose matches hloc would store as garbage."""
    with provenance.open_hdf5(features) as file:
        for name in dict.fromkeys(names):
            if f"{name}/keypoints" not in file:
                raise SamfeatError(f"{features}: no features of {name}; extract them first")
            count = file[f"{name}/keypoints"].shape[0]
            if count > _MOST_KEYPOINTS:
                raise SamfeatError(
                    f"{features}: {name} has {count} keypoints, hloc stores at most"
                    f" {_MOST_KEYPOINTS}; set max_keypoints, or use --engine native"
                )


def _say_native(stage: str) -> None:
    logger.warning(
        "this hloc's %s was written for pycolmap 0.x, so it is done natively; for hloc's own:"
        ' pip install --upgrade "hloc @ %s"',
        stage,
        HLOC_ADDRESS,
    )
