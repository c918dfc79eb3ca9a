"""Any COLMAP model with a list of queries.

::

    DIR/images/...                    photos of the model, and the queries
    DIR/sparse/0/{cameras,images,points3D}.{bin,txt}     also in DIR/sparse or DIR itself
    LIST (--queries)                  'name' or 'name MODEL width height params...' lines
    POSES (--truth)                   optional: 'name qw qx qy qz tx ty tz' lines, or another model

Queries that are in the model are left out of the map: what is mapped are the other images. Their
intrinsics, where the list has none, and their true poses, where none are given, are the model's,
and so are their rigs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..colmap.cameras import Camera
from ..colmap.model import is_model, read_content, read_model
from ..colmap.model_changes import changed, write_model
from ..colmap.model_rigs import frames_in
from ..colmap.poses import Pose, read_poses
from ..errors import SamfeatError
from ..files.textlines import data_lines
from .dataset import (
    INDOORS,
    LONG_TERM,
    Dataset,
    Retrieval,
    check_files,
    check_folder,
)
from .names import read_names
from .queries import Query, by_full_name, read_queries

CONDITION = "all"


def open_dataset(root: Path, queries: Path | None = None, truth: Path | None = None) -> Dataset:
    """Read the model and the lists; images are looked for, not decoded.

    Raises:
        SamfeatError: no list of queries, no model, no photos, malformed lines, queries without
            intrinsics or with none but themselves to be mapped.
    """
    root = check_folder(root)
    if queries is None:
        raise SamfeatError(
            "--benchmark colmap", "it needs the queries", "give --queries LIST, one name a line"
        )
    image_dir = root / "images"
    if not image_dir.is_dir():
        raise SamfeatError(image_dir, "no such folder", "photos and queries belong there")
    candidates = [root / "sparse" / "0", root / "sparse", root / "0", root]
    model = next((folder for folder in candidates if is_model(folder)), None)
    if model is None:
        raise SamfeatError(
            root / "sparse" / "0",
            "no COLMAP model there, nor in a folder above",
            "cameras, images and points3D, .bin or .txt, belong there",
        )
    return split_model(
        root, image_dir, model, queries, truth=truth, thresholds=(*INDOORS[:4], *LONG_TERM)
    )


def split_model(
    root: Path,
    image_dir: Path,
    model: Path,
    queries: Path,
    *,
    truth: Path | None = None,
    thresholds: tuple[tuple[float, float], ...],
    benchmark: str = "colmap",
    scene: str | None = None,
    retrieval: Retrieval | None = None,
) -> Dataset:
    """A dataset whose database is a model without the queries that a list names.

    Args:
        root, image_dir: see `Dataset`.
        model: the COLMAP model, with or without the queries.
        queries: list of names, or of names and intrinsics.
        truth: poses file or COLMAP model of the queries; the model's own poses unless given.
        thresholds, benchmark, scene, retrieval: see `Dataset`.

    Raises:
        SamfeatError: malformed lines, photos that are not there, no image left to map, queries
            without intrinsics.
    """
    content = read_content(model)
    lines = data_lines(queries)
    if lines and len(lines[0][1]) > 1:
        listed = read_queries(queries, CONDITION)
    else:
        names = read_names(queries)
        cameras = _cameras(model, content.poses, names, queries)
        listed = [Query(name, CONDITION, cameras[name]) for name in names]
    left_out = {query.name for query in listed} & content.poses.keys()
    db_poses = {name: pose for name, pose in content.poses.items() if name not in left_out}
    if not db_poses:
        raise SamfeatError(
            queries, f"it names every image of {model}, which leaves none to map", "name some"
        )
    check_files(image_dir, [query.name for query in listed], queries)
    check_files(image_dir, db_poses, model)

    def write(folder: Path) -> None:
        write_model(changed(read_model(model), keep=lambda name: name in db_poses), folder)

    return Dataset(
        root=root,
        image_dir=image_dir,
        reference_model=model,
        queries=listed,
        ground_truth=_truth(truth, content.poses, left_out, listed),
        db_poses=db_poses,
        num_points=content.num_points,
        truth_file=model if truth is None else truth,
        benchmark=benchmark,
        scene=scene,
        retrieval=retrieval or Retrieval(20, 50),
        thresholds=thresholds,
        write_reference=write if left_out else None,
        frames=lambda: frames_in(model),
    )


def _cameras(
    model: Path, known: Collection[str], names: list[str], queries: Path
) -> dict[str, Camera]:
    """The intrinsics that a model has of queries."""
    if without := [name for name in names if name not in known]:
        raise SamfeatError(
            queries,
            f"{without[0]} has no intrinsics, and is not in {model} either",
            "write 'name MODEL width height params...'",
        )
    found = read_model(model)
    return {name: found.camera_of(name) for name in names}


def _truth(
    path: Path | None, poses: dict[str, Pose], of_model: set[str], queries: list[Query]
) -> dict[str, Pose] | None:
    if path is None:
        return {name: poses[name] for name in sorted(of_model)} or None
    if not path.exists():
        raise SamfeatError(path, "no such file", "check --truth")
    given = read_content(path).poses if path.is_dir() else read_poses(path)
    found = by_full_name(given, queries, path)
    names = {query.name for query in queries}
    return {name: pose for name, pose in found.items() if name in names} or None
