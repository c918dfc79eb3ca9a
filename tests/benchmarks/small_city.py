"""A few photos of the demo's city with poses and depth, and benchmarks' layouts made from them.

Everything that a layout needs is written as the benchmark publishes it: folders, names, files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import Model, ModelImage, read_model
from samfeat_hloc.colmap.model_changes import assemble
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.scenes import DAY, build_city, illuminate, plan_shots, render
from samfeat_hloc.scenes.demo import Shot, _write_reference_model

WIDTH, HEIGHT = 320, 240
NUM_DB, NUM_QUERIES = 8, 2


@dataclass(frozen=True)
class City:
    """Database photos db/db_000.jpg, ..., and queries, of a street.

    photos: RGB by name. depth: metres by database name. model: a binary COLMAP model of the
    database, with points.
    """

    database: list[Shot]
    queries: list[Shot]
    photos: dict[str, np.ndarray]
    depth: dict[str, np.ndarray]
    model: Path

    @property
    def poses(self) -> dict[str, Pose]:
        return {shot.name: shot.pose for shot in (*self.database, *self.queries)}


def photograph_city(folder: Path) -> City:
    """Render the photos, all by day, and write the model."""
    city = illuminate(build_city(0), DAY, 0)
    shots = plan_shots(0, NUM_DB, NUM_QUERIES // 2, (WIDTH, HEIGHT))
    phone = next(shot.camera for shot in shots if shot.condition != "db")
    shots = [shot if shot.condition == "db" else replace(shot, camera=phone) for shot in shots]
    views = {shot.name: render(city, shot.camera, shot.pose) for shot in shots}
    database = [shot for shot in shots if shot.condition == "db"]
    _write_reference_model(folder / "model", database, [views[shot.name] for shot in database])
    return City(
        database,
        [shot for shot in shots if shot.condition != "db"],
        {name: view.image for name, view in views.items()},
        {shot.name: views[shot.name].depth for shot in database},
        folder / "model",
    )


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() == ".jpg" else []
    assert cv2.imwrite(str(path), image[..., ::-1], options)


def numbers(*values: object) -> str:
    """Numbers, and arrays of them, with all digits."""
    flat = [np.ravel(value) for value in values]
    return " ".join(repr(float(value)) for value in np.concatenate(flat))


def intrinsics(camera: Camera) -> str:
    return f"{camera.model} {camera.width} {camera.height} {numbers(camera.params)}"


def radial(camera: Camera) -> Camera:
    """A PINHOLE camera of square pixels as SIMPLE_RADIAL without distortion."""
    focal, _, x, y = camera.params
    return Camera("SIMPLE_RADIAL", camera.width, camera.height, (focal, x, y, 0.0))


def model_of(
    city: City,
    rename: Callable[[str], str],
    *,
    camera: Callable[[Camera], Camera] = lambda camera: camera,
    queries: bool = False,
) -> Model:
    """The city's model under other names, with other cameras; the queries see no points."""
    model = read_model(city.model)
    images = [(rename(n), camera(model.camera_of(n)), image) for n, image in model.images.items()]
    if queries:
        nothing = np.zeros(0, dtype=np.int32)
        images += [
            (rename(q.name), camera(q.camera), ModelImage(0, 0, q.name, q.pose, nothing))
            for q in city.queries
        ]
    return assemble(images, model.xyz, model.colors, model.errors)


def write_nvm(path: Path, model: Model, *, distortion: float = 0.0) -> None:
    """As VisualSFM does: a blank line here and there, and a tail."""
    lines = ["NVM_V3 ", "", str(len(model.images))]
    numbered: dict[int, list[str]] = {row: [] for row in range(len(model.point_ids))}
    for number, (name, image) in enumerate(model.images.items()):
        focal = model.camera_of(name).params[0]
        pose = numbers(image.pose.qvec, image.pose.centre)
        lines.append(f"{name} {focal!r} {pose} {distortion} 0")
        for keypoint, row in enumerate(image.points):
            if row >= 0:
                numbered[int(row)].append(f"{number} {keypoint} 0.5 0.5")
    lines += ["", str(len(model.point_ids))]
    for row, seen in numbered.items():
        xyz, color = numbers(model.xyz[row]), " ".join(str(c) for c in model.colors[row])
        lines.append(f"{xyz} {color} {len(seen)} {' '.join(seen)} ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "", "0", "", "#the last part"]) + "\n")
