"""The local-feature track on a scene with known poses, and on the benchmark's own metadata."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
import synthetic_scene
from refusals import refused
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene

from samfeat_hloc.colmap.poses import read_poses, write_poses
from samfeat_hloc.colmap.registration import read_database
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.pipelines import local_features
from samfeat_hloc.pipelines.local_features import (
    DATABASE,
    PAIRS,
    ProtocolOptions,
    ProtocolRun,
    run,
)

DB = [f"db/{i}.jpg" for i in range(6)]
DAY = ["query/day/d0.jpg"]
NIGHT = ["query/night/n0.jpg", "query/night/n1.jpg", "query/night/blind.jpg"]
CAMERA = f"SIMPLE_PINHOLE {WIDTH} {HEIGHT} {FOCAL} {WIDTH / 2} {HEIGHT / 2}"


@pytest.fixture(scope="module")
def scene() -> Scene:
    order = [DB[0], NIGHT[0], DB[1], DAY[0], DB[2], DB[3], NIGHT[1], DB[4], NIGHT[2], DB[5]]
    return synthetic_scene.build(order)


@pytest.fixture
def dataset(scene: Scene, tmp_path: Path) -> Path:
    """The scene in Aachen's layout; night/blind.jpg sees nothing of it."""
    root = tmp_path / "dataset"
    synthetic_scene.write_images(scene, root / "images_upright")
    (root / "queries").mkdir()
    for condition, names in (("day", DAY), ("night", NIGHT)):
        (root / "queries" / f"{condition}_time_queries_with_intrinsics.txt").write_text(
            "".join(f"{name} {CAMERA}\n" for name in names)
        )
    truth = {name.split("/")[-1]: scene.poses[name] for name in DAY + NIGHT}
    write_poses(root / "queries" / "ground_truth.txt", truth)
    model = root / "3D-models" / "aachen_v_1_1"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"7 {CAMERA}\n")
    lines = []
    seen = {name: synthetic_scene.project(scene, scene.poses[name])[:40] for name in DB}
    for i, name in enumerate(DB, 1):
        pose = scene.poses[name]
        values = " ".join(map(repr, map(float, [*pose.qvec, *pose.tvec])))
        points = " ".join(f"{x} {y} {k + 1}" for k, (x, y) in enumerate(seen[name]))
        lines.append(f"{i} {values} 7 {name}\n{points}\n")
    (model / "images.txt").write_text("".join(lines))
    tracks = " ".join
    (model / "points3D.txt").write_text(
        "".join(
            f"{k + 1} {x} {y} {z} 9 9 9 0.1 {tracks(f'{i} {k}' for i in range(1, len(DB) + 1))}\n"
            for k, (x, y, z) in enumerate(scene.points[:40])
        )
    )
    return root


@pytest.fixture
def outputs(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose features are the scene's: what the network finds is no matter here."""

    def extract(image_dir: Path, names: list[str], output: Path, options: object) -> Path:
        if not output.exists():
            synthetic_scene.write_features(scene, output, frozenset({NIGHT[2]}))
        return output

    monkeypatch.setattr(local_features, "extract", extract)
    return tmp_path / "outputs"


def write_template(dataset: Path, names: list[str]) -> None:
    """A database as the benchmark's: old tables, own ids, no keypoints."""
    with sqlite3.connect(dataset / DATABASE) as connection:
        connection.execute("CREATE TABLE cameras (camera_id, model, width, height, params, prior)")
        connection.execute("CREATE TABLE images (image_id, name, camera_id)")
        params = np.array([FOCAL, WIDTH / 2, HEIGHT / 2, 0.0])
        for i, name in enumerate(names):
            camera = 50 if name in NIGHT else 100 + i  # queries share one
            if camera != 50 or name == NIGHT[0]:
                connection.execute(
                    "INSERT INTO cameras VALUES (?, 2, ?, ?, ?, 1)",
                    (camera, WIDTH, HEIGHT, params.tobytes()),
                )
            connection.execute("INSERT INTO images VALUES (?, ?, ?)", (1000 - i, name, camera))


def check_poses(done: ProtocolRun, scene: Scene, names: list[str]) -> None:
    assert list(done.poses) == names
    for name in names:
        assert position_error(done.poses[name], scene.poses[name]) < 0.03
        assert rotation_error(done.poses[name], scene.poses[name]) < 0.2


def test_dataset_without_lists(scene: Scene, dataset: Path, outputs: Path) -> None:
    """Pairs by covisibility and retrieval, intrinsics of lists and model; all queries."""
    done = run(dataset, outputs)
    check_poses(done, scene, DAY + NIGHT[:2])
    assert done.evaluation is not None
    assert done.evaluation.conditions["day"].num_localized == 1
    assert done.evaluation.conditions["night"].num_localized == 2
    log = json.loads((outputs / "local-features/registration.json").read_text())
    assert log[NIGHT[0]]["num_inliers"] > 100
    assert not log[NIGHT[2]]["registered"]

    reference = pycolmap.Reconstruction(str(dataset / "3D-models/aachen_v_1_1"))
    found = pycolmap.Reconstruction(str(done.map_dir))
    assert found.num_points3D() > 200
    for image_id, image in reference.images.items():
        assert found.images[image_id].name == image.name
        assert np.allclose(
            found.images[image_id].cam_from_world().matrix(),
            image.cam_from_world().matrix(), atol=1e-9,
        )  # fmt: skip
    assert np.allclose(found.cameras[7].params, reference.cameras[7].params)  # not refined

    before = (done.map_dir / "points3D.bin").stat().st_mtime_ns
    poses = outputs / "local-features/poses.txt"
    written = poses.stat().st_mtime_ns
    again = run(dataset, outputs)
    assert (done.map_dir / "points3D.bin").stat().st_mtime_ns == before
    assert poses.stat().st_mtime_ns == written
    assert list(again.poses) == list(done.poses)


def test_dataset_with_poses_alone(scene: Scene, dataset: Path, outputs: Path) -> None:
    model = dataset / "3D-models" / "aachen_v_1_1"
    (model / "points3D.txt").write_text("")
    lines = (model / "images.txt").read_text().splitlines()
    (model / "images.txt").write_text("".join(f"{line}\n\n" for line in lines[::2]))
    done = run(dataset, outputs)
    check_poses(done, scene, DAY + NIGHT[:2])
    assert (outputs / "pairs-db-poses20.txt").is_file()


def test_benchmark_database_and_pairs(scene: Scene, dataset: Path, outputs: Path) -> None:
    """Night queries only, and the submission as the benchmark's script names and writes it."""
    write_template(dataset, [*NIGHT, *DB])
    lines = [f"{a} {b}\n" for i, a in enumerate(DB) for b in DB[i + 1 :]]
    lines += [f"{query} {name}\n" for query in NIGHT for name in DB]
    (dataset / PAIRS).write_text("".join(lines))
    done = run(dataset, outputs, ProtocolOptions(method="d2-net"))
    check_poses(done, scene, NIGHT[:2])
    assert done.submission.name == "Aachen_v1_1_eval_[d2-net].txt"
    assert list(read_poses(done.submission)) == ["n0.jpg", "n1.jpg"]
    assert done.evaluation is not None
    assert list(done.evaluation.conditions) == ["night"]
    found = pycolmap.Reconstruction(str(done.map_dir))
    assert {image.name: i for i, image in found.images.items()} == {
        name: 1000 - 3 - i for i, name in enumerate(DB)
    }
    with pycolmap.Database.open(str(outputs / "local-features/database.db")) as database:
        assert database.num_images() == 9
        assert database.num_cameras() == 7
        assert all(camera.has_prior_focal_length for camera in database.read_all_cameras())


def test_pairs_of_other_images_are_refused(dataset: Path, outputs: Path) -> None:
    (dataset / PAIRS).write_text(f"{NIGHT[0]} {DB[0]}\n{NIGHT[0]} db/99.jpg\n")
    with refused(problem="db/99.jpg"):
        run(dataset, outputs)
    (dataset / PAIRS).write_text(f"{DB[0]} {DB[1]}\n")
    with refused(problem="no query", mend="queries"):
        run(dataset, outputs)


def test_no_query_can_be_registered(dataset: Path, outputs: Path) -> None:
    lines = [f"{a} {b}\n" for i, a in enumerate(DB) for b in DB[i + 1 :]]
    (dataset / PAIRS).write_text("".join([*lines, f"{NIGHT[2]} {DB[0]}\n"]))
    with refused(problem="1"):
        run(dataset, outputs)
    assert not (outputs / "local-features/poses.txt").exists()


def test_features_of_another_size_are_refused(scene: Scene, dataset: Path, outputs: Path) -> None:
    outputs.mkdir()
    synthetic_scene.write_features(scene, outputs / "features.h5")
    with h5py.File(outputs / "features.h5", "r+") as file:
        file[f"{DB[1]}/image_size"][...] = [320, 240]
    with refused("features.h5", ("db/1.jpg", "320x240", "640x480")):
        run(dataset, outputs)
    assert not (outputs / "local-features/database.db").exists()


def test_database_that_is_none(dataset: Path, outputs: Path) -> None:
    (dataset / DATABASE).write_bytes(b"no database" * 100)
    with refused(Path(DATABASE).name, "COLMAP database"):
        run(dataset, outputs)


def test_metadata_of_aachen(shared: Path) -> None:
    """The real database and pairs fit together: nothing of the protocol's input is left over."""
    folder = shared / "data/aachen_v1.1"
    entries = read_database(folder / DATABASE)
    queries = [name for name in entries if name.startswith("query/night/")]
    assert len(entries) == 6697 + 191
    assert len(queries) == 191
    entry = entries["db/1.jpg"]
    assert (entry.camera.model, entry.camera.width, entry.camera.height) == (
        "SIMPLE_RADIAL", 1600, 1063,
    )  # fmt: skip
    assert entry.camera.params[1:3] == (800, 531.5)
    listed = read_pairs(folder / PAIRS)
    assert {name for pair in listed for name in pair} <= entries.keys()
    assert {name for pair in listed for name in pair} >= set(queries)
