"""The demo dataset: the city photographed by day and by night, in Aachen v1.1's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..colmap.cameras import Camera
from ..colmap.poses import Pose, write_poses
from ..errors import SamfeatError
from ..files.atomic import put_in_place, work_folder
from ..progress import tqdm
from .city import build_city
from .lighting import DAY, NIGHT, day_exposure, illuminate, night_exposure, photograph
from .render import Rendering, correspond, lift, look_at, render
from .surfaces import LENGTH, City

RECIPE = 1
"""Raised whenever the same parameters begin to give other pictures."""

WORKERS = 2
CORNERS_PER_IMAGE = 160
MIN_TRACK = 2
STRIDE = 3.0


@dataclass(frozen=True)
class Shot:
    """A photograph to take: image name in the dataset, condition (db, day, night), where from."""

    name: str
    condition: str
    camera: Camera
    pose: Pose


def write_demo(
    output_dir: Path,
    *,
    seed: int = 0,
    num_db: int = 40,
    num_queries: int = 10,
    size: tuple[int, int] = (640, 480),
) -> Path:
    """Write the demo dataset and return its folder; the same arguments give the same files.

    ``num_queries`` per condition (day, night); ``size`` is (width, height). The layout is that of
    :class:`..datasets.aachen.AachenDataset`, with ``queries/ground_truth.txt``. The reference
    model holds points sampled from the true surfaces (metres), each with all the database images
    that see it; its ``points2D`` are exact projections, COLMAP's corner origin.

    A finished demo made with the same arguments is left as it is.

    Raises:
        SamfeatError: ``output_dir`` holds something else; too few images, too small a size.
    """
    output_dir = Path(output_dir)
    recipe = {
        "recipe": RECIPE, "seed": seed, "num_db": num_db, "num_queries": num_queries,
        "size": list(size),
    }  # fmt: skip
    if num_db < 2 or num_queries < 1 or min(size) < 64:
        raise SamfeatError(
            output_dir,
            "a demo needs 2 database images, 1 query and 64 pixels a side at the least",
            "ask for more",
        )
    if _finished(output_dir, recipe):
        return output_dir
    with work_folder(output_dir) as work:
        _write(work / "demo", recipe, plan_shots(seed, num_db, num_queries, size))
        put_in_place(work / "demo", output_dir)
    return output_dir


def _finished(output_dir: Path, recipe: dict[str, object]) -> bool:
    """Whether this very demo is there already; SamfeatError if something else is."""
    if not output_dir.exists():
        return False
    if not output_dir.is_dir():
        raise SamfeatError(output_dir, "is a file", "name a folder for the demo dataset")
    if not any(output_dir.iterdir()):
        return False
    try:
        found = json.loads((output_dir / "demo.json").read_text())
    except (OSError, ValueError):
        found = None
    if found != recipe:
        raise SamfeatError(
            output_dir, "holds something other than this demo", "remove it or name another folder"
        )
    return True


def plan_shots(
    seed: int, num_db: int, num_queries: int, size: tuple[int, int] = (640, 480)
) -> list[Shot]:
    """Where the photographs are taken: a walk up and down the street, then the queries.

    Database cameras face the houses from the other half of the road, turned by up to 25 degrees;
    neighbours are 3 m apart at the most, so that they overlap. Queries stand between them, nearer
    or farther, turned by up to 28 degrees; every fourth is a wider one, turned by about 40.
    """
    rng = np.random.default_rng((seed, 2))
    width, height = size

    def camera(focal: float) -> Camera:
        return Camera("PINHOLE", width, height, (focal, focal, width / 2, height / 2))

    walk = (camera(0.80 * width), camera(0.84 * width))
    per_side = (num_db + 1) // 2
    walked = min(LENGTH - 5, STRIDE * (per_side - 1))  # few photographs: a part of the street
    shots = []
    for index in range(num_db):
        side = 1 if index < per_side else -1
        step = index if side > 0 else num_db - 1 - index
        x = 2.5 + walked * step / max(per_side - 1, 1)
        turn = np.deg2rad((-23.0, 2.0, 23.0, -4.0)[index % 4] + rng.normal(0, 2.0))
        place = np.array((x, -side * (2.2 + rng.uniform(-0.8, 0.8)), rng.uniform(1.55, 1.8)))
        pose = look_at(place, side * np.pi / 2 + turn, np.deg2rad(rng.uniform(4, 9)))
        shots.append(Shot(f"db/db_{index:03d}.jpg", "db", walk[side < 0], pose))
    for condition in ("day", "night"):
        phone = camera(float(rng.uniform(0.78, 0.9)) * width)
        for index in range(num_queries):
            side = 1 if index % 2 == 0 else -1
            x = 3.5 + max(walked - 2, 0) * (index + rng.uniform(0, 1)) / num_queries
            angle = rng.uniform(-28, 28) if index % 4 != 3 else rng.choice((-40.0, 40.0))
            place = np.array((x, -side * rng.uniform(-0.5, 3.0), rng.uniform(1.45, 1.95)))
            yaw = side * np.pi / 2 + np.deg2rad(angle)
            pose = look_at(place, yaw, np.deg2rad(rng.uniform(2, 11)))
            name = f"query/{condition}/{condition}_{index:03d}.jpg"
            shots.append(Shot(name, condition, phone, pose))
    return shots


def _write(root: Path, recipe: dict[str, object], shots: Sequence[Shot]) -> None:
    seed = int(str(recipe["seed"]))
    with tqdm(total=3 + 2 * len(shots), desc="building the demo city", leave=False) as progress:
        city = build_city(seed)
        progress.update(1)
        views: list[Rendering] = []
        for light, conditions in ((DAY, ("db", "day")), (NIGHT, ("night",))):
            lit = illuminate(city, light, seed)
            progress.update(1)
            progress.set_description(f"photographing by {conditions[-1]}")
            numbered = [(i, shot) for i, shot in enumerate(shots) if shot.condition in conditions]
            views += _photograph_all(root, lit, numbered, seed, lambda: progress.update(2))
        progress.set_description("writing the reference model")
        database = [shot for shot in shots if shot.condition == "db"]
        _write_reference_model(root / "3D-models" / "aachen_v_1_1", database, views)
    _write_lists(root / "queries", [shot for shot in shots if shot.condition != "db"])
    (root / "demo.json").write_text(json.dumps(recipe, indent=1) + "\n")


def _photograph_all(
    root: Path,
    city: City,
    numbered: Sequence[tuple[int, Shot]],
    seed: int,
    done: Callable[[], object],
) -> list[Rendering]:
    """Take and save photographs; the database's are returned with what they show of the city."""

    def take(item: tuple[int, Shot]) -> Rendering | None:
        index, shot = item
        rng = np.random.default_rng((seed, 3, index))
        view = render(city, shot.camera, shot.pose)
        if shot.condition == "night":
            exposure = night_exposure(rng)
        else:
            exposure = day_exposure(rng, mild=0.3 if shot.condition == "db" else 1.0)
        _save(root / "images_upright" / shot.name, photograph(view.image, exposure, rng))
        done()
        return view if shot.condition == "db" else None

    with ThreadPoolExecutor(WORKERS) as pool:
        return [view for view in pool.map(take, numbered) if view is not None]


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 93])
    path.write_bytes(data.tobytes())


def _write_lists(folder: Path, queries: Sequence[Shot]) -> None:
    folder.mkdir(parents=True)
    for condition in ("day", "night"):
        lines = []
        for shot in queries:
            if shot.condition == condition:
                camera = shot.camera
                params = " ".join(repr(float(value)) for value in camera.params)
                line = f"{shot.name} {camera.model} {camera.width} {camera.height} {params}\n"
                lines.append(line)
        (folder / f"{condition}_time_queries_with_intrinsics.txt").write_text("".join(lines))
    truth = {Path(shot.name).name: shot.pose for shot in queries}
    write_poses(folder / "ground_truth.txt", truth)


@dataclass(frozen=True)
class _Point:
    """A scene point (3,), its colour, and {image index: (x, y) in COLMAP's pixels}."""

    xyz: np.ndarray
    color: np.ndarray
    seen: dict[int, np.ndarray]


def _scene_points(views: Sequence[Rendering]) -> list[_Point]:
    """Corners of the database images lifted to the surfaces they lie on, with all who see them."""
    free = [np.full(view.surface.shape, 255, np.uint8) for view in views]
    points: list[_Point] = []
    for index, view in enumerate(views):
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        free[index][view.surface < 0] = 0
        corners = cv2.goodFeaturesToTrack(grey, CORNERS_PER_IMAGE, 1e-3, 8, mask=free[index])
        if corners is None:
            continue
        keypoints = corners.reshape(-1, 2).astype(np.float64)
        world, _ = lift(view, keypoints)
        found = [correspond(view, other, keypoints) for other in views]
        for row in range(len(keypoints)):
            seen = {
                number: other.keypoints[row] + 0.5
                for number, other in enumerate(found)
                if other.visible[row]
            }
            if len(seen) < MIN_TRACK:
                continue
            for number, pixel in seen.items():
                cv2.circle(free[number], pixel.astype(int).tolist(), 5, 0, -1)
            column, line = keypoints[row].astype(int)
            points.append(_Point(world[row], view.image[line, column], seen))
    return points


def _write_reference_model(folder: Path, shots: Sequence[Shot], views: Sequence[Rendering]) -> None:
    """Through COLMAP's text format, which every version of pycolmap reads alike."""
    from ..colmap.library import pycolmap

    points = _scene_points(views)
    if not points:
        raise SamfeatError(
            folder,
            f"no scene point is seen by {MIN_TRACK} database images",
            "ask for more or larger images",
        )
    cameras = list(dict.fromkeys(shot.camera for shot in shots))
    observations: list[list[str]] = [[] for _ in shots]
    tracks = []
    for number, point in enumerate(points, 1):
        track = []
        for image, (x, y) in point.seen.items():
            track.append(f"{image + 1} {len(observations[image])}")
            observations[image].append(f"{float(x)!r} {float(y)!r} {number}")
        place = " ".join(repr(float(value)) for value in point.xyz)
        color = " ".join(str(int(value)) for value in point.color)
        tracks.append(f"{number} {place} {color} 0.0 {' '.join(track)}\n")
    images = []
    for number, (shot, seen) in enumerate(zip(shots, observations, strict=True), 1):
        pose = " ".join(repr(float(value)) for value in (*shot.pose.qvec, *shot.pose.tvec))
        camera_id = cameras.index(shot.camera) + 1
        images.append(f"{number} {pose} {camera_id} {shot.name}\n{' '.join(seen)}\n")
    lines = []
    for number, camera in enumerate(cameras, 1):
        params = " ".join(repr(value) for value in camera.params)
        lines.append(f"{number} {camera.model} {camera.width} {camera.height} {params}\n")

    folder.mkdir(parents=True)
    text = folder / "text"
    text.mkdir()
    (text / "cameras.txt").write_text("".join(lines))
    (text / "images.txt").write_text("".join(images))
    (text / "points3D.txt").write_text("".join(tracks))
    pycolmap.Reconstruction(str(text)).write_binary(str(folder))
    shutil.rmtree(text)
