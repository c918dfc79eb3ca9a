"""Poses from many correspondences: RANSAC on those of most support, and refinement on all."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from samfeat_hloc.colmap import absolute_pose
from samfeat_hloc.colmap.absolute_pose import estimate_pose
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.pose_refinement import View, error_scale, refined
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.evaluation.localization import position_error, rotation_error

CAMERAS = [
    Camera("SIMPLE_PINHOLE", 1024, 768, (900.0, 512.0, 384.0)),
    Camera("OPENCV", 1024, 768, (900.0, 880.0, 500.0, 390.0, -0.2, 0.05, 0.001, -0.002)),
    Camera("OPENCV_FISHEYE", 1024, 768, (500.0, 505.0, 510.0, 380.0, 0.02, -0.01, 0.003, 0.0)),
]
TRUTH = Pose(np.array([0.9, 0.1, -0.3, 0.2]) / 0.95**0.5, np.array([0.5, -1.0, 2.0]))


def seen(camera: Camera, count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and the points that they show, from the true pose."""
    random = np.random.default_rng(seed)
    rays = random.uniform([-0.45, -0.35], [0.45, 0.35], (count, 2))
    inside = np.column_stack([rays, np.ones(count)]) * random.uniform(4, 30, (count, 1))
    points = (inside - TRUTH.tvec) @ TRUTH.rotation
    keypoints = np.asarray(camera.to_pycolmap().img_from_cam(inside))
    return keypoints + random.normal(scale=noise, size=(count, 2)), points


def near(pose: Pose, metres: float, degrees: float) -> Pose:
    turn = pycolmap.Rotation3d(np.deg2rad(degrees) * np.array([0.6, 0.0, 0.8])).quat[[3, 0, 1, 2]]
    return Pose(turn, metres * np.array([0.0, 1.0, 0.0])) @ pose


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
def test_it_ends_where_colmaps_loss_is_least(camera: Camera) -> None:
    keypoints, points = seen(camera, 400, 0.7)
    keypoints[:40] += np.random.default_rng(1).uniform(-10, 10, (40, 2))
    start = near(TRUTH, 0.1, 1.0)
    view = View(camera.to_pycolmap(), keypoints, points)
    found = refined(start, [view], converged=1e-9)
    everything = np.ones(len(points), dtype=bool)
    theirs = pycolmap.refine_absolute_pose(
        start.to_rigid3d(), keypoints, points, everything, camera.to_pycolmap()
    )

    def loss(pose: Pose) -> float:
        inside = points @ pose.rotation.T + pose.tvec
        error = np.asarray(camera.to_pycolmap().img_from_cam(inside)) - keypoints
        return float(np.log1p((error**2).sum(1)).sum())

    assert loss(found) <= loss(Pose.from_rigid3d(theirs["cam_from_world"])) + 1e-6
    assert loss(found) < loss(TRUTH) < loss(start)
    for step in (near(found, 1e-3, 0.0), near(found, 0.0, 0.01)):
        assert loss(step) > loss(found)


def test_without_noise_it_ends_at_the_truth() -> None:
    keypoints, points = seen(CAMERAS[1], 50, 0.0)
    found = refined(near(TRUTH, 0.2, 2.0), [View(CAMERAS[1].to_pycolmap(), keypoints, points)])
    assert position_error(found, TRUTH) < 1e-6 and rotation_error(found, TRUTH) < 1e-5


def rough_errors(count: int, seed: int) -> np.ndarray:
    """Pixels: most are small, and there are some of every size, as keypoints' are."""
    random = np.random.default_rng(seed)
    return np.clip(0.15 * random.standard_t(1, size=(count, 2)), -8, 8)


def test_errors_count_by_their_own_scale() -> None:
    at_a_pixel, at_their_scale = [], []
    for seed in range(12):
        camera = CAMERAS[0].to_pycolmap()
        keypoints, points = seen(CAMERAS[0], 300, 0.0, seed)
        view = View(camera, keypoints + rough_errors(300, seed), points)
        start = refined(near(TRUTH, 0.1, 1.0), [view])
        scale = error_scale(start, [view])
        assert 0.1 <= scale < 0.25
        at_a_pixel.append(position_error(start, TRUTH))
        at_their_scale.append(position_error(refined(start, [view], scale), TRUTH))
    assert np.mean(np.log(at_their_scale)) < np.mean(np.log(at_a_pixel)) - np.log(1.15)


def test_a_larger_photo_has_the_same_pose() -> None:
    keypoints, points = seen(CAMERAS[0], 300, 0.0)
    keypoints += 3 * rough_errors(300, 0)
    large = Camera("SIMPLE_PINHOLE", 4096, 3072, (3600.0, 2048.0, 1536.0))
    views = [View(CAMERAS[0].to_pycolmap(), keypoints, points)]
    larger = [View(large.to_pycolmap(), 4 * keypoints, points)]
    scale, of_larger = error_scale(TRUTH, views), error_scale(TRUTH, larger)
    assert of_larger == pytest.approx(4 * scale)
    poses = refined(TRUTH, views, scale), refined(TRUTH, larger, of_larger)
    assert position_error(*poses) < 1e-6 and rotation_error(*poses) < 1e-5


def test_a_point_behind_its_camera_leaves_the_pose() -> None:
    keypoints, points = seen(CAMERAS[0], 20, 0.4)
    points[3] = TRUTH.centre - (points[3] - TRUTH.centre)
    view = View(CAMERAS[0].to_pycolmap(), keypoints, points)
    assert refined(TRUTH, [view]) is TRUTH and error_scale(TRUTH, [view]) == 1


def test_correspondences_that_leave_a_direction_free_leave_the_pose() -> None:
    camera = CAMERAS[0].to_pycolmap()
    ahead = TRUTH.inverse().rotation @ np.array([0, 0, 5.0]) + TRUTH.centre  # turns about it
    keypoints = np.tile([camera.principal_point_x, camera.principal_point_y], (4, 1))
    found = refined(TRUTH, [View(camera, keypoints, np.tile(ahead, (4, 1)))])
    assert position_error(found, TRUTH) < 1e-6 and rotation_error(found, TRUTH) < 1e-5


def mixed(true: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """True correspondences, then wrong ones."""
    keypoints, points = seen(CAMERAS[0], true + wrong, 0.7)
    random = np.random.default_rng(2)
    keypoints[true:] = random.uniform([0, 0], [1024, 768], (wrong, 2))
    return keypoints, points


def test_those_of_most_support_say_what_all_say(monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints, points = mixed(900, 3000)
    camera = CAMERAS[0].to_pycolmap()
    support = np.where(np.arange(3900) < 700, 3, 1)
    slow = estimate_pose(keypoints, points, camera)
    sizes: list[int] = []
    estimate = pycolmap.estimate_absolute_pose

    def counted(keypoints: np.ndarray, *rest: object) -> object:
        sizes.append(len(keypoints))
        return estimate(keypoints, *rest)

    monkeypatch.setattr(pycolmap, "estimate_absolute_pose", counted)
    monkeypatch.setattr(pycolmap, "estimate_and_refine_absolute_pose", None)  # not needed
    fast = estimate_pose(keypoints, points, camera, support=support)
    assert sizes == [500]
    assert slow is not None and fast is not None
    assert position_error(fast[0], slow[0]) < 2e-3 and position_error(fast[0], TRUTH) < 0.02
    assert (fast[1] != slow[1]).mean() < 0.002 and fast[1][:900].all()
    again = estimate_pose(keypoints, points, camera, support=support)
    assert again is not None and (again[0].tvec == fast[0].tvec).all()
    assert estimate_pose(keypoints, points, camera, support=support, min_inliers=970) is None


def test_support_that_misleads_costs_time_alone() -> None:
    keypoints, points = mixed(900, 3000)
    camera = CAMERAS[0].to_pycolmap()
    expected = estimate_pose(keypoints, points, camera)
    found = estimate_pose(keypoints, points, camera, support=np.where(np.arange(3900) < 900, 1, 2))
    assert expected is not None and found is not None
    assert (found[0].tvec == expected[0].tvec).all() and (found[1] == expected[1]).all()


def test_few_correspondences_are_solved_as_in_hloc() -> None:
    keypoints, points = mixed(100, 100)
    camera = CAMERAS[0].to_pycolmap()
    theirs = pycolmap.estimate_and_refine_absolute_pose(
        keypoints, points, camera, estimation_options=absolute_pose.ransac(12.0)
    )
    found = estimate_pose(keypoints, points, camera, support=np.ones(200, dtype=np.int64))
    assert found is not None
    assert (found[0].tvec == theirs["cam_from_world"].translation).all()
