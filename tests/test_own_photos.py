"""From photos without a benchmark to a map: reconstructed, or with known poses, and out again."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from samfeat_hloc import Localizer
from samfeat_hloc.cli import main
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.poses import write_poses
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.maps import building, saved_map
from samfeat_hloc.maps.export import export, to_nerfstudio
from samfeat_hloc.maps.sources import sources_in
from samfeat_hloc.pipelines import posed, reconstruct
from samfeat_hloc.pipelines.posed import PosedOptions
from samfeat_hloc.pipelines.reconstruct import ReconstructOptions

TOWN = Path(__file__).resolve().parents[2] / "shared" / "data" / "town"
FAST = PosedOptions(preset="samfeat_fast")
pytestmark = pytest.mark.skipif(not TOWN.is_dir(), reason="../shared/data/town is not there")


@pytest.fixture(scope="module")
def town() -> AachenDataset:
    return AachenDataset.open(TOWN)


@pytest.fixture(scope="module")
def fountain(town: AachenDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database photos of the fountain in a folder of their own, without db/."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    folder.mkdir()
    for name in town.db_names:
        if "fountain" in name:
            shutil.copy(town.image_dir / name, folder / Path(name).name)
    return folder


@pytest.fixture(scope="module")
def lists(town: AachenDataset, fountain: Path) -> tuple[Path, dict[str, Camera]]:
    """Poses and intrinsics of these photos, as somebody has them from elsewhere."""
    names = {path.name for path in fountain.iterdir()}
    poses = {Path(n).name: pose for n, pose in town.db_poses.items() if Path(n).name in names}
    model = read_model(town.reference_model)
    cameras = {Path(n).name: model.camera_of(n) for n in town.db_names if Path(n).name in names}
    return write_poses(fountain.parent / "poses.txt", poses), cameras


@pytest.fixture(scope="module")
def posed_map(
    fountain: Path, lists: tuple[Path, dict[str, Camera]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved map of posed photos without points."""
    work = tmp_path_factory.mktemp("posed")
    model = posed.model_of_lists(*lists, work / "reference")
    sources = posed.run(model, fountain, work / "stages", FAST)
    building.build(sources, work / "fountain.map")
    return work / "fountain.map"


def test_posed_photos_without_points_become_a_map(town: AachenDataset, posed_map: Path) -> None:
    localizer = Localizer.load(posed_map)
    assert len(localizer.map.xyz) > 500
    assert town.ground_truth is not None
    errors = []
    for query in town.queries:
        if "fountain" in query.name and query.condition == "day":
            found = localizer.localize(town.image_dir / query.name, query.camera)
            assert found.pose is not None
            truth = town.ground_truth[query.name]
            errors.append(np.linalg.norm(found.pose.centre - truth.centre))
    assert len(errors) >= 3
    assert max(errors) < 0.05  # metres


def test_reconstructed_photos_become_a_map(fountain: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "house"
    done = reconstruct.run(fountain, outputs, ReconstructOptions(preset="samfeat_fast"))
    assert done.figures.registered_images == len(list(fountain.iterdir()))
    frozen = building.build(sources_in(outputs), tmp_path / "house.map")
    assert {image.name for image in frozen.images} == {path.name for path in fountain.iterdir()}
    # A photo of the map is found where the reconstruction has it.
    image = frozen.images[0]
    localizer = Localizer.load(tmp_path / "house.map")
    found = localizer.localize(fountain / image.name, image.camera)
    assert found.pose is not None
    spread = np.linalg.norm(np.ptp([i.pose.centre for i in frozen.images], axis=0))
    assert np.linalg.norm(found.pose.centre - image.pose.centre) < 0.01 * spread


def test_a_map_leaves_as_it_came(posed_map: Path, tmp_path: Path) -> None:
    saved = saved_map.read(posed_map)
    model = pycolmap.Reconstruction(str(export(saved, "colmap", tmp_path / "colmap")))
    assert model.num_points3D() == len(saved.xyz)
    assert model.compute_num_observations() == saved.num_observations
    assert model.compute_mean_reprojection_error() < 2
    read = read_model(tmp_path / "colmap")
    for image in saved.images:
        assert np.allclose(read.images[image.name].pose.centre, image.pose.centre)
        assert read.camera_of(image.name) == image.camera
    ply = export(saved, "ply", tmp_path / "map.ply").read_text().splitlines()
    assert len(ply) == ply.index("end_header") + 1 + len(saved.xyz) + len(saved.images)
    far = replace(saved, xyz=saved.xyz + np.array([4567890.12, 0, 0]))  # as a georeferenced map's
    first = export(far, "ply", tmp_path / "far.ply").read_text().splitlines()
    x = float(first[first.index("end_header") + 1].split()[0])
    assert x == pytest.approx(far.xyz[0, 0], abs=1e-5)
    transforms = json.loads(export(saved, "nerfstudio", tmp_path / "transforms.json").read_text())
    # A point of the map, taken to a frame's axes of OpenGL, projects onto its keypoint.
    image = saved.images[0]
    frame = next(f for f in transforms["frames"] if f["file_path"] == f"images/{image.name}")
    keypoint = int(np.flatnonzero(image.points >= 0)[0])
    world_to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
    x, y, z = world_to_camera[:3] @ np.append(saved.xyz[image.points[keypoint]], 1)
    assert z < 0
    u, v = frame["fl_x"] * x / -z + frame["cx"], -frame["fl_y"] * y / -z + frame["cy"]
    assert np.hypot(u - image.keypoints[keypoint, 0], v - image.keypoints[keypoint, 1]) < 8


@pytest.mark.parametrize(
    ("kind", "problem"), [("gltf", "unknown"), ("ply", "already"), ("colmap", "already")]
)
def test_exports_that_are_refused(posed_map: Path, tmp_path: Path, kind: str, problem: str) -> None:
    (tmp_path / "ply").write_text("mine")
    (tmp_path / "colmap").mkdir()
    (tmp_path / "colmap" / "mine").write_text("mine")
    with pytest.raises(SamfeatError) as refused:
        export(saved_map.read(posed_map), kind, tmp_path / kind)
    assert problem in refused.value.problem


def test_a_camera_without_words_is_refused(posed_map: Path) -> None:
    saved = saved_map.read(posed_map)
    fov = Camera("FOV", 100, 80, (90.0, 90.0, 50.0, 40.0, 0.5))
    saved.images[0] = type(saved.images[0])(**{**vars(saved.images[0]), "camera": fov})
    with pytest.raises(SamfeatError) as refused:
        to_nerfstudio(saved)
    assert "FOV" in refused.value.problem


def test_what_is_no_source_of_a_map(
    fountain: Path, lists: tuple[Path, dict[str, Camera]], tmp_path: Path
) -> None:
    with pytest.raises(SamfeatError) as refused:
        sources_in(fountain)
    assert "sparse/0" in refused.value.problem
    with pytest.raises(SamfeatError) as refused:
        sources_in(tmp_path / "nowhere")
    assert "no such folder" in refused.value.problem
    poses, cameras = lists
    with pytest.raises(SamfeatError) as refused:
        posed.model_of_lists(poses, dict(list(cameras.items())[1:]), tmp_path / "reference")
    assert next(iter(cameras)) in refused.value.problem
    assert not (tmp_path / "reference").exists()


def test_the_commands(
    fountain: Path, lists: tuple[Path, dict[str, Camera]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The words of the guide: a map of posed photos, and out again; refusals are one line."""
    poses, cameras = lists
    listed = tmp_path / "cameras.txt"
    listed.write_text(
        "".join(
            f"{name} {c.model} {c.width} {c.height} {' '.join(map(str, c.params))}\n"
            for name, c in cameras.items()
        )
    )
    folder = str(tmp_path / "fountain.map")
    command = ["map", "build", "--poses", str(poses), "--images", str(fountain)]
    command += ["--out", folder, "--preset", "samfeat_fast"]
    assert samfeat(*command) == 1
    assert "--cameras" in capsys.readouterr().err
    # the wrong size is told before the work; the right one is taken then
    assert samfeat(*command, "--camera", "PINHOLE 1600 1200 1400 1400 800 600") == 1
    told = capsys.readouterr().err
    assert "but its camera is 1600x1200; check the intrinsics" in told and "features:" not in told
    assert samfeat(*command, "--cameras", str(listed), "--camera", "PINHOLE 9 9 9 9 4 4") == 1
    assert "give one of them" in capsys.readouterr().err
    command += ["--cameras", str(listed)]
    foreign = Path(f"{folder}.stages")
    shutil.move(foreign, tmp_path / "before")
    foreign.mkdir()
    (foreign / "mine.txt").write_text("precious")
    assert samfeat(*command) == 1
    assert "holds something else" in capsys.readouterr().err
    assert (foreign / "mine.txt").read_text() == "precious"
    shutil.rmtree(foreign)
    shutil.move(tmp_path / "before", foreign)
    few = tmp_path / "few.txt"
    few.write_text("".join(poses.read_text().splitlines(keepends=True)[:5]))
    with caplog.at_level(logging.INFO):
        assert samfeat(*command[:3], str(few), *command[4:]) == 0
    assert "5 images" in capsys.readouterr().out
    assert "2 of 7 photos have no pose and are left out" in caplog.text
    shutil.rmtree(folder)
    assert samfeat(*command) == 0
    assert "7 images" in capsys.readouterr().out
    assert not Path(f"{folder}.stages").exists()
    assert samfeat(*command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert samfeat("map", "export", folder, "--to", "ply", "--output", f"{folder}.ply") == 0
    assert Path(f"{folder}.ply").read_text().startswith("ply\n")
    assert samfeat("map", "build", str(fountain), "--output", f"{folder}.none") == 1
    assert "samfeat reconstruct" in capsys.readouterr().err


def samfeat(*arguments: str) -> object:
    """Run the command line; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code or 0
