"""A localization dataset in the layout of Aachen Day-Night v1.1.

::

    DIR/images_upright/db/...                          photos of the reference model
    DIR/images_upright/query/...                       photos to localize
    DIR/3D-models/aachen_v_1_1/{cameras,images,points3D}.{bin,txt}
    DIR/queries/<condition>_time_queries_with_intrinsics.txt    name MODEL width height params...
    DIR/queries/ground_truth.txt                       optional: base name, qw qx qy qz tx ty tz

The condition of a query (day, night) is the start of its list's file name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.images import check_name
from samfeat_hloc.localization.poses import Pose, read_poses
from samfeat_hloc.localization.reference_model import CAMERA_MODELS, find_model, read_model
from samfeat_hloc.localization.textlines import data_lines, parse_number

LIST_SUFFIX = "_time_queries_with_intrinsics.txt"


@dataclass(frozen=True)
class Camera:
    """Intrinsics as COLMAP has them.

    Attributes:
        model: name of a COLMAP camera model.
        width, height: image size in pixels.
        params: the model's parameters; the principal point counts from the corner of the
            top-left pixel, whose centre is (0.5, 0.5).
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def to_pycolmap(self) -> Any:
        """As a ``pycolmap.Camera``."""
        import pycolmap

        try:
            return pycolmap.Camera(
                model=self.model, width=self.width, height=self.height, params=list(self.params)
            )
        except Exception as error:
            raise SamfeatError(
                f"camera model {self.model}: pycolmap {pycolmap.__version__} does not take it "
                f"({' '.join(str(error).split())}); install a newer pycolmap"
            ) from None


@dataclass(frozen=True)
class Query:
    """A photo to localize: name relative to the image folder, condition, intrinsics."""

    name: str
    condition: str
    camera: Camera

    @property
    def base_name(self) -> str:
        """The name without folders, as submissions and the ground truth have it."""
        return base_name(self.name)


@dataclass(frozen=True)
class AachenDataset:
    """A dataset whose lists are read and whose files are known to exist.

    Attributes:
        root: the dataset folder.
        image_dir: ``root/images_upright``; all names are relative to it.
        reference_model: folder of the COLMAP model of the database photos.
        queries: in the order of the lists; the lists in the order of their file names.
        db_names: names of the reference model's images, sorted.
        db_poses: their poses (world to camera) by name, sorted.
        ground_truth: poses by base name, or None when the dataset has none.
        num_points: number of points in the reference model.
    """

    root: Path
    image_dir: Path
    reference_model: Path
    queries: list[Query]
    db_names: list[str]
    ground_truth: dict[str, Pose] | None = None
    db_poses: dict[str, Pose] = field(default_factory=dict, repr=False)
    num_points: int = 0

    @classmethod
    def open(cls, root: Path) -> AachenDataset:
        """Read lists, reference model and ground truth; images are looked for, not decoded.

        Raises:
            SamfeatError: with file and, in lists, line: missing or empty folders and lists,
                malformed lines, duplicate queries, images that are not there, a reference model
                that is broken or without images or points.
        """
        root = Path(root)
        image_dir = root / "images_upright"
        if not root.is_dir():
            raise SamfeatError(f"{root}: no such dataset folder; check --dataset")
        if not any(root.iterdir()):
            raise SamfeatError(f"{root}: the dataset folder is empty; unpack the dataset into it")
        if not image_dir.is_dir():
            raise SamfeatError(
                f"{image_dir}: no such folder; photos belong in images_upright/db and "
                "images_upright/query"
            )
        queries = _read_lists(root / "queries")
        reference_model = find_model(root / "3D-models")
        content = read_model(reference_model)
        db_names = list(content.poses)
        _check_files(image_dir, [query.name for query in queries], root / "queries")
        _check_files(image_dir, db_names, reference_model)
        truth_file = root / "queries" / "ground_truth.txt"
        ground_truth = read_poses(truth_file) if truth_file.exists() else None
        return cls(
            root=root,
            image_dir=image_dir,
            reference_model=reference_model,
            queries=queries,
            db_names=db_names,
            ground_truth=ground_truth,
            db_poses=content.poses,
            num_points=content.num_points,
        )

    @property
    def query_names(self) -> list[str]:
        """Full names of all queries, in the order of ``queries``."""
        return [query.name for query in self.queries]

    @property
    def conditions(self) -> list[str]:
        """The conditions in the order of their lists, as ``["day", "night"]``."""
        return list(dict.fromkeys(query.condition for query in self.queries))

    def queries_by_base_name(self) -> dict[str, Query]:
        """Queries by their base names, which have to be unique.

        Raises:
            SamfeatError: two queries in different folders share a base name.
        """
        by_base: dict[str, Query] = {}
        for query in self.queries:
            other = by_base.setdefault(query.base_name, query)
            if other is not query:
                raise SamfeatError(
                    f"{self.root / 'queries'}: '{other.name}' and '{query.name}' have the same "
                    "base name, by which submissions and ground truth name queries; rename one"
                )
        return by_base


def base_name(name: str) -> str:
    """The part of an image name after its last ``/``."""
    return PurePosixPath(name).name


def read_queries(path: Path, condition: str) -> list[Query]:
    """Read one list of queries with intrinsics, ``name MODEL width height params...`` a line.

    Raises:
        SamfeatError: with file and line: malformed line, unknown camera model, wrong number of
            parameters, sizes or focal lengths that are not positive, values that are not finite,
            a name that is not allowed or listed twice; without a line: no file, an empty list.
    """
    queries: dict[str, Query] = {}
    first_line: dict[str, int] = {}
    for number, tokens in data_lines(path):
        try:
            name = check_name(tokens[0])
            if name in queries:
                raise ValueError(
                    f"'{name}' is on line {first_line[name]} already; keep one line for each query"
                )
            queries[name] = Query(name, condition, parse_camera(tokens[1:]))
        except (SamfeatError, ValueError) as error:
            raise SamfeatError(f"{path}:{number}: {error}") from None
        first_line[name] = number
    if not queries:
        raise SamfeatError(
            f"{path}: the list has no queries; write 'name MODEL width height params...' lines"
        )
    return list(queries.values())


def parse_camera(tokens: list[str]) -> Camera:
    """Intrinsics from ``MODEL width height params...``; ValueError says what is wrong and how
    to mend it."""
    form = "write 'name MODEL width height params...'"
    if len(tokens) < 4:
        raise ValueError(f"intrinsics are missing ({len(tokens)} values after the name); {form}")
    model, *numbers = tokens
    if model not in CAMERA_MODELS:
        known = ", ".join(f"{name} ({entry[1]})" for name, entry in CAMERA_MODELS.items())
        if any(token in CAMERA_MODELS for token in numbers):
            raise ValueError(
                "too many values before the camera model; names with white space are not "
                "possible in this format, rename the file"
            )
        raise ValueError(
            f"unknown camera model '{model[:60]}'; use one of COLMAP's, with that many "
            f"parameters: {known}"
        )
    _, num_params, num_focal = CAMERA_MODELS[model]
    size = [int(token) if token.isascii() and token.isdigit() else 0 for token in numbers[:2]]
    if not all(0 < side < 1 << 31 for side in size):
        raise ValueError(
            f"image size '{numbers[0][:40]} {numbers[1][:40]}' is not two positive integers; {form}"
        )
    try:
        params = tuple(parse_number(token) for token in numbers[2:])
    except ValueError as error:
        raise ValueError(f"{error}; {form}") from None
    if len(params) != num_params:
        raise ValueError(
            f"{len(params)} parameters, but {model} has {num_params}; "
            "write as many as the camera model has"
        )
    if any(focal <= 0 for focal in params[:num_focal]):
        raise ValueError(
            f"focal length {min(params[:num_focal])} is not positive; "
            "give the focal length in pixels"
        )
    return Camera(model, size[0], size[1], params)


def _read_lists(folder: Path) -> list[Query]:
    """All queries of ``<condition>_time_queries_with_intrinsics.txt`` in a folder."""
    if not folder.is_dir():
        raise SamfeatError(f"{folder}: no such folder; query lists belong there")
    lists = sorted(folder.glob(f"*{LIST_SUFFIX}"))
    if not lists:
        raise SamfeatError(
            f"{folder}: no query list; put day{LIST_SUFFIX} or night{LIST_SUFFIX} there"
        )
    queries: list[Query] = []
    list_of: dict[str, Path] = {}
    for path in lists:
        for query in read_queries(path, path.name.removesuffix(LIST_SUFFIX) or "all"):
            if query.name in list_of:
                raise SamfeatError(
                    f"{path}: '{query.name}' is in {list_of[query.name].name} too; "
                    "list each query once"
                )
            list_of[query.name] = path
            queries.append(query)
    return queries


def _check_files(image_dir: Path, names: list[str], source: Path) -> None:
    missing = [name for name in names if not (image_dir / name).is_file()]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise SamfeatError(
            f"{image_dir}: {len(missing)} of the {len(names)} images named by {source} are not "
            f"there ({', '.join(missing[:3])}{more}); unpack the photos or mend the names"
        )
