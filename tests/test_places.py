"""Lookalike places: which of a query's retrieved images are kept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pycolmap

from samfeat_hloc.colmap.absolute_pose import estimate_pose
from samfeat_hloc.colmap.model import Model, ModelImage
from samfeat_hloc.colmap.poses import Pose
from samfeat_hloc.files.feature_readers import MatchReader
from samfeat_hloc.localization.correspondences import ImageMatches, image_matches, merged
from samfeat_hloc.localization.places import agreeing, places_of

QUERY = "query/q.jpg"
CAMERA = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])
HERE = [f"here/{i}.jpg" for i in range(2)]
THERE = [f"there/{i}.jpg" for i in range(6)]
POINTS = 300
FAR = np.array([1000.0, 0, 0])


def build(tmp_path: Path, alike: float) -> tuple[Model, np.ndarray, MatchReader]:
    """A query in front of a facade, and elsewhere a street of which a share ``alike`` is the same.

    Both places have the facade's points in the map, ``there`` 1 km away and seen by three times as
    many images, each with matches of its own that are wrong.
    """
    random = np.random.default_rng(4)
    xyz = np.stack([random.uniform(-3, 3, POINTS), random.uniform(-2, 2, POINTS),
                    random.uniform(5, 8, POINTS)], axis=1)  # fmt: skip
    keypoints = xyz[:, :2] / xyz[:, 2:] * 500 + [320, 240]
    images, pose = {}, Pose(np.array([1.0, 0, 0, 0]), np.zeros(3))
    matches = {}
    for i, name in enumerate([*HERE, *THERE]):
        rows = np.arange(POINTS) + (0 if name in HERE else POINTS)
        images[name] = ModelImage(i, 1, name, pose, rows.astype(np.int32))
        found = np.full(POINTS, -1, np.int32)
        chosen = random.permutation(POINTS)[:200]
        right = chosen[: int(200 * (0.9 if name in HERE else alike))]
        found[chosen] = random.integers(0, POINTS, len(chosen))
        found[right] = right
        matches[name] = found
    path = tmp_path / "matches.h5"
    with h5py.File(path, "w") as file:
        for name, found in matches.items():
            group = file.create_group(f"{QUERY.replace('/', '-')}/{name.replace('/', '-')}")
            group["matches0"] = found
    count = 2 * POINTS
    model = Model(
        images, np.arange(count), np.concatenate([xyz, xyz + FAR]),
        np.zeros((count, 3), np.uint8), np.ones(count), np.full(count, 3), {},
    )  # fmt: skip
    return model, keypoints, MatchReader(path)


def kept(model: Model, keypoints: np.ndarray, names: list[str], matches: MatchReader) -> list[str]:
    images = [image_matches(model, QUERY, name, matches) for name in names]
    found = agreeing(images, model.xyz, CAMERA, keypoints)
    if found.solved is not None:  # the pose found on the way is that of the images kept
        all_of_them = merged(found.images)
        again = estimate_pose(
            keypoints[all_of_them.keypoints], model.xyz[all_of_them.points], CAMERA
        )
        assert again is not None
        assert (again[0].tvec == found.solved[0].tvec).all() and (again[1] == found.solved[1]).all()
    return [image.name for image in found.images]


def test_the_place_with_more_photos_does_not_outvote_the_right_one(tmp_path: Path) -> None:
    model, keypoints, reader = build(tmp_path, alike=0.4)
    retrieved = [THERE[0], HERE[0], *THERE[1:], HERE[1]]
    with reader as matches:
        inliers = 6 * 0.4 * 200, 2 * 0.9 * 200
        assert inliers[0] > inliers[1]  # all matches together would go there
        assert kept(model, keypoints, retrieved, matches) == HERE


def test_a_place_of_wrong_matches_is_left_out_unsolved(tmp_path: Path) -> None:
    model, keypoints, reader = build(tmp_path, alike=0.02)
    retrieved = [THERE[0], HERE[0], *THERE[1:], HERE[1]]
    with reader as matches:
        images = [image_matches(model, QUERY, name, matches) for name in retrieved]
        assert kept(model, keypoints, retrieved, matches) == HERE
        assert kept(model, keypoints, HERE, matches) == HERE
    assert agreeing(images, model.xyz, CAMERA, keypoints).ransacs <= 2


def test_without_a_best_place_all_stay(tmp_path: Path) -> None:
    model, keypoints, reader = build(tmp_path, alike=0.02)
    lost = replace(model, xyz=np.random.default_rng(0).permutation(model.xyz))
    retrieved = [THERE[0], HERE[0], *THERE[1:], HERE[1]]
    with reader as matches:
        assert kept(lost, keypoints, retrieved, matches) == retrieved


def test_a_bound_on_inliers_saves_samples_and_changes_no_pose() -> None:
    random = np.random.default_rng(1)
    points = np.column_stack(
        [random.uniform(-3, 3, 400), random.uniform(-2, 2, 400), random.uniform(5, 8, 400)]
    )
    keypoints = points[:, :2] / points[:, 2:] * 500 + [320, 240]
    keypoints[120:] = random.uniform([0, 0], [640, 480], (280, 2))
    free = estimate_pose(keypoints, points, CAMERA)
    assert free is not None
    inliers = int(free[1].sum())
    assert inliers >= 120
    for least in (30, 100, inliers):
        bound = estimate_pose(keypoints, points, CAMERA, min_inliers=least)
        assert bound is not None
        assert (bound[0].qvec == free[0].qvec).all() and (bound[0].tvec == free[0].tvec).all()
        assert (bound[1] == free[1]).all()
    assert estimate_pose(keypoints, points, CAMERA, min_inliers=inliers + 1) is None
    wrong = random.uniform([0, 0], [640, 480], (400, 2))
    assert seconds(wrong, points, 200) < seconds(wrong, points, 0) / 10


def seconds(keypoints: np.ndarray, points: np.ndarray, least: int) -> float:
    start = time.process_time()
    estimate_pose(keypoints, points, CAMERA, min_inliers=least)
    return time.process_time() - start


def test_parts_of_one_place_that_share_no_points_agree(tmp_path: Path) -> None:
    model, keypoints, reader = build(tmp_path, alike=0.6)
    same = Model(
        model.images, model.point_ids, np.concatenate([model.xyz[:POINTS]] * 2), model.colors,
        model.errors, model.track_lengths, model.cameras,
    )  # fmt: skip
    with reader as matches:
        assert kept(same, keypoints, [*HERE, *THERE], matches) == [*HERE, *THERE]


def test_the_pose_of_the_only_place_left_is_kept(tmp_path: Path) -> None:
    model, keypoints, reader = build(tmp_path, alike=0.4)
    with reader as matches:
        images = [image_matches(model, QUERY, name, matches) for name in [*HERE, *THERE]]
    assert agreeing(images, model.xyz, CAMERA, keypoints).solved is not None


def test_places_are_what_the_map_connects() -> None:
    def sees(name: str, *points: int) -> ImageMatches:
        none = np.zeros(0, np.int64)
        return ImageMatches(name, np.array(points, np.int32), none, none, none.reshape(0, 2))

    images = [sees("a", 7, 8), sees("b", 1, 2), sees("c"), sees("d", 9), sees("e", 8, 9, 9)]
    assert [[i.name for i in place] for place in places_of(images)] == [["a", "d", "e"], ["b"]]
    assert places_of([sees("c")]) == []
    chain = [sees(str(i), i, i + 1) for i in range(20)]
    assert places_of(chain[::-1]) == [chain[::-1]]
