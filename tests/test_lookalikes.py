"""Pairs of lookalike places: streets whose matches and true pairs are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import synthetic_scene
from refusals import refused

from samfeat_hloc.colmap import lookalike_pairs, photo_database, structure_from_motion
from samfeat_hloc.colmap.disagreement import SUSPICIOUS, disagreeing
from samfeat_hloc.colmap.lookalikes import (
    MOVES_WITH,
    Pairs,
    confirmed,
    lookalikes,
    neighbours_along,
    weak,
)
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.localization import matches, pairs_by_rule
from samfeat_hloc.pipelines.reconstruct import ReconstructOptions, run
from samfeat_hloc.scenes.demo import write_demo

WIDE, STEP, ROWS = 8.0, 2.0, 12  # metres of a wall in a photo, and between photos; rows of windows


class Street:
    """Photos along walls; a point is seen at (x, its row). Photos of one wall overlap or do not;
    between all others windows of one row match at random, as rows fit an epipolar geometry."""

    def __init__(self, photos: Sequence[int], seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.wall_of = np.repeat(np.arange(len(photos)), photos)
        self.keypoints, self.points = [], []
        for wall, count in enumerate(photos):
            x = self.random.uniform(0, WIDE + STEP * count, 50 * count)
            y = self.random.integers(0, ROWS, len(x)) + self.random.uniform(-0.1, 0.1, len(x))
            for i in range(count):
                seen = np.flatnonzero((x >= STEP * i) & (x < STEP * i + WIDE))
                self.keypoints.append(np.stack([x[seen] - STEP * i, y[seen]], axis=1) * 80)
                self.points.append(seen + 10_000 * wall)
        self.images, self.inliers, self.true, self.num_matches = [], [], [], []
        for b in range(len(self.keypoints)):
            for a in range(b):
                _, first, second = np.intersect1d(
                    self.points[a], self.points[b], return_indices=True
                )
                overlap = len(first) >= 30
                self._add(a, b, np.stack([first, second], 1) if overlap else self.rows(a, b))
                self.true[-1] = overlap

    def _add(self, a: int, b: int, inliers: np.ndarray) -> None:
        self.images.append((a, b))
        self.inliers.append(inliers)
        self.true.append(False)
        self.num_matches.append(max(150, len(inliers)))

    def rows(self, a: int, b: int, count: int = 50) -> np.ndarray:
        """Matches of one row each; of lookalikes, so that a window has its own counterpart."""
        found = []
        rows = np.round(self.keypoints[b][:, 1] / 80)
        for k in self.random.permutation(len(self.keypoints[a]))[:count]:
            (there,) = np.nonzero(rows == np.round(self.keypoints[a][k, 1] / 80))
            if len(there):
                found.append((k, self.random.choice(there)))
        return np.array(found)

    def pairs(self) -> Pairs:
        number = len(self.keypoints)
        return Pairs(
            self.keypoints, np.array(self.images), self.inliers, np.array(self.num_matches),
            ~np.eye(number, dtype=bool),
        )  # fmt: skip


def test_two_sides_of_a_street_whose_houses_are_alike() -> None:
    street = Street([12, 12])
    left_out = lookalikes(street.pairs())
    true = np.array(street.true)
    assert 50 < true.sum() < 100 and len(true) == 24 * 23 // 2
    np.testing.assert_array_equal(left_out, ~true)


@pytest.mark.parametrize("photos", [[12], [1, 1], [2]])
def test_nothing_is_left_out_where_no_two_places_contradict_each_other(photos: list[int]) -> None:
    assert not lookalikes(Street(photos).pairs()).any()


def test_weak_pairs_of_one_thing_stay() -> None:
    """Two groups of photos, from near and from far, say: what one photo of the first group shares
    with the second is in all photos of that."""
    street = Street([3, 3])
    between = np.array([(a < 3) != (b < 3) for a, b in street.images])
    apart = np.array([not t for t in street.true]) & ~between
    assert not apart.any()  # photos of a group overlap
    assert not lookalikes(street.pairs()).any()


def test_a_third_place_does_not_join_two_that_contradict_each_other() -> None:
    """A single photo matches one photo of each side, which nothing contradicts: it goes to the one
    with more matches."""
    street = Street([12, 12, 1])
    last = len(street.keypoints) - 1
    kept = [i for i, (_, b) in enumerate(street.images) if b != last]
    for name in ("images", "inliers", "true", "num_matches"):
        setattr(street, name, [getattr(street, name)[i] for i in kept])
    street._add(3, last, street.rows(3, last, 40))
    street._add(20, last, street.rows(20, last, 60))
    left_out = lookalikes(street.pairs())
    assert left_out[-2] and not left_out[-1]
    np.testing.assert_array_equal(left_out[:-2], ~np.array(street.true[:-2]))


def test_both_sides_of_a_street_without_their_poses(tmp_path: Path) -> None:
    """The photos of the generated city were joined into one wrong model: each side gets its own,
    and the relative rotations are the true ones."""
    city = write_demo(tmp_path / "city", num_db=16, num_queries=1, size=(320, 240))
    options = ReconstructOptions(preset="samfeat_fast", workers=1)
    done = run(city / "images_upright" / "db", tmp_path / "outputs", options)
    assert done.lookalike_pairs > 20 and not done.left_out and not done.suspicious
    truth = read_model(city / "3D-models" / "aachen_v_1_1").images
    sides = [set(read_model(model).images) for model in done.models]
    names = sorted(set().union(*sides))
    assert sorted(map(sorted, sides)) == [names[:8], names[8:]]
    for model in done.models:
        found = read_model(model).images
        for name in found:
            for other in found:
                turned = found[name].pose.rotation @ found[other].pose.rotation.T
                expected = truth[f"db/{name}"].pose.rotation @ truth[f"db/{other}"].pose.rotation.T
                cosine = (np.trace(turned @ expected.T) - 1) / 2
                assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 5


def test_no_pairs() -> None:
    none = Pairs([], np.zeros((0, 2), np.int64), [], np.zeros(0, np.int64), np.zeros((0, 0), bool))
    assert lookalikes(none).shape == (0,)


@pytest.mark.parametrize("degrees", [0, 90, 180, 200])
@pytest.mark.parametrize("scale", [0.4, 1, 3])
def test_matches_that_move_together_are_told_from_chance(degrees: float, scale: float) -> None:
    """Photos may be turned and scaled: half of the matches are right, half go anywhere."""
    random = np.random.default_rng(0)
    first = random.uniform(0, 1000, (400, 2))
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = scale * first @ turn.T + [300, -200]
    second[200:] = scale * random.uniform(0, 1000, (200, 2))
    found = neighbours_along(first, second) >= MOVES_WITH
    assert found[:200].mean() > 0.7
    assert found[200:].mean() < 0.1


def test_matches_too_few_or_at_one_spot_do_not_move_together() -> None:
    for count in (3, 20):
        assert (neighbours_along(np.zeros((count, 2)), np.zeros((count, 2))) < MOVES_WITH).all()


def test_weak_is_beside_the_best_pair_of_both() -> None:
    images = np.array([(0, 1), (1, 2), (2, 3), (0, 3)])
    found = weak(images, np.array([0.9, 0.35, 0.08, 0.37]), 4, 0.4)
    assert found.tolist() == [False, True, True, False]


def test_weak_is_beside_the_best_pair_of_a_usual_image_too() -> None:
    """The last two images have no good pair of their own."""
    images = np.array([(0, 1), (1, 2), (2, 3), (3, 4)])
    strength = np.array([0.9, 0.8, 0.1, 0.09])
    assert weak(images, strength, 5, 0.4).tolist() == [False, False, True, False]
    assert weak(images, strength, 5, 0.4, usual=True).tolist() == [False, False, True, True]


def test_a_weak_pair_is_confirmed_by_a_loop_that_closes() -> None:
    """0-1 and 1-2 are strong; of 0-2 twenty inliers close the loop, or the same with a shift."""
    keypoints = [np.zeros((40, 2))] * 3
    same = np.stack([np.arange(20)] * 2, axis=1)
    for shift, confirms in ((0, True), (1, False)):
        pairs = Pairs(
            keypoints, np.array([(0, 1), (1, 2), (0, 2)]), [same, same, np.add(same, [0, shift])],
            np.full(3, 40), np.ones((3, 3), dtype=bool),
        )  # fmt: skip
        steady = [np.ones(20, dtype=bool)] * 3
        kept = confirmed(pairs, steady, np.array([True, True, False]))
        assert kept.tolist() == [True, True, confirms]


def test_pairs_of_a_list_are_not_used_and_the_list_is_of_its_database(tmp_path: Path) -> None:
    """Without the pairs of the last photo a model has the others; the database keeps them all."""
    names = [f"{i}.jpg" for i in range(5)]
    scene = synthetic_scene.build(names)
    synthetic_scene.write_images(scene, tmp_path / "images")
    features = synthetic_scene.write_features(scene, tmp_path / "features.h5")
    listed = pairs_by_rule.exhaustive(names, tmp_path / "pairs.txt")
    found = matches.main(listed, features, tmp_path / "matches.h5")
    database = photo_database.main(
        tmp_path / "images", listed, features, found, tmp_path / "database.db"
    )
    none = lookalike_pairs.main(database, tmp_path / lookalike_pairs.FILE)
    assert none.read_text() == "" and not lookalike_pairs.left_out_by(none)
    before = structure_from_motion.main(
        tmp_path / "images", database, tmp_path / "sparse", lookalikes=none
    )
    assert len(read_model(before[0]).images) == 5
    verified = lookalike_pairs.read(database)
    assert disagreeing(*verified, before[0]) == []
    model = pycolmap.Reconstruction(str(before[0]))
    turned = next(image for image in model.images.values() if image.name == "2.jpg")
    model.frames[turned.frame_id].rig_from_world = (
        pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 0.5, 0.0])), np.zeros(3))
        * turned.cam_from_world()
    )
    model.write(str(before[0]))
    wrong = disagreeing(*verified, before[0])
    assert len(wrong) >= SUSPICIOUS and all("2.jpg" in pair for pair in wrong)
    assert disagreeing(*verified, before[0], wrong) == []
    some = tmp_path / "some.txt"
    some.write_text("".join(f"4.jpg {name}\n" for name in names[:4]))
    with refused(tmp_path / "sparse", "lookalikes"):
        structure_from_motion.main(
            tmp_path / "images", database, tmp_path / "sparse", lookalikes=some
        )
    after = structure_from_motion.main(
        tmp_path / "images", database, tmp_path / "other", lookalikes=some
    )
    assert set(read_model(after[0]).images) == set(names[:4])
    with pycolmap.Database.open(str(database)) as opened:
        assert len(opened.read_two_view_geometries()[0]) == 10
