"""Structure from motion without poses: synthetic scenes with a known answer, and real photos."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import synthetic_scene
from PIL import Image
from refusals import refused
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap import photo_database, structure_from_motion
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.structure_from_motion import SfmConfig
from samfeat_hloc.evaluation import reconstruction
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import matches, pairs_by_rule
from samfeat_hloc.parallel.workers import Hung
from samfeat_hloc.pipelines.known_cameras import known_cameras
from samfeat_hloc.pipelines.reconstruct import (
    ReconstructOptions,
    choose_pairs,
    run,
)

NAMES = [f"walk/{i}.jpg" for i in range(6)]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene.build(NAMES)


@pytest.fixture(scope="module")
def folder(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, features, pairs and matches of the scene, and its reconstruction in sparse/."""
    root = tmp_path_factory.mktemp("scene")
    synthetic_scene.write_images(scene, root / "images")
    features = synthetic_scene.write_features(scene, root / "features.h5")
    listed = pairs_by_rule.exhaustive(NAMES, root / "pairs.txt")
    matches.main(listed, features, root / "matches.h5")
    reconstruct(root)
    return root


def reconstruct(root: Path, config: SfmConfig | None = None, sparse: str = "sparse") -> list[Path]:
    database = photo_database.main(
        root / "images", root / "pairs.txt", root / "features.h5", root / "matches.h5",
        root / f"{sparse}.db", config=config,
    )  # fmt: skip
    return structure_from_motion.main(root / "images", database, root / sparse, config=config)


def shape_error(scene: Scene, model: Path) -> float:
    """Largest distance of a camera centre to the true one, after the best similarity, metres."""
    found = read_model(model).images
    names = sorted(found)
    a = np.array([found[name].pose.centre for name in names])
    b = np.array([scene.poses[name].centre for name in names])
    a, b_mean = a - a.mean(axis=0), b.mean(axis=0)
    u, s, vt = np.linalg.svd((b - b_mean).T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(s) @ sign) / (a**2).sum()
    return float(np.linalg.norm(scale * a @ (u @ sign @ vt).T - (b - b_mean), axis=1).max())


def test_shape_of_a_known_scene(scene: Scene, folder: Path) -> None:
    models = structure_from_motion.models(folder / "sparse")
    assert [path.name for path in models] == ["0"]
    assert len(read_model(models[0]).images) == len(NAMES)
    assert len(read_model(models[0]).point_ids) > 250
    assert shape_error(scene, models[0]) < 0.1  # on an arc of 9 m


def test_the_same_model_again(folder: Path) -> None:
    (first,) = structure_from_motion.models(folder / "sparse")
    (second,) = reconstruct(folder, sparse="second")
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_another_beginning_where_the_first_was_bad(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """COLMAP's own first pair gives a model of nothing; another image gives all."""
    real = structure_from_motion._incremental
    firsts: list[int | None] = []

    def incremental(
        paths: Any, config: SfmConfig, kept: Any, total: int, first: int | None = None
    ) -> Any:
        firsts.append(first)
        assert total == len(NAMES)
        return (
            [pycolmap.Reconstruction()]
            if first is None
            else real(paths, config, kept, total, first)
        )

    monkeypatch.setattr(structure_from_motion, "_incremental", incremental)
    with caplog.at_level("INFO"):
        models = reconstruct(folder, sparse="again")
    assert len(read_model(models[0]).images) == len(NAMES)
    assert len(firsts) == 2  # not once more when all are registered
    assert f"0 of {len(NAMES)} connected images; trying again from walk/" in caplog.text


@pytest.mark.skipif(not hasattr(pycolmap, "global_mapping"), reason="needs pycolmap 4's mapper")
def test_global_mapper(scene: Scene, folder: Path) -> None:
    models = reconstruct(folder, SfmConfig(global_mapper=True), "global")
    assert len(read_model(models[0]).images) == len(NAMES)
    assert shape_error(scene, models[0]) < 0.1


def test_figures_agree_with_own_counts(folder: Path) -> None:
    model = folder / "sparse" / "0"
    figures = reconstruction.evaluate(folder)
    own = read_model(model)
    seen = [image.points[image.points >= 0] for image in own.images.values()]
    assert figures.registered_images == len(own.images)
    assert figures.points == len(own.point_ids)
    assert figures.observations == sum(map(len, seen)) == own.num_observations
    assert figures.mean_track_length == pytest.approx(figures.observations / figures.points)
    assert figures.observations_per_image == pytest.approx(np.mean([len(s) for s in seen]))
    # the error again, from the keypoints and COLMAP's definition of its camera model
    errors = np.zeros(len(own.point_ids))
    opened = pycolmap.Reconstruction(str(model))
    for image in own.images.values():
        f, cx, cy, k = opened.cameras[image.camera_id].params
        has = image.points >= 0
        xyz = own.xyz[image.points[has]] @ image.pose.rotation.T + image.pose.tvec
        flat = xyz[:, :2] / xyz[:, 2:]
        flat *= 1 + k * (flat**2).sum(axis=1, keepdims=True)
        keypoints = np.array([p.xy for p in opened.images[image.image_id].points2D])[has]
        errors[image.points[has]] += np.linalg.norm(flat * f + [cx, cy] - keypoints, axis=1)
    assert figures.mean_reprojection_error == pytest.approx(
        (errors / own.track_lengths).mean(), rel=1e-6
    )
    assert figures.mean_reprojection_error < 0.6  # of keypoints with 0.3 px of noise


def test_stages_are_skipped_and_other_configurations_refused(folder: Path) -> None:
    written = (folder / "sparse" / "0" / "points3D.bin").stat().st_mtime_ns
    reconstruct(folder)
    assert (folder / "sparse" / "0" / "points3D.bin").stat().st_mtime_ns == written
    with refused(problem="camera_model"):
        reconstruct(folder, SfmConfig(camera_model="PINHOLE"))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_single_camera(folder: Path) -> None:
    database = photo_database.main(
        folder / "images", folder / "pairs.txt", folder / "features.h5", folder / "matches.h5",
        folder / "single.db", config=SfmConfig("OPENCV", camera_mode="single"),
    )  # fmt: skip
    with pycolmap.Database.open(str(database)) as opened:
        (camera,) = opened.read_all_cameras()
        assert camera.model.name == "OPENCV"
        assert opened.num_verified_image_pairs() > 0


def test_a_camera_for_each_folder(folder: Path, tmp_path: Path) -> None:
    """Six photos in two folders: by folder, by photo, and all known."""
    for i in range(4):
        path = tmp_path / f"{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))

    def cameras(mode: str, given: dict[str, Camera] | None = None) -> dict[str, Any]:
        database = tmp_path / f"{mode}{len(given or {})}.db"
        config = SfmConfig(camera_mode=mode)
        photo_database._import_images(database, tmp_path, names, config, given or {})
        with pycolmap.Database.open(str(database)) as opened:
            read = {camera.camera_id: camera for camera in opened.read_all_cameras()}
            return {image.name: read[image.camera_id] for image in opened.read_all_images()}

    def ids(found: dict[str, Any]) -> list[int]:
        return [found[name].camera_id for name in names]

    assert len(set(ids(cameras("single")))) == 1
    assert len(set(ids(cameras("image")))) == 4
    by_folder = ids(cameras("folder"))
    assert by_folder[0] == by_folder[1] != by_folder[2] == by_folder[3]
    # A folder in another, between its photos; all with the EXIF of one camera.
    exif = Image.Exif()
    exif.update({0x010F: "make", 0x0110: "model"})
    exif.get_ifd(0x8769).update({0x920A: 50.0, 0xA405: 50})
    (tmp_path / "n/b").mkdir(parents=True)
    nested = ["n/0.jpg", "n/b/1.jpg", "n/c.jpg"]
    for name in nested:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name, exif=exif)
    photo_database._import_images(
        tmp_path / "n.db", tmp_path, nested, SfmConfig(camera_mode="folder"), {}
    )
    with pycolmap.Database.open(str(tmp_path / "n.db")) as opened:
        of = {image.name: image.camera_id for image in opened.read_all_images()}
    assert of["n/0.jpg"] == of["n/c.jpg"] != of["n/b/1.jpg"]
    known = Camera("OPENCV", WIDTH, HEIGHT, (500.25, 501, 320, 240, 0.01, 0, 0, 1e-9))
    found = cameras("folder", {names[0]: known, names[3]: known})
    assert Camera.of(found[names[0]]) == Camera.of(found[names[3]]) == known
    assert len(set(ids(found))) == 3 and found[names[0]].has_prior_focal_length
    assert found[names[1]].model.name == "SIMPLE_RADIAL"


WRONG = Camera("PINHOLE", WIDTH, HEIGHT, (1.02 * FOCAL, 1.02 * FOCAL, WIDTH / 2, HEIGHT / 2))


@pytest.mark.parametrize("config", [SfmConfig(), SfmConfig(refine_focal=False)])
def test_known_intrinsics_are_kept(folder: Path, tmp_path: Path, config: SfmConfig) -> None:
    """Even wrong ones: to the last digit, beside others that are refined or are kept too."""
    given = dict.fromkeys(NAMES[:4], WRONG)
    database = photo_database.main(
        folder / "images", folder / "pairs.txt", folder / "features.h5", folder / "matches.h5",
        tmp_path / "a.db", config=config, cameras=given,
    )  # fmt: skip
    (model,) = structure_from_motion.main(
        folder / "images", database, tmp_path / "sparse", config=config, given=given
    )
    found = read_model(model)
    assert len(found.images) == len(NAMES)
    for name in NAMES:
        camera = found.camera_of(name)
        if name in given:
            assert camera == WRONG
        else:
            assert (camera.params[0] == 1.2 * WIDTH) == (config.refine_focal is False)


def test_known_intrinsics_are_refined_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    given = dict.fromkeys(NAMES, WRONG)

    def focal(config: SfmConfig) -> float:
        name = f"{config.refine_focal}-{config.global_mapper}"
        database = photo_database.main(
            folder / "images", folder / "pairs.txt", folder / "features.h5", folder / "matches.h5",
            tmp_path / f"{name}.db", config=config, cameras=given,
        )  # fmt: skip
        (model,) = structure_from_motion.main(
            folder / "images", database, tmp_path / name, config=config, given=given
        )
        return read_model(model).camera_of(NAMES[0]).params[0]

    assert focal(SfmConfig()) == WRONG.params[0]
    assert abs(focal(SfmConfig(refine_focal=True)) - FOCAL) < 0.01 * FOCAL
    if hasattr(pycolmap, "global_mapping"):
        assert focal(SfmConfig(global_mapper=True)) == WRONG.params[0]
        with refused("--global", "5 of 6 cameras", "--refine-focal"):
            SfmConfig(global_mapper=True).check_given(5, 6)


def test_cameras_that_do_not_fit_the_photos(scene: Scene, folder: Path, tmp_path: Path) -> None:
    images = folder / "images"
    other = Camera("PINHOLE", HEIGHT, WIDTH, WRONG.params)
    listed = tmp_path / "cameras.txt"
    listed.write_text(f"{NAMES[1]} PINHOLE {WIDTH} {HEIGHT} 500 500 320 240\n")
    assert list(known_cameras(images, NAMES, None, listed)) == [NAMES[1]]
    with refused(NAMES[0], ("640x480", "480x640", "6 of 6"), "--cameras"):
        known_cameras(images, NAMES, other, None)
    with refused("--camera", "--cameras"):
        known_cameras(images, NAMES, WRONG, listed)
    with refused(listed, "none of the 1 photos", NAMES[0]):
        known_cameras(images, NAMES[:1], None, listed)
    listed.write_text(f"{NAMES[1]} PINHOLE {WIDTH} {HEIGHT} 500 500 320\n")
    with refused("cameras.txt:1", "3 parameters"):
        known_cameras(images, NAMES, None, listed)
    with refused("--camera-mode each", "folder"):
        SfmConfig(camera_mode="each")


@pytest.mark.parametrize(
    ("num_points", "problem"), [(60, "geometry than by chance"), (14, "geometry than by chance")]
)
def test_photos_that_do_not_match(num_points: int, problem: str, tmp_path: Path) -> None:
    """Matches all over the place; of many some fit a geometry by chance."""
    scene = synthetic_scene.build(NAMES, num_points)
    synthetic_scene.write_images(scene, tmp_path / "images")
    features = synthetic_scene.write_features(scene, tmp_path / "features.h5", frozenset(NAMES))
    listed = pairs_by_rule.exhaustive(NAMES, tmp_path / "pairs.txt")
    matches.main(listed, features, tmp_path / "matches.h5")
    with refused(problem=problem):
        reconstruct(tmp_path)
    assert not (tmp_path / "sparse").exists()


def test_focal_length_from_exif_and_stored_orientation(tmp_path: Path) -> None:
    """A photo with EXIF data: its focal length counts, its orientation does not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0x920A: 50.0, 0xA405: 50})
    Image.new("RGB", (360, 240)).save(tmp_path / "turned.jpg", exif=exif)
    photo_database._import_images(tmp_path / "a.db", tmp_path, ["turned.jpg"], SfmConfig(), {})
    with pycolmap.Database.open(str(tmp_path / "a.db")) as opened:
        (camera,) = opened.read_all_cameras()
    assert (camera.width, camera.height) == (360, 240)
    assert camera.has_prior_focal_length
    assert camera.params[0] == pytest.approx(500, rel=0.03)  # 50 mm on 36 mm film


def test_pairs_by_retrieval_and_by_a_list(folder: Path, tmp_path: Path) -> None:
    """Each photo with those most like it, where that is asked for; a list counts before both."""
    features = folder / "features.h5"
    options = ReconstructOptions(pairing="retrieval", num_retrieved=2)
    retrieved = read_pairs(choose_pairs(NAMES, tmp_path, features, options))
    assert 0 < len(retrieved) <= 2 * len(NAMES)
    assert {first for first, _ in retrieved} == set(NAMES)
    assert all(first != second for first, second in retrieved)
    given = tmp_path / "given.txt"
    given.write_text(f"{NAMES[0]} {NAMES[1]}\n")
    assert choose_pairs(NAMES, tmp_path, features, replace(options, pairs=given)) == given
    given.write_text(f"{NAMES[0]} other.jpg\n")
    with refused("given.txt", "other.jpg"):
        choose_pairs(NAMES, tmp_path, features, replace(options, pairs=given))


@pytest.mark.parametrize(
    ("options", "subject", "problem"),
    [
        ({"method": "orb"}, "--feature-type orb", ("samfeat", "rootsift")),
        ({"pairing": "some"}, "--pairing some", "retrieval"),
        ({"num_retrieved": 0}, "--num-retrieved", "1"),
        ({"method": "rootsift", "weights": Path("a")}, "--weights", "RootSIFT"),
    ],
)
def test_options_that_are_refused(options: dict, subject: str, problem: object) -> None:
    with refused(subject, problem):
        ReconstructOptions(**options)


def test_mapper_options_that_are_refused() -> None:
    with refused("--mapper-threads", "1"):
        SfmConfig(threads=0)
    with refused("--camera-model FISH"):
        SfmConfig(camera_model="FISH")


def test_somebodys_own_database_stays(folder: Path, tmp_path: Path) -> None:
    """The outputs are a COLMAP project: it is told before the work, and never replaced."""
    (tmp_path / "database.db").write_text("precious")
    for overwrite in (False, True):
        options = ReconstructOptions(overwrite=overwrite)
        with refused("database.db", "does not record", "move it away"):
            run(folder / "images", tmp_path, options)
    assert [path.name for path in tmp_path.iterdir()] == ["database.db"]
    assert (tmp_path / "database.db").read_text() == "precious"


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "no image"):
        run(tmp_path, tmp_path / "outputs")
    Image.new("RGB", (64, 64)).save(tmp_path / "one.jpg")
    with refused(tmp_path, "single photo"):
        run(tmp_path, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()
    with refused(tmp_path, "COLMAP model"):
        reconstruction.evaluate(tmp_path)


def test_sacre_coeur_by_rootsift(shared: Path, tmp_path: Path) -> None:
    """Real photos through the commands: reconstruction, then its figures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((shared / "data/sacre_coeur/mapping").glob("*.jpg")):
        image = Image.open(path)
        image.thumbnail((640, 640))  # a third of the time
        image.save(photos / path.name, quality=95)
    outputs = tmp_path / "outputs"
    command = ["reconstruct", str(photos), "--outputs", str(outputs), "--feature-type", "rootsift",
               "--preset", "samfeat_aachen"]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "scale: arbitrary" in done.output and "z is up" in done.output
    assert json.loads((outputs / "summary.json").read_text())["registered_images"] == 10
    figures = tmp_path / "figures.json"
    done = CliRunner().invoke(
        app, ["eval", "reconstruction", str(outputs), "--output", str(figures)]
    )
    assert done.exit_code == 0, done.output
    (row,) = json.loads(figures.read_text())["reconstructions"]
    assert row["points"] > 100
    assert 2 < row["mean_track_length"] <= row["registered_images"]


def test_photos_that_colmap_does_not_read(scene: Scene, folder: Path, tmp_path: Path) -> None:
    """A WebP once went through extraction and matching, and was refused then."""
    for name in ("features.h5", "matches.h5", "pairs.txt"):
        (tmp_path / name).symlink_to(folder / name)
    synthetic_scene.write_images(scene, tmp_path / "images")
    with Image.open(tmp_path / "images" / NAMES[2]) as image:
        image.load()
        image.save(tmp_path / "images" / NAMES[2], format="WEBP")
    (model,) = reconstruct(tmp_path)
    assert set(read_model(model).images) == set(NAMES)


def test_two_places_and_a_stranger_give_two_models(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Photos that fit nowhere once took COLMAP most of a minute each, in every beginning."""
    photos = tmp_path / "photos"
    photos.mkdir()
    fountain = sorted((shared / "data/town/images_upright/db").glob("fountain*.jpg"))
    facade = sorted((shared / "data/sacre_coeur/mapping").glob("*.jpg"))
    stranger = shared / "data/photos/in_n01440764.jpg"
    for path in [*fountain, *facade, stranger]:
        image = Image.open(path)
        image.thumbnail((640, 640))
        image.save(photos / path.name, quality=95)
    options = ReconstructOptions(preset="samfeat_fast", workers=1)
    began = time.monotonic()
    with caplog.at_level("WARNING"):
        done = run(photos, tmp_path / "outputs", options)
    assert time.monotonic() - began < 240  # minutes; it was more than 36
    found = [set(read_model(model).images) for model in done.models]
    assert found[0] == {path.name for path in facade}
    assert found[1] == {path.name for path in fountain}
    assert done.left_out == [stranger.name]
    assert done.as_json()["left_out"] == [stranger.name]
    assert f"1 of {len(fountain) + len(facade) + 1} photos" in caplog.text


def test_no_pair_of_two_places_is_verified(shared: Path, tmp_path: Path) -> None:
    """At full size and with 4,096 keypoints all 70 pairs once had COLMAP's least 15 inliers."""
    photos = tmp_path / "photos"
    photos.mkdir()
    fountain = sorted((shared / "data/town/images_upright/db").glob("fountain*.jpg"))
    facade = sorted((shared / "data/sacre_coeur/mapping").glob("*.jpg"))
    for path in [*fountain, *facade]:
        (photos / path.name).symlink_to(path)
    done = run(photos, tmp_path / "outputs")
    found = [set(read_model(model).images) for model in done.models]
    assert found == [{path.name for path in facade}, {path.name for path in fountain}]
    with pycolmap.Database.open(str(tmp_path / "outputs" / "database.db")) as database:
        place = {i.image_id: i.name in found[0] for i in database.read_all_images()}
        pairs, geometries = database.read_two_view_geometries()
    verified = [
        pycolmap.pair_id_to_image_pair(pair)
        for pair, geometry in zip(pairs, geometries, strict=True)
        if len(geometry.inlier_matches)
    ]
    assert len(verified) > 50
    assert all(place[first] == place[second] for first, second in verified)


def test_a_call_into_colmap_that_hangs_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = photo_database.main(
        folder / "images", folder / "pairs.txt", folder / "features.h5", folder / "matches.h5",
        folder / "sparse.db",
    )  # fmt: skip
    release = threading.Event()
    monkeypatch.setenv("SAMFEAT_PATIENCE", "0.3")
    monkeypatch.setattr(pycolmap, "incremental_mapping", lambda *_, **__: release.wait(60))
    with pytest.raises(Hung) as caught:
        structure_from_motion.main(folder / "images", database, folder / "hung")
    release.set()
    assert "mapper" in caught.value.subject
    assert not (folder / "hung").exists()
