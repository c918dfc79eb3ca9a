"""The synthetic city: its pictures, its geometry and the dataset made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from refusals import refused

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.scenes import (
    DAY,
    NIGHT,
    City,
    Rendering,
    build_city,
    correspond,
    illuminate,
    lift,
    look_at,
    plan_shots,
    project,
    render,
    write_demo,
)

CAMERA = Camera("PINHOLE", 640, 480, (520.0, 515.0, 318.0, 243.0))
SMALL = {"num_db": 8, "num_queries": 2, "size": (320, 240)}


@pytest.fixture(scope="module")
def city() -> City:
    return build_city(0)


@pytest.fixture(scope="module")
def by_day(city: City) -> City:
    return illuminate(city, DAY)


@pytest.fixture(scope="module")
def pair(by_day: City) -> tuple[Rendering, Rendering]:
    poses = (
        look_at(np.array((18.0, -2.5, 1.7)), np.deg2rad(80), np.deg2rad(6)),
        look_at(np.array((20.5, -1.2, 1.6)), np.deg2rad(98), np.deg2rad(4)),
    )
    return render(by_day, CAMERA, poses[0]), render(by_day, CAMERA, poses[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "city", **SMALL)


def grid(step: int = 5) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(2, 638, step), np.arange(2, 478, step)), -1).reshape(
        -1, 2
    )


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (90, 7), (-90, 0), (179, -20), (-135, 60)])
def test_look_at_points_the_camera(yaw: float, pitch: float) -> None:
    place = np.array((3.0, -2.0, 1.5))
    pose = look_at(place, np.deg2rad(yaw), np.deg2rad(pitch))
    y, p = np.deg2rad(yaw), np.deg2rad(pitch)
    forward = np.array((np.cos(y) * np.cos(p), np.sin(y) * np.cos(p), np.sin(p)))
    assert np.allclose(pose.rotation[2], forward, atol=1e-12)
    assert abs(pose.rotation[0, 2]) < 1e-12, "the camera's right is level"
    assert pose.rotation[1, 2] < 0, "the camera's y axis points down"
    assert np.allclose(pose.centre, place)
    assert np.isclose(np.linalg.det(pose.rotation), 1)


def test_depth_agrees_with_a_ray_caster(city: City, pair: tuple[Rendering, Rendering]) -> None:
    """Depth and surface at single pixels against an independent ray/rectangle intersection."""
    view = pair[0]
    rotation, centre = view.pose.rotation, view.pose.centre
    fx, fy, cx, cy = CAMERA.params
    rng = np.random.default_rng(5)
    for column, row in rng.integers((0, 0), (640, 480), (300, 2)):
        ray = rotation.T @ np.array(((column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0))
        slant = city.normals @ ray
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.einsum("sk,sk->s", city.normals, city.origins - centre) / slant
        hit = centre + depth[:, None] * ray - city.origins
        s, t = np.einsum("sk,sk->s", hit, city.u), np.einsum("sk,sk->s", hit, city.v)
        inside = (s >= 0) & (t >= 0) & (s <= city.extents[:, 0]) & (t <= city.extents[:, 1])
        depth = np.where(inside & (slant < 0) & (depth > 0.05), depth, np.inf)
        if np.isinf(depth.min()):
            assert view.surface[row, column] == -1
            assert view.depth[row, column] == 0
        else:
            assert view.depth[row, column] == pytest.approx(depth.min(), rel=1e-5)


def test_lift_and_project_are_inverse(pair: tuple[Rendering, Rendering]) -> None:
    view = pair[0]
    keypoints = np.random.default_rng(0).uniform((-0.5, -0.5), (639.4, 479.4), (500, 2))
    points, surface = lift(view, keypoints)
    on = surface >= 0
    assert on.mean() > 0.9
    pixels, depth = project(view.camera, view.pose, points[on])
    assert np.abs(pixels - 0.5 - keypoints[on]).max() < 1e-8
    whole = np.rint(keypoints[on]).astype(int)
    near = np.abs(view.depth[whole[:, 1], whole[:, 0]] / depth - 1)
    assert np.median(near) < 5e-3
    assert np.isnan(points[~on]).all()


def test_views_agree_photometrically(pair: tuple[Rendering, Rendering]) -> None:
    keypoints = grid()
    found = correspond(*pair, keypoints)
    assert found.visible.mean() > 0.4
    where = found.keypoints[found.visible].astype(np.float32)
    there = cv2.remap(pair[1].image, where[None, :, 0], where[None, :, 1], cv2.INTER_LINEAR)[0]
    column, row = keypoints[found.visible].T
    difference = np.abs(pair[0].image[row, column].astype(float) - there)
    wrong = cv2.remap(pair[1].image, where[None, :, 0] + 3, where[None, :, 1], cv2.INTER_LINEAR)[0]
    off = np.abs(pair[0].image[row, column].astype(float) - wrong)
    assert difference.mean() < 8
    assert difference.mean() < 0.5 * off.mean(), "3 pixels beside is much worse"


def test_correspondences_go_back_and_respect_occlusion(pair: tuple[Rendering, Rendering]) -> None:
    keypoints = grid().astype(float)
    there = correspond(*pair, keypoints)
    back = correspond(pair[1], pair[0], there.keypoints[there.visible])
    same = back.surface == there.surface[there.visible]
    assert same.mean() > 0.98
    error = np.abs(back.keypoints - keypoints[there.visible])[same]
    assert error.max() < 1e-6
    assert (there.surface[there.visible] >= 0).all()
    size = (CAMERA.width, CAMERA.height)
    inside = (there.keypoints > -0.5).all(1) & (there.keypoints < np.array(size) - 0.5).all(1)
    assert inside[there.visible].all()
    hidden = inside & ~there.visible & (there.surface >= 0)
    assert hidden.any(), "the pair shows occlusion"
    column, row = np.rint(there.keypoints[hidden]).astype(int).T
    _, depth = project(pair[1].camera, pair[1].pose, there.points3D[hidden])
    assert (pair[1].depth[row, column] < depth + 1e-2).mean() > 0.95, "something stands before it"


def test_matches_are_found_by_sift(
    by_day: City, city: City, pair: tuple[Rendering, Rendering]
) -> None:
    """Local features match the city, in the right places: many by day, some day to night."""
    night = render(illuminate(city, NIGHT), CAMERA, pair[1].pose)
    assert night.image.mean() < 0.6 * pair[1].image.mean()
    sift = cv2.SIFT_create(2000)
    counts = []
    for other in (pair[1], night):
        (k0, d0), (k1, d1) = (sift.detectAndCompute(v.image, None) for v in (pair[0], other))
        pairs = cv2.BFMatcher().knnMatch(d0, d1, k=2)
        kept = [best for best, second in pairs if best.distance < 0.8 * second.distance]
        at0 = np.array([k0[match.queryIdx].pt for match in kept])
        at1 = np.array([k1[match.trainIdx].pt for match in kept])
        found = correspond(pair[0], other, at0)
        close = np.linalg.norm(found.keypoints - at1, axis=1) < 2
        counts.append(int((found.visible & close).sum()))
    assert counts[0] > 200
    assert 30 < counts[1] < counts[0]


def test_layout_is_complete(demo: Path) -> None:
    dataset = AachenDataset.open(demo)
    assert [query.condition for query in dataset.queries] == ["day", "day", "night", "night"]
    assert len(dataset.db_names) == SMALL["num_db"]
    assert all(name.startswith("db/") for name in dataset.db_names)
    assert dataset.ground_truth is not None
    assert set(dataset.ground_truth) == set(dataset.query_names)
    assert dataset.num_points > 300
    for name in dataset.db_names + dataset.query_names:
        assert cv2.imread(str(dataset.image_dir / name)).shape == (240, 320, 3)
    assert not list(demo.parent.glob("*unfinished*"))


def test_reference_model_is_true_to_the_city(demo: Path, city: City) -> None:
    model = pycolmap.Reconstruction(str(demo / "3D-models" / "aachen_v_1_1"))
    errors, depths, seen = [], [], 0
    for image in list(model.images.values())[:3]:
        camera = model.cameras[image.camera_id]
        pose = Pose.from_rigid3d(image.cam_from_world())
        own = Camera("PINHOLE", camera.width, camera.height, tuple(camera.params))
        view = render(city, own, pose, supersampling=1)
        for observation in image.points2D:
            point = model.points3D[observation.point3D_id]
            pixel = image.project_point(point.xyz)
            errors.append(np.abs(pixel - observation.xy).max())
            column, row = observation.xy.astype(int)
            depths.append(
                abs((pose.rotation @ point.xyz + pose.tvec)[2] / view.depth[row, column] - 1)
            )
            seen += 1
    assert seen > 200
    assert max(errors) < 1e-3
    assert np.median(depths) < 5e-3
    assert np.mean(np.array(depths) < 0.05) > 0.97
    assert all(len(point.track.elements) >= 2 for point in model.points3D.values())


def test_ground_truth_places_the_queries(demo: Path, by_day: City) -> None:
    """A query's true pose, not another, explains its photograph."""
    dataset = AachenDataset.open(demo)
    assert dataset.ground_truth is not None
    for query in dataset.queries[:2]:
        photo = cv2.imread(str(dataset.image_dir / query.name))[..., ::-1].astype(float)
        pose = dataset.ground_truth[query.name]
        scores = []
        for shift in (0.0, 0.15):
            moved = Pose(pose.qvec, pose.tvec + np.array((shift, 0, 0)))
            drawn = render(by_day, query.camera, moved).image.astype(float)
            scores.append(np.corrcoef(photo.ravel(), drawn.ravel())[0, 1])
        assert scores[0] > 0.95
        assert scores[0] > scores[1] + 0.05


def test_night_photographs_are_dark(demo: Path) -> None:
    def brightness(kind: str) -> list[float]:
        files = sorted((demo / "images_upright" / "query" / kind).glob("*.jpg"))
        return [cv2.imread(str(file)).mean() for file in files]

    assert max(brightness("night")) < min(brightness("day"))
    assert min(brightness("night")) > 8


def test_demo_is_fixed_by_its_seed(demo: Path, tmp_path: Path) -> None:
    again = write_demo(tmp_path / "again", **SMALL)
    first = hashes(demo)
    assert hashes(again) == first
    shots, others = plan_shots(0, 4, 1), plan_shots(1, 4, 1)
    assert not np.allclose(shots[0].pose.tvec, others[0].pose.tvec)
    stamps = [path.stat().st_mtime_ns for path in sorted(again.rglob("*"))]
    assert write_demo(again, **SMALL) == again
    assert [path.stat().st_mtime_ns for path in sorted(again.rglob("*"))] == stamps


def test_foreign_folders_are_left_alone(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with refused(tmp_path, "demo"):
        write_demo(tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with refused(demo, "demo"):
        write_demo(demo, seed=9)
    (tmp_path / "file").write_text("")
    with refused("file", "file"):
        write_demo(tmp_path / "file")
    with refused("none", ("2", "1", "64")):
        write_demo(tmp_path / "none", num_db=0)
