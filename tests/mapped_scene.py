"""The synthetic scene in Aachen's layout: reference model, features, pairs and matches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
import synthetic_scene
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.datasets.queries import Query
from samfeat_hloc.localization import matches
from samfeat_hloc.localization.inputs import LocalizationInputs, MappingInputs

DB = [f"db/{i}.jpg" for i in range(8)]
QUERIES = ["query/day/a.jpg", "query/night/b.jpg", "query/night/blind.jpg"]
BLIND = QUERIES[2]  # sees noise only
CAMERA = Camera("PINHOLE", WIDTH, HEIGHT, (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2))


@dataclass(frozen=True)
class Files:
    """The scene and where its files lie."""

    scene: Scene
    root: Path

    @property
    def reference(self) -> Path:
        return self.root / "3D-models" / "aachen_v_1_1"

    @property
    def images(self) -> Path:
        return self.root / "images_upright"

    @property
    def features(self) -> Path:
        return self.root / "features.h5"

    def pairs(self, kind: str) -> Path:
        return self.root / f"pairs-{kind}.txt"

    def matches(self, kind: str) -> Path:
        return self.root / f"matches-{kind}.h5"

    def mapping(self, **changes: Path) -> MappingInputs:
        inputs = MappingInputs(
            self.reference, self.images, self.pairs("db"), self.features, self.matches("db")
        )
        return replace(inputs, **changes)

    def localization(self, **changes: Any) -> LocalizationInputs:
        """In the map at `root / "map"`, which the tests make."""
        inputs = LocalizationInputs(
            self.root / "map", self.queries, self.pairs("query"), self.features,
            self.matches("query"),
        )  # fmt: skip
        return replace(inputs, **changes)

    @property
    def queries(self) -> list[Query]:
        return [Query(name, name.split("/")[1], CAMERA) for name in QUERIES]


def build(root: Path) -> Files:
    """Cameras on an arc; the queries stand between those of the database."""
    order = [*DB[:4], QUERIES[0], *DB[4:6], QUERIES[1], *DB[6:], QUERIES[2]]
    files = Files(synthetic_scene.build(order), root)
    synthetic_scene.write_images(files.scene, files.images)
    synthetic_scene.write_features(files.scene, files.features, frozenset([BLIND]))
    write_reference(files.scene, files.reference)
    db_pairs = [f"{a} {b}" for i, a in enumerate(DB) for b in DB[i + 1 : i + 4]]
    files.pairs("db").write_text("\n".join(db_pairs))
    # every pair of queries twice: doubles must not count
    query_pairs = [f"{name} {db_name}" for name in QUERIES for db_name in [*DB, DB[0]]]
    files.pairs("query").write_text("\n".join(query_pairs))
    for kind in ("db", "query"):
        matches.main(files.pairs(kind), files.features, files.matches(kind))
    return files


def write_reference(scene: Scene, folder: Path) -> None:
    """Cameras and poses of the database with one point, as another feature's model has them.

    Ids are not 1, 2, 3: they have to survive.
    """
    folder.mkdir(parents=True)
    lines = []
    for i, name in enumerate(reversed(DB)):
        pose = scene.poses[name]
        values = " ".join(repr(float(value)) for value in [*pose.qvec, *pose.tvec])
        lines += [f"{10 + 3 * i} {values} 7 {name}", f"5 5 {1 if i < 2 else -1}"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    params = " ".join(map(repr, CAMERA.params))
    (folder / "cameras.txt").write_text(f"7 {CAMERA.model} {WIDTH} {HEIGHT} {params}\n")
    (folder / "points3D.txt").write_text("1 0 0 0 128 128 128 0.5 10 0 13 0\n")
    pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
    for text in folder.glob("*.txt"):
        text.unlink()


def copy_without(source: Path, target: Path, name: str) -> Path:
    """A copy of an HDF5 file without one of its groups."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        del file[name]
    return target


def with_features(source: Path, target: Path, name: str, **datasets: np.ndarray) -> Path:
    """A copy of a feature file with some datasets of an image replaced."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        for dataset, value in datasets.items():
            del file[name][dataset]
            file[name][dataset] = value
    return target
