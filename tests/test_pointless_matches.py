"""Matches without a point of the map, and the poses that are refined with them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.pointless_matches import Matched, PosedImage, agreeing
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.evaluation.localization import position_error
from samfeat_hloc.localization.correspondences import Correspondences, ImageMatches
from samfeat_hloc.localization.pointless import PosedPhoto, refine_with_pointless

CAMERA = Camera("SIMPLE_RADIAL", 1024, 768, (900.0, 512.0, 384.0, -0.05)).to_pycolmap()
OTHER = Camera("PINHOLE", 800, 600, (600.0, 650.0, 400.0, 300.0)).to_pycolmap()
POSE = Pose(np.array([0.9, 0.1, -0.3, 0.2]) / 0.95**0.5, np.array([0.5, -1.0, 2.0]))


def turned(vector: np.ndarray) -> Pose:
    half = np.linalg.norm(vector) / 2
    axis = vector / np.linalg.norm(vector)
    return Pose(np.array([np.cos(half), *(np.sin(half) * axis)]), np.zeros(3))


class World:
    """A photo and four images that see the same points, to within some pixels."""

    def __init__(self, count: int, noise: float, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        rays = random.uniform([-0.4, -0.3], [0.4, 0.3], (count, 2))
        inside = np.column_stack([rays, np.ones(count)]) * random.uniform(5, 25, (count, 1))
        self.points = (inside - POSE.tvec) @ POSE.rotation
        self.keypoints = np.asarray(CAMERA.img_from_cam(inside))
        self.keypoints += random.normal(scale=noise, size=(count, 2))
        self.images = []
        for _ in range(4):
            near = turned(random.normal(scale=0.03, size=3)) @ POSE
            pose = Pose(near.qvec, near.tvec + random.normal(scale=1.5, size=3))
            there = self.points @ pose.rotation.T + pose.tvec
            seen = np.asarray(OTHER.img_from_cam(there))
            seen += random.normal(scale=noise, size=(count, 2))
            self.images.append(PosedImage.of(seen, pose, OTHER))

    def matched(self, rows: np.ndarray) -> list[Matched]:
        return [
            Matched(part, part, image)
            for part, image in zip(np.array_split(rows, 4), self.images, strict=True)
        ]


def test_an_error_is_the_distance_to_the_nearest_pixels_that_fit() -> None:
    world = World(40, noise=0.4)
    one = world.images[0]
    rows = np.arange(40)
    exact = PosedImage.of(one.keypoints, Pose.from_matrix(one.rotation, -one.rotation @ one.centre),
                          OTHER)  # fmt: skip
    near = agreeing(POSE, CAMERA, world.keypoints, [Matched(rows, rows, exact)], 1.5)
    assert len(near.rays[0]) > 35
    errors = np.abs(near.seen(POSE.rotation, POSE.tvec).errors())
    for i, error in enumerate(errors[:8]):
        ray, direction = near.rays[:, i] / near.rays[2, i], near.directions[:, i]
        row = np.argmin(np.abs(CAMERA.cam_from_img(world.keypoints) - ray[:2]).sum(1))

        def apart(pixels: np.ndarray) -> float:
            """The triple product, which is 0 where both rays meet."""
            rays = [np.append(camera.cam_from_img(xy[None])[0], 1.0)
                    for camera, xy in ((CAMERA, pixels[:2]), (OTHER, pixels[2:]))]  # fmt: skip
            base = POSE.rotation @ one.centre + POSE.tvec
            return float(rays[0] @ np.cross(base, POSE.rotation @ one.rotation.T @ rays[1]))

        start = np.concatenate([world.keypoints[row], one.keypoints[row]])
        found = minimize(
            lambda x, start=start: ((x - start) ** 2).sum(), start,
            constraints={"type": "eq", "fun": lambda x: 100 * apart(x)}, method="SLSQP",
        )  # fmt: skip
        assert found.success and direction.shape == (3,)
        # the lens and the image's unequal focal lengths are left out of the measure of a pixel
        assert error == pytest.approx(np.sqrt(found.fun), rel=0.15, abs=0.01)


def test_derivatives_are_differences() -> None:
    world = World(30, noise=0.4)
    near = agreeing(POSE, CAMERA, world.keypoints, world.matched(np.arange(30)), 1.5)
    rows = near.seen(POSE.rotation, POSE.tvec).derivatives()
    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 1e-6
        moved = []
        for sign in (1, -1):
            turn = (
                turned(sign * step[:3]) if axis < 3 else Pose(np.array([1, 0, 0, 0.0]), [0, 0, 0])
            )
            tvec = turn.rotation @ POSE.tvec + sign * step[3:]
            moved.append(near.seen(turn.rotation @ POSE.rotation, tvec).errors())
        expected = (moved[0] - moved[1]) / 2e-6
        np.testing.assert_allclose(rows[axis], expected, rtol=1e-5, atol=1e-3)


def test_wrong_matches_and_what_is_behind_a_camera_do_not_count() -> None:
    world = World(400, noise=0.2)
    rows = np.arange(400)
    right = agreeing(POSE, CAMERA, world.keypoints, world.matched(rows), 1.5)
    assert right.rays.shape[1] > 380
    shuffled = np.random.default_rng(1).permutation(400)
    wrong = [Matched(m.rows, shuffled[m.rows], m.image) for m in world.matched(rows)]
    assert agreeing(POSE, CAMERA, world.keypoints, wrong, 1.5).rays.shape[1] < 12
    back = [
        Matched(m.rows, m.image_rows, PosedImage(
            m.image.keypoints, np.diag([-1.0, 1, -1]) @ m.image.rotation, m.image.centre, OTHER))
        for m in world.matched(rows)
    ]  # fmt: skip
    assert agreeing(POSE, CAMERA, world.keypoints, back, 1.5).rays.shape[1] < 12


def test_few_points_and_many_matches_without_one_are_better_than_few_points() -> None:
    before: list[float] = []
    after: list[float] = []
    for seed in range(12):
        world = World(420, noise=0.7, seed=seed)
        with_point, rest = np.arange(10), np.arange(10, 420)
        wrong = np.random.default_rng(seed).permutation(rest)[:160]  # of each other's keypoints
        partner = np.arange(420)
        partner[np.sort(wrong)] = wrong
        none = np.zeros(0, dtype=np.int64)
        images = [
            ImageMatches(str(i), none, none, none, np.stack([part, partner[part]], 1))
            for i, part in enumerate(np.array_split(rest, 4))
        ]
        found = Correspondences(with_point, with_point, np.ones(10, np.int64), [10])
        start = turned(np.array([1e-3, -1e-3, 5e-4])) @ POSE
        for matched, errors in (([], before), (images, after)):
            photo = PosedPhoto(world.keypoints, CAMERA, matched, found, np.ones(10, bool))
            image_of = {str(i): image for i, image in enumerate(world.images)}.__getitem__
            pose = refine_with_pointless(start, [photo], world.points, image_of)
            errors.append(position_error(pose, POSE))
    assert np.mean(np.log(after)) < np.mean(np.log(before)) - np.log(1.3)
