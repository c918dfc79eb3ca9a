"""Right matches of posed photos, and datasets with fewer database photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.evaluation import posed_matches
from samfeat_hloc.evaluation.matching import CachedFeatures
from samfeat_hloc.evaluation.thin import thin_dataset

ROOT = Path(__file__).resolve().parents[1]
TOWN = ROOT.parent / "shared" / "data" / "town"
needs_town = pytest.mark.skipif(not TOWN.is_dir(), reason="../shared/data/town is not there")


def described(xy: np.ndarray) -> CachedFeatures:
    """Keypoints whose descriptors match those of the same rows alone."""
    return CachedFeatures(xy, np.eye(len(xy), 600, dtype=np.float32).T)


@needs_town
def test_points_of_the_model_are_right_and_moved_ones_are_not() -> None:
    model = TOWN / "3D-models" / "aachen_v_1_1"
    pair = posed_matches.posed_pairs(model)[0]
    images = read_model(model)
    seen = [images.images[name] for name in pair.names]
    common = np.intersect1d(*(image.points[image.points >= 0] for image in seen))[:500]
    xy = []
    for image, camera in zip(seen, pair.cameras, strict=True):
        in_camera = images.xyz[common] @ image.pose.rotation.T + image.pose.tvec
        xy.append(np.asarray(camera.img_from_cam(in_camera)) - 0.5)
    points = posed_matches.count_right(pair, described(xy[0]), described(xy[1]))
    assert set(points) == {points[0]}, "all are alike: no least similarity leaves one out"
    matches, right = points[0]
    assert matches == len(common) >= 20
    assert right == pytest.approx(matches, rel=1e-6)
    # Half of them 30 pixels across the lines: they are wrong, and chance does not bring them back.
    across = posed_matches._undistorted(pair.cameras[0], xy[0])
    lines = np.column_stack([across, np.ones(len(across))]) @ pair.fundamental.T
    normal = lines[:, :2] / np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    moved = xy[1] + 30 * normal * (np.arange(len(common)) % 2)[:, None]
    _, right = posed_matches.count_right(pair, described(xy[0]), described(moved))[0]
    assert right == pytest.approx(matches / 2, rel=0.1)
    # Partners at random are right by chance alone, which is taken off.
    shuffled = np.random.default_rng(1).permutation(len(common))
    _, right = posed_matches.count_right(pair, described(xy[0]), described(xy[1][shuffled]))[0]
    assert right < 0.05 * matches


@needs_town
def test_a_thin_dataset_is_a_dataset(tmp_path: Path) -> None:
    whole = AachenDataset.open(TOWN)
    thin = AachenDataset.open(thin_dataset(TOWN, tmp_path / "thin", every=3))
    assert thin.db_names == whole.db_names[::3]
    assert thin.query_names == whole.query_names
    assert 0 < thin.num_points < whole.num_points
    for name in thin.db_names:
        np.testing.assert_allclose(thin.db_poses[name].tvec, whole.db_poses[name].tvec, atol=1e-9)
    assert (tmp_path / "thin" / "images_upright").is_symlink()
    with refused("thin"):
        thin_dataset(TOWN, tmp_path / "thin", every=2)
    with refused(problem="100"):
        thin_dataset(TOWN, tmp_path / "too-thin", every=100)
    assert not (tmp_path / "too-thin").exists()


@needs_town
def test_the_script_passes_the_options_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "aachen" / "thin.py", TOWN, "--every", "9",
         "--outputs", tmp_path / "out", "--engine", "none"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--engine none" in done.stderr
    assert (tmp_path / "out" / "dataset" / "images_upright" / "db").is_dir()
