"""The layouts of benchmarks, made from a few photos of the city as they are published."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from small_city import HEIGHT, WIDTH, City, intrinsics, model_of, numbers, radial, save, write_nvm

from samfeat_hloc.colmap.model_changes import scaled, write_model
from samfeat_hloc.colmap.poses import Pose, write_poses
from samfeat_hloc.datasets.four_seasons import RELOCALIZATION
from samfeat_hloc.datasets.inloc import FOCAL


def aachen_v1(root: Path, city: City) -> Path:
    """Aachen v1.0: an NVM model, its intrinsics in a list and (for hloc) ids in a database."""
    for name, photo in city.photos.items():
        save(root / "images_upright" / name, photo)
    model = model_of(city, lambda name: name, camera=radial)
    models = root / "3D-models"
    write_nvm(models / "aachen_cvpr2018_db.nvm", model)
    (models / "database_intrinsics.txt").write_text(
        "".join(f"{name} {intrinsics(model.camera_of(name))}\n" for name in model.images)
    )
    write_ids(root / "aachen.db", list(model.images))
    write_aachen_lists(root / "queries", city)
    return root


def aachen(root: Path, city: City) -> Path:
    """Aachen v1.1: a COLMAP model."""
    for name, photo in city.photos.items():
        save(root / "images_upright" / name, photo)
    model = model_of(city, lambda name: name, camera=radial)
    write_model(model, root / "3D-models" / "aachen_v_1_1")
    write_aachen_lists(root / "queries", city)
    return root


def write_aachen_lists(folder: Path, city: City) -> None:
    folder.mkdir(parents=True)
    for condition in ("day", "night"):
        lines = [
            f"{shot.name} {intrinsics(shot.camera)}\n"
            for shot in city.queries
            if shot.condition == condition
        ]
        (folder / f"{condition}_time_queries_with_intrinsics.txt").write_text("".join(lines))
    truth = {Path(shot.name).name: shot.pose for shot in city.queries}
    write_poses(folder / "ground_truth.txt", truth)


def write_ids(path: Path, names: list[str]) -> None:
    """Of COLMAP's database what hloc's reader of NVM models asks it."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE images (name TEXT, image_id INTEGER, camera_id INTEGER)")
        rows = [(name, number, number) for number, name in enumerate(names, start=1)]
        database.executemany("INSERT INTO images VALUES (?, ?, ?)", rows)


def cambridge_name(name: str) -> str:
    """``seq1/frame00003.png`` of db/db_002.jpg."""
    sequence = {"db": 1, "query/day": 2, "query/night": 3}[str(Path(name).parent.as_posix())]
    return f"seq{sequence}/frame{int(Path(name).stem.split('_')[-1]) + 1:05d}.png"


def cambridge(root: Path, city: City) -> Path:
    """One scene of Cambridge Landmarks; its models are of photos half as large."""
    scene = root / "ShopFacade"
    for name, photo in city.photos.items():
        save(scene / cambridge_name(name), photo)
    folder = root / "CambridgeLandmarks_Colmap_Retriangulated_1024px" / "ShopFacade"

    def half(camera):  # type: ignore[no-untyped-def]
        return scaled(radial(camera), camera.width // 2, camera.height // 2)

    write_model(model_of(city, cambridge_name, camera=half), folder / "model_train")
    every = write_model(model_of(city, cambridge_name, camera=half, queries=True), root / "every")
    (folder / "empty_all").mkdir()
    pycolmap.Reconstruction(str(every)).write_text(str(folder / "empty_all"))
    names = [cambridge_name(shot.name) for shot in city.queries]
    (folder / "list_query.txt").write_text("\n".join(names) + "\n")
    return root


def cambridge_release(root: Path, city: City) -> Path:
    """The same scene as its authors published it, without the models that came later."""
    scene = root / "ShopFacade"
    for name, photo in city.photos.items():
        save(scene / cambridge_name(name), photo)

    def nvm_name(name: str) -> str:
        return cambridge_name(name).replace(".png", ".jpg")

    write_nvm(scene / "reconstruction.nvm", model_of(city, nvm_name, camera=radial, queries=True))
    header = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
    for kind, shots in (("train", city.database), ("test", city.queries)):
        lines = [
            f"{cambridge_name(shot.name)} {numbers(shot.pose.centre, shot.pose.qvec)}\n"
            for shot in shots
        ]
        (scene / f"dataset_{kind}.txt").write_text(header + "".join(lines))
    return root


def seven_scenes_name(name: str) -> str:
    """``seq-01/frame-000002.color.png`` of db/db_002.jpg."""
    sequence = {"db": 1, "query/day": 2, "query/night": 3}[str(Path(name).parent.as_posix())]
    return f"seq-{sequence:02d}/frame-{int(Path(name).stem.split('_')[-1]):06d}.color.png"


def seven_scenes(root: Path, city: City) -> Path:
    """One scene of 7Scenes, with depth maps and a list of retrieved images."""
    for name, photo in city.photos.items():
        save(root / "heads" / seven_scenes_name(name), photo)
    model = root / "7scenes_sfm_triangulated" / "heads" / "triangulated"
    write_model(model_of(city, seven_scenes_name, camera=radial, queries=True), model)
    queries = [seven_scenes_name(shot.name) for shot in city.queries]
    (model / "list_test.txt").write_text("\n".join(queries) + "\n")
    listed = root / "7scenes_densevlad_retrieval_top_10" / "heads_top10.txt"
    listed.parent.mkdir()
    lines = [f"{q} {seven_scenes_name(shot.name)}" for q in queries for shot in city.database]
    listed.write_text("\n".join(lines) + "\n")
    depth = root / "depth" / "7scenes_heads" / "train" / "depth"
    depth.mkdir(parents=True)
    for name, metres in city.depth.items():
        millimetres = np.round(metres * 1000).clip(0, 65535).astype(np.uint16)
        sequence, frame = seven_scenes_name(name).split("/")
        path = f"{sequence.replace('-', '')}_{frame.removesuffix('.color.png')}.pose.depth.tiff"
        assert cv2.imwrite(str(depth / path), millimetres)
    return root


def colmap(root: Path, city: City) -> Path:
    """A lab's own: one model of all photos, and a list of those that are queries."""
    for name, photo in city.photos.items():
        save(root / "images" / name, photo)
    write_model(model_of(city, lambda name: name, queries=True), root / "sparse" / "0")
    (root / "queries.txt").write_text("".join(f"{shot.name}\n" for shot in city.queries))
    return root


def as_png(name: str) -> str:
    return name.removesuffix(".jpg") + ".png"


def robotcar(root: Path, city: City) -> Path:
    """RobotCar Seasons v2: three cameras, two conditions, one image of known pose."""
    sides = ("rear", "left", "right")
    renamed: dict[str, str] = {}
    for number, shot in enumerate(city.database):
        renamed[shot.name] = f"overcast-reference/{sides[number % 3]}/{1000 + number}.jpg"
    # The same time in both conditions: what a base name cannot tell apart.
    renamed[city.queries[0].name] = "dawn/rear/2000.jpg"
    renamed[city.queries[1].name] = "night/left/2000.jpg"
    for name, photo in city.photos.items():
        save(root / "images" / renamed[name], photo)
    model = model_of(city, lambda name: f"./{as_png(renamed[name])}", camera=radial)
    models = root / "3D-models"
    write_nvm(models / "all-merged" / "all.nvm", model)
    with sqlite3.connect(models / "overcast-reference.db") as database:
        database.execute("CREATE TABLE images (name TEXT, image_id INTEGER, camera_id INTEGER)")
        database.execute(
            "CREATE TABLE cameras (camera_id INTEGER, model INTEGER, width INTEGER, "
            "height INTEGER, params BLOB)"
        )
        for number, name in enumerate(model.images, start=1):
            camera = model.camera_of(name)
            params = np.array(camera.params).tobytes()
            row = (number, 2, camera.width, camera.height, params)
            database.execute("INSERT INTO cameras VALUES (?, ?, ?, ?, ?)", row)
            row = (name.removeprefix("./"), number, number)
            database.execute("INSERT INTO images VALUES (?, ?, ?)", row)
    (root / "intrinsics").mkdir()
    focal = city.queries[0].camera.params[0]
    for side in sides:
        lines = f"fx {focal!r}\nfy {focal!r}\ncx {WIDTH / 2}\ncy {HEIGHT / 2}\n"
        (root / "intrinsics" / f"{side}_intrinsics.txt").write_text(lines)
    first, second = city.queries
    (root / "robotcar_v2_test.txt").write_text(f"{renamed[second.name]}\n")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = first.pose.rotation.T, first.pose.centre
    name = as_png(renamed[first.name])
    (root / "robotcar_v2_train.txt").write_text(f"{name} {numbers(matrix)}\n")
    return root


def cmu(root: Path, city: City) -> Path:
    """Two slices of Extended CMU Seasons; in each one query to submit, and one of known pose."""
    for number, part in enumerate((2, 11)):
        folder = root / f"slice{part}"
        renamed = {
            shot.name: f"img_{index:05d}_c{0 if shot in city.database else 1}_{part}{index}us.jpg"
            for index, shot in enumerate((*city.database, *city.queries))
        }
        for shot in city.database:
            save(folder / "database" / renamed[shot.name], city.photos[shot.name])
        for shot in city.queries:
            save(folder / "query" / renamed[shot.name], city.photos[shot.name])
        write_model(model_of(city, lambda name: renamed[name]), folder / "sparse")  # noqa: B023
        asked, known = city.queries[number], city.queries[1 - number]
        (folder / f"test-images-slice{part}.txt").write_text(f"{renamed[asked.name]}\n")
        (folder / "camera-poses").mkdir()
        line = f"{renamed[known.name]} {numbers(known.pose.qvec, known.pose.centre)}\n"
        (folder / "camera-poses" / "slice.txt").write_text(line)
    lines = ["# camera model width height fx fy cx cy k1 k2 p1 p2\n"]
    for key, shot in (("c0", city.database[0]), ("c1", city.queries[0])):
        fx, fy, cx, cy = shot.camera.params
        lines.append(f"{key} OPENCV {WIDTH} {HEIGHT} {fx!r} {fy!r} {cx!r} {cy!r} 0 0 0 0\n")
    (root / "intrinsics.txt").write_text("".join(lines))
    return root


def four_seasons(root: Path, city: City, sequence: str = "validation") -> Path:
    """4Seasons' reference and one sequence. Camera 1 of the rig sees what is 3 m to the side: the
    pairs of photos whose baselines are alike are the rig's."""
    reference, folder = root / "reference", root / sequence
    camera = city.database[0].camera
    walk = [shot for shot in city.database if shot.camera == camera]
    poses, lines = {}, ["#timestamp [ns], tx, ty, tz, qx, qy, qz, qw\n"]
    for number, shot in enumerate(walk):
        time = str(1000 + number)
        save(reference / "undistorted_images" / "cam0" / f"{time}.png", city.photos[shot.name])
        # A second camera at the first's place, turned by nothing: the photo is the same.
        save(reference / "undistorted_images" / "cam1" / f"{time}.png", city.photos[shot.name])
        poses[time] = shot.pose
        inverse = shot.pose.inverse()
        values = [*inverse.tvec, *inverse.qvec[[1, 2, 3, 0]]]
        lines.append(", ".join([time, *(repr(float(value)) for value in values)]) + "\n")
    (reference / "poses.txt").write_text("".join(lines))
    for base, shot, count in ((reference, walk[0], 2), (folder, city.queries[0], 1)):
        (base / "Calibration").mkdir(parents=True)
        fx, fy, cx, cy = shot.camera.params
        for number in range(count):
            text = f"Pinhole {fx!r} {fy!r} {cx!r} {cy!r} 0\n{WIDTH} {HEIGHT}\n"
            (base / "Calibration" / f"undistorted_calib_{number}.txt").write_text(text)
    np.savetxt(reference / "Calibration" / "undistorted_calib_stereo.txt", np.eye(4))
    asked = ["# reference query tx ty tz qx qy qz qw\n"]
    for number, shot in enumerate(city.queries):
        time = str(2000 + number)
        save(folder / "undistorted_images" / "cam0" / f"{time}.png", city.photos[shot.name])
        near = min(poses, key=lambda t: float(np.linalg.norm(poses[t].centre - shot.pose.centre)))
        relative = shot.pose @ poses[near].inverse()
        asked.append(f"{near} {time} {numbers(relative.tvec, relative.qvec[[1, 2, 3, 0]])}\n")
    path = reference / RELOCALIZATION[sequence]
    path.parent.mkdir(parents=True)
    path.write_text("".join(asked))
    return root


def inloc(root: Path, city: City) -> Path:
    """InLoc: each database photo is the cut-out of a scan, whose frame is its camera turned and
    put elsewhere. Queries are enlarged until the iPhone's focal length is theirs."""
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    for number, shot in enumerate(city.database):
        scan = f"{number:03d}"
        name = f"DUC_cutout_{scan}_{30 * number}_0.jpg"
        folder = root / "database" / "cutouts" / "DUC1" / scan
        save(folder / name, city.photos[shot.name])
        turn = Pose(rng.normal(size=4), np.zeros(3)).rotation
        rays = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1) + 0.5
        fx, fy, cx, cy = shot.camera.params
        rays = np.dstack([(rays - [cx, cy]) / [fx, fy], np.ones((HEIGHT, WIDTH))])
        points = (rays * city.depth[shot.name][..., None]) @ turn.T  # the scanner is the camera
        points[city.depth[shot.name] == 0] = np.nan
        savemat(str(folder / f"{name}.mat"), {"XYZcut": points}, do_compression=True)
        world = np.eye(4)
        world[:3, :3] = shot.pose.rotation.T @ turn.T
        world[:3, 3] = shot.pose.centre
        path = root / "database" / "alignments" / "DUC1" / "transformations"
        path.mkdir(parents=True, exist_ok=True)
        before = "".join(f"line {i}\n" for i in range(1, 8))
        rows = "".join(f"{numbers(row)}\n" for row in world)
        (path / f"DUC_trans_{scan}.txt").write_text(before + rows)
    truth = {}
    for number, shot in enumerate(city.queries):
        factor = FOCAL / shot.camera.params[0]
        size = round(WIDTH * factor), round(HEIGHT * factor)
        large = cv2.resize(city.photos[shot.name], size, interpolation=cv2.INTER_CUBIC)
        save(root / "query" / "iphone7" / f"IMG_{731 + number:04d}.JPG", large)
        truth[f"IMG_{731 + number:04d}.JPG"] = shot.pose
    write_poses(root / "ground_truth.txt", truth)
    return root
