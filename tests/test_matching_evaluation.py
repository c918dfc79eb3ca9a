"""Matching accuracy and homographies: hand-computed cases, OpenCV and kornia, real photos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
import typer
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.commands import evaluation as commands
from samfeat_hloc.evaluation import (
    curves,
    homography,
    hpatches,
    matching,
    predictions,
    published,
    trade,
)
from samfeat_hloc.evaluation.photo_pairs import make_pair, make_pairs

SHIFT = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]])
TILTED = np.array([[1.1, 0.1, -20.0], [-0.05, 0.9, 15.0], [2e-4, -1e-4, 1.0]])


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    commands.register(application)
    return application


def run(app: typer.Typer, *arguments: object) -> str:
    """Run a command line; its error, if any, is raised."""
    result = CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def write_sequence(root: Path, name: str, images: int, matrix: np.ndarray = SHIFT) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    picture = np.full((40, 60, 3), 90, dtype=np.uint8)
    for k in range(1, images + 1):
        cv2.imwrite(str(folder / f"{k}.ppm"), picture)
        if k > 1:
            np.savetxt(folder / f"H_1_{k}", matrix)


def write_features(path: Path, features: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, (keypoints, descriptors) in features.items():
            group = file.create_group(name)
            group["keypoints"] = np.asarray(keypoints, dtype=np.float32)
            group["descriptors"] = np.asarray(descriptors, dtype=np.float16)
            group["scores"] = np.linspace(1, 0.5, len(keypoints), dtype=np.float32)
            group["image_size"] = np.array([60, 40])
    return path


# Four keypoints with descriptors of their own; in image 2 they are off by 0, 0.5, 4 and 20 pixels.
KEYPOINTS = np.array([[10.0, 20.0], [30.0, 10.0], [5.0, 30.0], [40.0, 25.0]])
MOVED = KEYPOINTS + SHIFT[:2, 2] + np.array([[0, 0], [0.3, 0.4], [4, 0], [0, 20]])


def hand_made(root: Path, sequence: str, images: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {f"{sequence}/1.ppm": (KEYPOINTS, np.eye(4))}
    return found | {f"{sequence}/{k}.ppm": (MOVED, np.eye(4)) for k in range(2, images + 1)}


def test_accuracy_by_hand() -> None:
    errors = np.array([0.0, 1.0, 2.5, 3.0, 40.0])
    assert matching.accuracy(errors, (1, 2, 3, 10)).tolist() == [0.4, 0.4, 0.8, 0.8]
    assert matching.accuracy(np.zeros(0)).tolist() == [0.0] * 10


def test_accuracy_is_averaged_over_pairs_not_matches() -> None:
    many = matching.PairResult(("a", "b"), "v", (9, 7), np.zeros(100), 0.0, 0.5, np.ones(100))
    none = matching.PairResult(("a", "c"), "v", (9, 2), np.zeros(0), np.inf, 0.1, np.zeros(0))
    result = matching.summarize([many, none])
    assert result.accuracy == (0.5,) * 10
    assert result.area == 0.5
    assert result.num_matches == 50
    assert result.right_matches == 50
    assert result.repeatability == pytest.approx(0.3)
    assert result.num_features == pytest.approx((9 + 7 + 2) / 3)  # "a" counts once
    # Half of the pairs perfect: the curve jumps to a half at 0.
    assert result.homography == (0.5,) * 4


def test_reprojection_errors_by_hand() -> None:
    matches = np.array([[0, 0], [1, 1], [2, 2], [3, 3]])
    errors = matching.reprojection_errors(KEYPOINTS, MOVED, matches, SHIFT)
    np.testing.assert_allclose(errors, [0, 0.5, 4, 20], atol=1e-12)


def test_repeatability_by_hand() -> None:
    sizes = ((48, 40), (48, 40))
    same = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    moved = np.array([[10.0, 12.0], [20.0, 26.0]])  # found again, and 6 pixels off
    assert matching.repeatability(same, moved, np.eye(3), sizes) == pytest.approx(2 / 5)
    # What the other image does not show plays no part.
    shift = np.array([[1.0, 0, 25], [0, 1, 0], [0, 0, 1]])  # x = 30 leaves image 2
    there = np.array([[35.0, 10.0], [45.0, 20.0], [5.0, 5.0]])  # x = 5 is not in image 1
    assert matching.repeatability(same, there, shift, sizes) == 1.0
    assert matching.repeatability(same, np.zeros((0, 2)), np.eye(3), sizes) == 0.0


def test_mutual_nearest_by_hand() -> None:
    first = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]).T
    second = np.array([[0.0, 1.0], [1.0, 0.0]]).T
    # 1 is nearest to second 1 too, but second 1 prefers 0.
    assert matching.mutual_nearest(first, second).tolist() == [[0, 1], [2, 0]]
    assert matching.mutual_nearest(first, np.zeros((2, 0))).shape == (0, 2)


def test_a_least_similarity_trades_right_matches_for_wrong_ones() -> None:
    errors, alike = np.array([0.5, 1.0, 9.0, 2.0]), np.array([0.9, 0.5, 0.41, -0.2])
    pair = matching.PairResult(("a", "b"), "v", (9, 9), errors, 0.0, 0.5, alike)
    none = matching.PairResult(("a", "c"), "v", (9, 9), np.zeros(0), np.inf, 0.1, np.zeros(0))
    points = dict(zip(trade.LEAST, trade.trade_of([pair, none]), strict=True))
    assert points[-1.0] == (2.0, 1.5)  # means of two pairs
    assert points[0.4] == (1.5, 1.0)
    assert points[0.42] == (1.0, 1.0)
    assert points[0.98] == (0.0, 0.0)
    first = np.array([[1.0, 0.0], [0.8, 0.6]]).T
    found = matching.similarities(first, first, np.array([[0, 1], [1, 1]]))
    np.testing.assert_allclose(found, [0.8, 1.0])
    mine = list(points.values())
    figure = trade.trade_figure({"night": {"others": mine, "mine": mine}, "town": {"mine": mine}})
    (_, first), (line,) = (axes.lines for axes in figure.axes)
    assert line.get_xdata()[0] == 0.5
    assert line.get_ydata()[0] == 1.5
    assert line.get_color() == first.get_color(), "a method looks the same in every panel"


def test_transform_agrees_with_opencv_and_kornia() -> None:
    kornia = pytest.importorskip("kornia")
    points = np.random.default_rng(0).uniform(0, 500, (50, 2))
    ours = homography.transform(points, TILTED)
    np.testing.assert_allclose(ours, cv2.perspectiveTransform(points[None], TILTED)[0])
    theirs = kornia.geometry.transform_points(
        torch.from_numpy(TILTED)[None], torch.from_numpy(points)[None]
    )
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-6)


def test_points_at_infinity() -> None:
    horizon = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    moved = homography.transform(np.array([[100.0, 5.0], [0.0, 0.0]]), horizon)
    assert np.isinf(moved[0]).all()
    assert moved[1].tolist() == [0, 0]


def test_rescaled_homography_is_between_resized_images() -> None:
    points = np.random.default_rng(1).uniform(0, 400, (20, 2))
    matrix = homography.rescale(TILTED, 0.5, 1.7)
    moved = homography.transform(homography.resize_points(points, 0.5), matrix)
    expected = homography.resize_points(homography.transform(points, TILTED), 1.7)
    np.testing.assert_allclose(moved, expected)


def test_corner_error_by_hand() -> None:
    assert homography.corner_error(SHIFT, SHIFT, (60, 40)) == 0
    wider = np.diag([2.0, 1.0, 1.0])  # corners at x 0, 59 go to 0, 118
    assert homography.corner_error(wider, np.eye(3), (60, 40)) == pytest.approx(59 / 2)
    assert homography.corner_error(None, SHIFT, (60, 40)) == np.inf


def test_area_under_curve_by_hand() -> None:
    # Nothing below 1, a third from 1 to 2, two thirds from 2 on.
    areas = homography.area_under_curve([2.0, 1.0, np.inf], (1.5, 5))
    assert areas == pytest.approx([0.5 / 3 / 1.5, (1 / 3 + 3 * 2 / 3) / 5])
    assert homography.area_under_curve([0.0, 0.0], (3,)) == [1.0]
    assert homography.area_under_curve([], (3,)) == [0.0]


def test_area_under_curve_of_many_is_that_of_their_curve() -> None:
    errors = np.random.default_rng(2).uniform(0, 12, 3000)
    for threshold, area in zip((3, 10), homography.area_under_curve(errors, (3, 10)), strict=True):
        at = (np.arange(4000) + 0.5) * threshold / 4000
        curve = np.searchsorted(np.sort(errors), at) / len(errors)
        assert area == pytest.approx(curve.mean(), abs=1e-4)


def test_homography_is_recovered_among_outliers_and_always_the_same() -> None:
    rng = np.random.default_rng(3)
    first = rng.uniform(0, 600, (300, 2))
    second = homography.transform(first, TILTED) + rng.normal(0, 0.3, (300, 2))
    second[:150] = rng.uniform(0, 600, (150, 2))
    found = [homography.estimate_homography(first, second) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert homography.corner_error(found[0], TILTED, (600, 600)) < 1
    assert homography.estimate_homography(first[:3], second[:3]) is None
    same = np.tile([[5.0, 5.0]], (10, 1))
    assert homography.corner_error(homography.estimate_homography(same, same), TILTED, (9, 9)) > 1


@pytest.mark.parametrize(
    ("text", "subject", "problem"),
    [
        ("1 0 0\n0 1 0\n0 0 0\n", "H", "singular"),
        ("1 2 3\n2 4 6\n1 1 1\n", "H", "singular"),
        ("1 0 0\n0 1\n0 0 1\n", "H:2", "2 numbers"),
        ("1 0 0\n0 x 0\n0 0 1\n", "H:2", "'x'"),
        ("1 0 0\n0 nan 0\n0 0 1\n", "H:2", "nan"),
        ("1 0 0\n0 1 0\n", "H", "2 lines"),
        ("", "H", "0 lines"),
    ],
)
def test_homographies_that_are_none(tmp_path: Path, text: str, subject: str, problem: str) -> None:
    (tmp_path / "H").write_text(text)
    with refused(subject, problem):
        homography.read_homography(tmp_path / "H")


def test_the_sequences_are_those_of_the_protocol() -> None:
    assert len(hpatches.SEQUENCES) == len(set(hpatches.SEQUENCES)) == 108
    assert sum(name.startswith("i_") for name in hpatches.SEQUENCES) == 52
    assert len(hpatches.EXCLUDED) == 8
    assert not hpatches.EXCLUDED & set(hpatches.SEQUENCES)


def test_whole_protocol_by_hand(tmp_path: Path, app: typer.Typer) -> None:
    root = tmp_path / "hpatches"
    features = {}
    for name in (*hpatches.SEQUENCES, "i_dc", "x_other"):
        write_sequence(root, name, 6)
        features.update(hand_made(root, name, 6))
    file = write_features(tmp_path / "mine.h5", features)
    np.save(tmp_path / "paper.npy", np.linspace(0.5, 0.9, 10))
    paper = f"paper={tmp_path / 'paper.npy'}"
    arguments = ["hpatches", "--dataset", root, "--features", f"mine={file}", "--short-side", 0,
                 "--curve", paper, "--outputs", tmp_path / "out"]  # fmt: skip
    output = run(app, *arguments)
    assert "PARTIAL" not in output
    document = json.loads((tmp_path / "out/hpatches.json").read_text())
    figures = document["methods"]["mine"]
    assert {kind: value["num_pairs"] for kind, value in figures.items()} == {
        "i": 260, "v": 280, "all": 540,
    }  # fmt: skip
    shares = figures["all"]["mean_matching_accuracy"]
    assert shares == {**dict.fromkeys("123", 0.5), **dict.fromkeys("456789", 0.75), "10": 0.75}
    assert figures["all"]["accuracy_area_up_to_5px"] == pytest.approx(0.6)
    assert document["published"]["paper"]["all"][2] == pytest.approx(0.5 + 0.4 * 2 / 9)
    assert document["made_by"]["versions"]["numpy"] == np.__version__
    assert (tmp_path / "out/hpatches.png").stat().st_size > 10_000

    (root / "v_wall/4.ppm").unlink()
    (root / "i_fog/H_1_2").unlink()
    with refused(root, ("2", "108", "i_fog", "H_1_2", "v_wall")):
        run(app, *arguments)
    output = run(app, *arguments, "--partial")
    assert "PARTIAL: 543 pairs of 109 sequences" in output  # x_other counts: the folder is not it
    document = json.loads((tmp_path / "out/hpatches.json").read_text())
    assert document["partial"]
    assert "PARTIAL" in document["note"]


def test_a_singular_homography_in_the_folder_is_named(tmp_path: Path) -> None:
    write_sequence(tmp_path, "v_a", 2, np.ones((3, 3)))
    with refused("v_a/H_1_2", "singular"):
        hpatches.read_pairs(tmp_path)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with refused("missing", "no such"):
        hpatches.read_pairs(tmp_path / "missing")
    with refused(tmp_path, "sequences"):
        hpatches.read_pairs(tmp_path)
    write_sequence(tmp_path, "v_a", 2)
    (tmp_path / "v_a/2.ppm").rename(tmp_path / "v_a/3.ppm")
    with refused("v_a", "2"):
        hpatches.read_pairs(tmp_path)


def test_features_that_do_not_fit(tmp_path: Path) -> None:
    write_sequence(tmp_path, "v_a", 2)
    pairs = hpatches.read_pairs(tmp_path)
    good = hand_made(tmp_path, "v_a", 2)
    path = write_features(tmp_path / "f.h5", good)
    with predictions.FeatureFile(path) as file:
        result = hpatches.evaluate(pairs, file)[0]
        assert result.errors.round(3).tolist() == [0, 0.5, 4, 20]
    with predictions.FeatureFile(path, max_keypoints=2) as file:
        assert hpatches.evaluate(pairs, file)[0].errors.round(3).tolist() == [0, 0.5]

    with h5py.File(path, "a") as file:
        file["v_a/2.ppm/image_size"][...] = [40, 60]
    with (
        predictions.FeatureFile(path) as file,
        refused("v_a/2.ppm", ("60 x 40", "40 x 60")),
    ):
        hpatches.evaluate(pairs, file, label="mine")

    for broken, problem in (
        ((KEYPOINTS, np.eye(4)[:, :3]), "4 keypoints"),
        ((KEYPOINTS[:, :1], np.eye(4)), "(4, 1)"),
        ((KEYPOINTS * np.nan, np.eye(4)), "NaN"),
    ):
        path = write_features(tmp_path / "broken.h5", {**good, "v_a/2.ppm": broken})
        with predictions.FeatureFile(path) as file, refused("v_a/2.ppm", problem):
            hpatches.evaluate(pairs, file)
    path = write_features(tmp_path / "few.h5", {"v_a/1.ppm": good["v_a/1.ppm"]})
    with (
        predictions.FeatureFile(path) as file,
        refused("few.h5", "v_a/2.ppm"),
    ):
        hpatches.evaluate(pairs, file)
    (tmp_path / "text.h5").write_text("no")
    with refused("text.h5", "HDF5"):
        predictions.FeatureFile(tmp_path / "text.h5")


def test_images_without_keypoints_have_no_matches(tmp_path: Path) -> None:
    write_sequence(tmp_path, "v_a", 2)
    empty = (np.zeros((0, 2)), np.zeros((4, 0)))
    path = write_features(tmp_path / "f.h5", {"v_a/1.ppm": empty, "v_a/2.ppm": (MOVED, np.eye(4))})
    with predictions.FeatureFile(path) as file:
        result = matching.summarize(hpatches.evaluate(hpatches.read_pairs(tmp_path), file))
    assert result.accuracy == (0.0,) * 10
    assert result.homography == (0.0,) * 4


def test_files_of_d2net(tmp_path: Path, app: typer.Typer) -> None:
    root = tmp_path / "sequences"
    write_sequence(root, "v_a", 2)
    for k, keypoints in ((1, KEYPOINTS), (2, MOVED)):
        with (root / f"v_a/{k}.ppm.d2-net").open("wb") as stream:
            np.savez(stream, keypoints=np.c_[keypoints, np.ones(4)], scores=np.ones(4),
                     descriptors=np.eye(4))  # fmt: skip
    output = run(app, "hpatches", "--dataset", root, "--npz", "d2-net", "--partial",
                 "--outputs", tmp_path / "out")  # fmt: skip
    assert "d2-net" in output
    figures = json.loads((tmp_path / "out/hpatches.json").read_text())["methods"]["d2-net"]["v"]
    assert figures["mean_matching_accuracy"]["1"] == 0.5

    np.save(root / "v_a/2.ppm.evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    (root / "v_a/2.ppm.evil.npy").rename(root / "v_a/2.ppm.d2-net")
    with refused("v_a/2.ppm.d2-net", ".npz"):
        predictions.NpzFiles(root, "d2-net").read("v_a/2.ppm")


def test_methods_are_compared_on_the_same_pairs(tmp_path: Path, app: typer.Typer) -> None:
    root = tmp_path / "sequences"
    features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("v_a", "v_b"):
        write_sequence(root, name, 2)
        features.update(hand_made(root, name, 2))
    both = write_features(tmp_path / "both.h5", features)
    one = write_features(tmp_path / "one.h5", hand_made(root, "v_b", 2))
    output = run(app, "hpatches", "--dataset", root, "--partial", "--outputs", tmp_path / "out",
                 "--features", both, "--features", one)  # fmt: skip
    assert "1 pairs left out" in output
    for wrong, subject, problem in (
        (["--features", both, "--features", both], "--features", "'both'"),
        (["--features", tmp_path / "none.h5"], "none.h5", "no such"),
        (["--feature-type", "magic"], "magic", "no such feature type"),
    ):
        with refused(subject, problem):
            run(
                app, "hpatches", "--dataset", root, "--partial", "--outputs", tmp_path / "o", *wrong
            )


def test_published_curves(tmp_path: Path) -> None:
    def saved(array: object, **options: bool) -> Path:
        np.save(tmp_path / "c.npy", array, **options)
        return tmp_path / "c.npy"

    curve = np.linspace(0.3, 0.8, 10)
    np.testing.assert_array_equal(published.read_curve(saved(curve))["all"], curve)
    found = published.read_curve(saved(np.stack([curve, 0.5 * curve])))
    np.testing.assert_allclose(found["all"], curve * (260 + 140) / 540)
    # As D2-Net's notebook saves them: a pickled tuple of sums over pairs, and statistics.
    cache = np.empty(3, dtype=object)
    cache[0] = {t: np.float64(260 * 0.05 * t) for t in range(1, 16)}
    cache[1] = {t: np.float64(280 * 0.04 * t) for t in range(1, 16)}
    cache[2] = [np.array(["i", "v"]), np.array([5, 6]), np.array([1, 2])]
    found = published.read_curve(saved(cache, allow_pickle=True))
    np.testing.assert_allclose(found["v"], 0.04 * np.arange(1, 11))
    np.testing.assert_allclose(found["i"], 0.05 * np.arange(1, 11))


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch attacked",)


def test_published_files_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("c.npy", np.array([_Attack()], dtype=object), allow_pickle=True)
    with refused("c.npy", ".npy"):
        published.read_curve(Path("c.npy"))
    assert not Path("attacked").exists()


@pytest.mark.parametrize("array", [np.ones(3), np.full(10, 2.0), np.ones((4, 10)), np.array("x")])
def test_arrays_that_are_no_curve(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "c.npy", array)
    with refused("c.npy", "curve"):
        published.read_curve(tmp_path / "c.npy")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY nothing")
    with refused("c.npy", ".npy"):
        published.read_curve(tmp_path / "c.npy")


def test_methods_are_told_apart_without_colour() -> None:
    marks = {(str(s["linestyle"]), s["marker"]) for s in map(curves.style, range(60))}
    assert len(marks) == 60


def test_rootsift_on_planar_equals_a_hand_computation(
    shared: Path, tmp_path: Path, app: typer.Typer
) -> None:
    root = shared / "data" / "planar"
    run(app, "hpatches", "--dataset", root, "--partial", "--feature-type", "rootsift",
        "--outputs", tmp_path)  # fmt: skip
    document = json.loads((tmp_path / "hpatches.json").read_text())
    ours = document["methods"]["rootsift"]["v"]["mean_matching_accuracy"]

    sift = cv2.SIFT_create(nfeatures=2048, contrastThreshold=0.01, edgeThreshold=20)
    shares = []
    for folder in sorted(root.iterdir()):
        points, descriptors = [], []
        for number in (1, 2):
            image = cv2.cvtColor(cv2.imread(str(folder / f"{number}.png")), cv2.COLOR_BGR2GRAY)
            found, sifts = sift.detectAndCompute(image, None)
            points.append(np.array([p.pt for p in found]))
            descriptors.append(np.sqrt(sifts / sifts.sum(axis=1, keepdims=True)))
        matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(*descriptors)
        query = np.array([points[0][m.queryIdx] for m in matches])
        target = np.array([points[1][m.trainIdx] for m in matches])
        projected = cv2.perspectiveTransform(query[None], np.loadtxt(folder / "H_1_2"))[0]
        errors = np.linalg.norm(projected - target, axis=1)
        shares.append([(errors <= t).mean() for t in range(1, 11)])
    by_hand = np.mean(shares, axis=0)
    # Ties and the last digit of a distance may choose another match here and there.
    np.testing.assert_allclose([ours[str(t)] for t in range(1, 11)], by_hand, atol=5e-4)
    assert 100 * by_hand[2] == pytest.approx(33.9, abs=0.6)


def test_pairs_from_photos(shared: Path, tmp_path: Path) -> None:
    photos = shared / "data" / "pairs" / "v_2018"
    made = make_pairs(photos, tmp_path / "made", seed=1, count=1)
    pairs = hpatches.read_pairs(made)
    assert sorted(pair.kind for pair in pairs) == ["i", "n", "v"]
    before = (made / "made_by.json").stat().st_mtime_ns
    make_pairs(photos, tmp_path / "made", seed=1, count=1)
    assert (made / "made_by.json").stat().st_mtime_ns == before
    with refused("made", ("seed", "1", "2")):
        make_pairs(photos, tmp_path / "made", seed=2, count=1)


def test_views_of_a_photo_are_related_by_their_homography() -> None:
    photo = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8), (0, 0), 6
    )
    photo = cv2.normalize(photo, None, 0, 255, cv2.NORM_MINMAX)
    first, second, matrix = make_pair(photo, "v", 0, "photo")
    again = make_pair(photo, "v", 0, "photo")
    np.testing.assert_array_equal(second, again[1])
    side = first.shape[0]
    warped = cv2.warpPerspective(first, matrix, (side, side), flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.ones((side, side), np.uint8), matrix, (side, side)) > 0
    inside = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))) > 0
    difference = np.abs(warped.astype(int) - second)[inside]
    assert inside.mean() > 0.2
    assert difference.mean() < 2
    same = make_pair(photo, "i", 0, "photo")[2]
    np.testing.assert_allclose(same, np.eye(3), atol=1e-9)
