"""The five commands, one after the other, on real photos whose poses nobody gives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from samfeat_hloc.cli import main
from samfeat_hloc.colmap.poses import Pose, read_poses
from samfeat_hloc.datasets.aachen import AachenDataset

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TOWN, FACADE = DATA / "town", DATA / "sacre_coeur"


def samfeat(*arguments: object) -> object:
    """Run the command line; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def copied(photos: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo, folder / photo.name)
    return folder


def whole_way(photos: list[Path], new: list[Path], work: Path) -> tuple[Path, dict[str, Pose]]:
    """From photos to the reconstruction, which is returned with the poses of new photos in it."""
    house = work / "house"
    folder = copied(photos, work / "photos")
    command = ("reconstruct", folder.name, "--outputs", house, "--preset", "samfeat_fast")
    before = Path.cwd()
    os.chdir(work)
    try:
        assert samfeat(*command) == 0
    finally:
        os.chdir(before)
    saved = work / "house.map"
    assert samfeat("map", "build", house, "--output", saved) == 0
    others = copied(new, work / "new")
    assert samfeat("localize", "--map", saved, others, "--output", work / "poses.txt") == 0
    assert samfeat("report", house) == 0
    page = (house / "report.html").read_text()
    assert all(photo.name in page for photo in photos)
    assert "Without photos:" not in page  # found from another folder too
    for kind in ("colmap", "ply", "nerfstudio"):
        assert samfeat("map", "export", saved, "--to", kind, "--output", work / kind) == 0
    made = pycolmap.Reconstruction(str(house / "sparse" / "0"))
    exported = pycolmap.Reconstruction(str(work / "colmap"))
    assert exported.num_points3D() == made.num_points3D() > 300
    assert exported.compute_num_observations() == made.compute_num_observations()
    assert exported.num_reg_images() == made.num_reg_images() == len(photos)
    lines = (work / "ply").read_text().splitlines()
    assert len(lines) - lines.index("end_header") - 1 == made.num_points3D() + len(photos)
    frames = json.loads((work / "nerfstudio").read_text())["frames"]
    assert {frame["file_path"] for frame in frames} == {f"images/{p.name}" for p in photos}
    return house, read_poses(work / "poses.txt")


@pytest.mark.skipif(not FACADE.is_dir(), reason="../shared/data/sacre_coeur is not there")
def test_photos_of_tourists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = sorted(FACADE.rglob("*.jpg"))
    _, poses = whole_way(photos[:8], photos[8:], tmp_path)
    assert len(photos) == 10 and list(poses) == [photo.name for photo in photos[8:]]
    assert "2 of 2 photos localized" in capsys.readouterr().out
    strange = next((DATA / "photos").glob("in_*"))
    assert samfeat("localize", "--map", tmp_path / "house.map", strange) == 3
    assert "not localized" in capsys.readouterr().out


@pytest.mark.skipif(not TOWN.is_dir(), reason="../shared/data/town is not there")
def test_photos_of_a_town_against_their_true_poses(tmp_path: Path) -> None:
    town = AachenDataset.open(TOWN)
    assert town.ground_truth is not None
    truth = {
        Path(name).name: pose for name, pose in [*town.db_poses.items(), *town.ground_truth.items()]
    }
    photos = [town.image_dir / name for name in town.db_names if "fountain" in name]
    new = [town.image_dir / q.name for q in town.queries if "day/fountain" in q.name]
    house, poses = whole_way(photos, new, tmp_path)
    assert len(poses) == len(new) == 4
    # the map's scale is arbitrary: its cameras are brought to the true ones
    made = pycolmap.Reconstruction(str(house / "sparse" / "0"))
    names = [photo.name for photo in photos]
    cameras = {image.name: image.projection_center() for image in made.images.values()}
    to_world = pycolmap.estimate_sim3d(
        np.array([cameras[name] for name in names]), np.array([truth[n].centre for n in names])
    )
    for name, pose in poses.items():
        assert np.linalg.norm(to_world * pose.centre - truth[name].centre) < 0.1  # metres
