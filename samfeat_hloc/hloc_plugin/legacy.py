"""hloc v1.4 with a pycolmap of today: its mapping and localization, done by the native stages.

v1.4 speaks to pycolmap 0.x, whose names and shapes are gone. Its extraction, pairs and matching do
not mind. In the place of ``hloc.triangulation.main`` and ``hloc.localize_sfm.main`` stand these
two, with the same arguments and the same files.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SamfeatError


def triangulate(
    sfm_dir: Path,
    reference_model: Path,
    image_dir: Path,
    pairs: Path,
    features: Path,
    matches: Path,
    skip_geometric_verification: bool = False,
    estimate_two_view_geometries: bool = False,
    min_match_score: float | None = None,
    verbose: bool = False,
    mapper_options: dict[str, Any] | None = None,
) -> Any:
    """``hloc.triangulation.main`` of v1.4; returns a ``pycolmap.Reconstruction``.

    Raises:
        SamfeatError: what :func:`samfeat_hloc.localization.mapping.main` raises, or an option that
            only hloc's own has.
    """
    import pycolmap

    from ..colmap.database import work_folder
    from ..localization import mapping

    _refuse(
        skip_geometric_verification=skip_geometric_verification,
        estimate_two_view_geometries=estimate_two_view_geometries,
        min_match_score=min_match_score,
        mapper_options=mapper_options,
    )
    sfm_dir.mkdir(parents=True, exist_ok=True)
    with work_folder(sfm_dir / "map") as folder:
        model = mapping.main(reference_model, image_dir, pairs, features, matches, folder / "map")
        for file in model.glob("*.bin"):
            file.replace(sfm_dir / file.name)
    return pycolmap.Reconstruction(str(sfm_dir))


def localize(
    reference_sfm: Any,
    queries: Path,
    retrieval: Path,
    features: Path,
    matches: Path,
    results: Path,
    ransac_thresh: int = 12,
    covisibility_clustering: bool = False,
    prepend_camera_name: bool = False,
    config: dict[str, Any] | None = None,
) -> None:
    """``hloc.localize_sfm.main`` of v1.4, without its pickled log.

    Raises:
        SamfeatError: what :func:`samfeat_hloc.localization.localize.main` raises, or an option that
            only hloc's own has.
    """
    from ..datasets.queries import read_queries
    from ..localization import localize as native

    _refuse(covisibility_clustering=covisibility_clustering, config=config)
    lists = sorted(Path(queries.parent).glob(queries.name))
    if not lists:
        raise SamfeatError(queries, "no such list of queries", "give a file, or a pattern of some")
    listed = [query for path in lists for query in read_queries(path, path.stem)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "map"
        if isinstance(reference_sfm, (str, Path)):
            model = Path(reference_sfm)
        else:
            model.mkdir()
            reference_sfm.write(str(model))
        found = native.main(
            model, listed, retrieval, features, matches, Path(folder) / "poses.txt",
            max_error=float(ransac_thresh),
        )  # fmt: skip
    kept = 2 if prepend_camera_name else 1
    lines = []
    for name, pose in found.poses.items():
        numbers = " ".join(map(str, np.concatenate([pose.qvec, pose.tvec]).tolist()))
        lines.append(f"{'/'.join(name.split('/')[-kept:])} {numbers}\n")
    results.write_text("".join(lines), encoding="utf-8")


def _refuse(**options: Any) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise SamfeatError(given[0], "not possible with hloc v1.4 and this pycolmap", "update hloc")


@contextlib.contextmanager
def numpy_names() -> Iterator[None]:
    """``numpy.NaN`` for as long as v1.4's database module loads: NumPy 2 took it away."""
    added = not hasattr(np, "NaN")
    if added:
        np.NaN = np.nan  # type: ignore[attr-defined]  # noqa: NPY201
    try:
        yield
    finally:
        if added:
            del np.NaN  # type: ignore[attr-defined]  # noqa: NPY201
