"""hloc's own outputs: its poses file, and the pickled log beside it, read without running code.

A pickle can run whatever its writer likes. Here only numbers, texts and NumPy's arrays are made of
it; pycolmap's objects and paths become records that hold what was stored of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..colmap.model import Model
from ..colmap.poses import Pose
from ..errors import SamfeatError, in_one_line
from ..files.textlines import read_text
from ..localization.result import FALLBACK, LOCALIZED, LocalizationResult, QueryResult

_SUFFIX = "_logs.pkl"
_ARRAYS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}
_MEND = "give the poses file that hloc.localize_sfm wrote, with its log beside it"


@dataclass(frozen=True)
class HlocLog:
    """What hloc wrote of a localization.

    result: its queries.
    tangents: by query, of half the horizontal and vertical field of view, where the log says it.
    features, matches: the files that it names; None where they are not there.
    """

    result: LocalizationResult
    tangents: dict[str, tuple[float, float]]
    features: Path | None
    matches: Path | None


def log_beside(poses: Path) -> Path:
    """Where hloc writes the log of a poses file."""
    return poses.with_name(poses.name + _SUFFIX)


def read_hloc(poses: Path, model: Model) -> HlocLog:
    """Read the poses file of ``hloc.localize_sfm`` and its log.

    Arguments:
        poses: the file; ``_logs.pkl`` is looked for beside it.
        model: the COLMAP model that it localized in.

    Raises:
        SamfeatError: a file is missing, is not hloc's, or holds Python objects that could run code;
            another model.
    """
    log = log_beside(poses)
    if not log.is_file():
        raise SamfeatError(log, "no such file", _MEND)
    content = _load(log)
    try:
        entries = {name: _best_cluster(entry) for name, entry in content["loc"].items()}
        found = _poses(poses, [name for name, entry in entries.items() if entry is not None])
        names = {image.image_id: image.name for image in model.images.values()}
        results = {
            name: _result(name, found[name], entry, names)
            for name, entry in entries.items()
            if entry is not None
        }
        tangents = {
            name: field
            for name, entry in entries.items()
            if entry is not None and (field := _tangents(entry)) is not None
        }
        files = [_path(content.get(key), poses) for key in ("features", "matches")]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"not the log of hloc.localize_sfm ({in_one_line(error)})"
        raise SamfeatError(log, reason, _MEND) from error
    return HlocLog(LocalizationResult(results), tangents, files[0], files[1])


class _Record:
    """Stands for an object of pycolmap or a path: its arguments and its state, and no code."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Foreign(Exception):
    """What hloc does not write; the name of it."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return super().find_class(module, name)
        if module.split(".")[0] in ("pycolmap", "pathlib"):
            return _Record
        raise _Foreign(f"{module}.{name}")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as stream:
            content = _Reader(stream).load()
    except _Foreign as error:
        raise SamfeatError(
            path,
            f"holds what hloc does not write there and is not loaded ({in_one_line(error)})",
            _MEND,
        ) from None
    except OSError as error:
        raise SamfeatError(path, f"cannot be read ({error.strerror})", "check it") from error
    except Exception as error:  # pickle raises almost anything on a broken file
        raise SamfeatError(path, "is cut off, damaged or no pickle", _MEND) from error
    if not isinstance(content, dict) or not isinstance(content.get("loc"), dict):
        raise SamfeatError(path, "not the log of hloc.localize_sfm", _MEND)
    return content


def _best_cluster(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry itself, or with covisibility clustering that of its best cluster, if any."""
    if "log_clusters" not in entry:
        return entry
    best = entry["best_cluster"]
    return None if best is None else entry["log_clusters"][best]  # type: ignore[no-any-return]


def _poses(path: Path, names: list[str]) -> dict[str, Pose]:
    """Poses by full name. hloc writes base names, or the folder's too, in the log's order."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    written = [line[0] for line in lines]
    for parts in (1, 2):
        if written == ["/".join(name.split("/")[-parts:]) for name in names]:
            break
    else:
        raise SamfeatError(
            path, f"does not have the {len(names)} queries of its log in their order", _MEND
        )
    values = [np.array([float(value) for value in line[1:]]) for line in lines]
    if any(len(value) != 7 or not np.isfinite(value).all() for value in values):
        raise SamfeatError(path, "not lines 'name qw qx qy qz tx ty tz'", _MEND)
    return {n: Pose(qvec=v[:4], tvec=v[4:]) for n, v in zip(names, values, strict=True)}


def _result(
    name: str, pose: Pose, entry: Mapping[str, Any], names: Mapping[int, str]
) -> QueryResult:
    found = entry["PnP_ret"]
    keypoints, sources = entry["keypoint_index_to_db"]
    keypoints = np.asarray(keypoints, dtype=np.int32).reshape(-1)
    points = np.asarray(entry["points3D_ids"], dtype=np.int64).reshape(-1)
    if len(keypoints) != len(points) or len(sources) != len(points):
        raise ValueError(f"{name} has {len(keypoints)} keypoints with {len(points)} points")
    counts = [0] * len(entry["db"])
    for _, images in sources:
        for image in images:
            counts[image] += 1
    inliers = np.zeros(len(points), dtype=bool)
    if found is not None:
        inliers = np.asarray(found["inlier_mask"], dtype=bool).reshape(len(points))
    unknown = [number for number in entry["db"] if number not in names]
    if unknown:
        raise ValueError(f"image {unknown[0]}, which {name} was matched with, is not in the model")
    return QueryResult(
        name=name,
        condition=name.split("/")[-2] if "/" in name else "queries",
        pose=pose,
        status=FALLBACK if found is None else LOCALIZED,
        num_keypoints=0,
        num_matches=int(entry["num_matches"]),
        num_correspondences=len(points),
        num_matched=len(np.unique(keypoints)),
        retrieved=[(names[n], count) for n, count in zip(entry["db"], counts, strict=True)],
        inlier_keypoints=keypoints[inliers],
        inlier_points=points[inliers],
    )


def _tangents(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    camera = (entry["PnP_ret"] or {}).get("camera")
    state = camera.state if isinstance(camera, _Record) else None
    if not isinstance(state, dict) or not len(state.get("params", ())):
        return None
    focal = float(state["params"][0])
    return state["width"] / 2 / focal, state["height"] / 2 / focal


def _path(value: Any, poses: Path) -> Path | None:
    """A file that hloc names, from where it was started or in the folder of the poses."""
    if isinstance(value, _Record):
        value = str(PurePosixPath(*map(str, value.arguments)))
    if not isinstance(value, str):
        return None
    named = Path(value)
    return next((path for path in (named, poses.parent / named.name) if path.is_file()), None)
