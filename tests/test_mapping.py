"""Mapping: known poses stay, points come out right, whatever is wrong is said in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import h5py
import mapped_scene
import numpy as np
import pycolmap
import pytest
from mapped_scene import DB, Files
from refusals import refused
from synthetic_scene import FOCAL, HEIGHT, WIDTH, project

from samfeat_hloc.colmap import database, verification
from samfeat_hloc.colmap.epipolar import epipolar_errors
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files import h5store
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import mapping, matches
from samfeat_hloc.localization.inputs import MappingInputs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return mapped_scene.build(tmp_path_factory.mktemp("dataset"))


def build_map(files: Files, output: Path, **changes: Path) -> Path:
    return mapping.main(files.mapping(**changes), output)


@pytest.fixture(scope="module")
def mapped(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_map(files, tmp_path_factory.mktemp("out") / "map")


def test_poses_cameras_and_ids_are_the_reference_models(files: Files, mapped: Path) -> None:
    before = pycolmap.Reconstruction(str(files.reference))
    after = pycolmap.Reconstruction(str(mapped))
    assert set(after.images) == set(before.images)
    assert set(after.cameras) == set(before.cameras)
    for image_id, image in before.images.items():
        same = after.images[image_id]
        assert same.name == image.name
        moved = same.cam_from_world().matrix() - image.cam_from_world().matrix()
        assert np.abs(moved).max() < 1e-12
    for camera_id, camera in before.cameras.items():
        assert (after.cameras[camera_id].params == camera.params).all()


def test_points_are_where_they_are(files: Files, mapped: Path) -> None:
    """Half a pixel of offset would show: the scene's noise is 0.3 px, averaged over tracks."""
    model = read_model(mapped)
    world = files.scene.points
    assert len(model.point_ids) > 0.8 * len(world)
    distance = np.linalg.norm(model.xyz[:, None] - world[None], axis=2).min(axis=1)
    assert np.median(distance) < 0.01
    assert 3 < model.mean_track_length <= len(DB)
    assert 0.05 < model.mean_reprojection_error < 0.6
    residuals = []
    for name in DB:
        image = model.images[name]
        xyz = model.xyz[image.points[image.points >= 0]]
        camera = xyz @ image.pose.rotation.T + image.pose.tvec
        xy = camera[:, :2] / camera[:, 2:] * mapped_scene.FOCAL + [WIDTH / 2, HEIGHT / 2]
        with h5py.File(files.features) as file:
            keypoints = file[name]["keypoints"][()][image.points >= 0]
        residuals.append((xy - (keypoints + 0.5)).mean(axis=0))
    assert np.abs(np.mean(residuals, axis=0)).max() < 0.05


def test_the_arrays_are_pycolmaps(mapped: Path) -> None:
    model, reference = read_model(mapped), pycolmap.Reconstruction(str(mapped))
    assert len(model.point_ids) == reference.num_points3D()
    assert model.num_observations == reference.compute_num_observations()
    assert np.isclose(model.mean_track_length, reference.compute_mean_track_length())
    assert np.isclose(
        model.mean_reprojection_error, reference.compute_mean_reprojection_error(), atol=1e-6
    )
    for image in reference.images.values():
        ids = np.array([p.point3D_id if p.has_point3D() else -1 for p in image.points2D], np.int64)
        rows = model.images[image.name].points
        found = np.where(rows >= 0, model.point_ids[rows], -1)
        assert (found == ids.astype(np.int64)).all()
    for row in (0, len(model.point_ids) // 2, -1):
        point = reference.points3D[int(model.point_ids[row])]
        assert (point.xyz == model.xyz[row]).all()
        assert (point.color == model.colors[row]).all()


def test_a_text_reference_model_gives_the_same_map(
    files: Files, mapped: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    pycolmap.Reconstruction(str(files.reference)).write_text(str(text))
    model = read_model(build_map(files, tmp_path / "map", reference_model=text))
    assert len(model.point_ids) == len(read_model(mapped).point_ids)


def test_skipped_when_done_refused_when_different(
    files: Files, mapped: Path, tmp_path: Path
) -> None:
    output = tmp_path / "map"
    shutil.copytree(mapped, output)
    before = (output / "points3D.bin").stat().st_mtime_ns
    build_map(files, output)
    assert (output / "points3D.bin").stat().st_mtime_ns == before

    fewer = tmp_path / "fewer.txt"
    fewer.write_text("\n".join(files.pairs("db").read_text().split("\n")[:-1]))
    with refused("map", "input pairs"):
        build_map(files, output, pairs=fewer)
    mapping.main(files.mapping(pairs=fewer), output, overwrite=True)
    assert (output / "points3D.bin").stat().st_mtime_ns != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.txt", "map"]


def test_a_folder_of_something_else_is_not_touched(files: Files, tmp_path: Path) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter1.txt").write_text("precious")
    with refused("thesis", "something else"):
        build_map(files, output)
    assert (output / "chapter1.txt").read_text() == "precious"


def test_epipolar_errors_are_distances_to_the_lines(files: Files) -> None:
    first, second = (files.scene.poses[name] for name in DB[:2])
    relative = second.to_rigid3d() * first.to_rigid3d().inverse()
    rays = [
        (project(files.scene, pose) - [WIDTH / 2, HEIGHT / 2]) / mapped_scene.FOCAL
        for pose in (first, second)
    ]
    for errors in epipolar_errors(relative.matrix(), *rays):
        assert errors.max() < 1e-9
    # moved at a right angle to its line by 3 px, a point is 3 px from it
    essential = pycolmap.essential_matrix_from_pose(relative)
    lines = np.column_stack([rays[0], np.ones(len(rays[0]))]) @ essential.T
    normals = lines[:, :2] / np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    step = 3 / mapped_scene.FOCAL
    moved = epipolar_errors(relative.matrix(), rays[0], rays[1] + step * normals)[1]
    assert np.allclose(moved, step)


def test_no_baseline_no_epipolar_geometry() -> None:
    same = np.hstack([np.eye(3), np.zeros((3, 1))])
    errors = epipolar_errors(same, np.zeros((2, 2)), np.ones((2, 2)))[0]
    assert not (errors <= 1).any()


def test_wrong_matches_are_left_out(files: Files, tmp_path: Path) -> None:
    """Half of the matches replaced by chance: the map hardly suffers, its points stay right."""
    wrong = tmp_path / "matches.h5"
    wrong.write_bytes(files.matches("db").read_bytes())
    random = np.random.default_rng(0)
    with h5py.File(wrong, "a") as file:
        for group in file.values():
            for pair in group.values():
                matches0 = pair["matches0"][()]
                rows = np.flatnonzero(matches0 >= 0)
                half = random.permutation(rows)[: len(rows) // 2]
                matches0[half] = random.permutation(matches0[half])
                pair["matches0"][...] = matches0
    model = read_model(build_map(files, tmp_path / "map", matches=wrong))
    distance = np.linalg.norm(model.xyz[:, None] - files.scene.points[None], axis=2).min(axis=1)
    assert len(model.point_ids) > 0.7 * len(files.scene.points)
    assert np.median(distance) < 0.02


def test_an_image_without_keypoints_is_mapped_around(files: Files, tmp_path: Path) -> None:
    none = mapped_scene.with_features(
        files.features, tmp_path / "features.h5", DB[3],
        keypoints=np.zeros((0, 2), np.float32), keypoint_scores=np.zeros(0, np.float32),
        descriptors=np.zeros((128, 0), np.float16),
    )  # fmt: skip
    pair_file = tmp_path / "matches.h5"
    matches.main(files.pairs("db"), none, pair_file)
    model = read_model(build_map(files, tmp_path / "map", features=none, matches=pair_file))
    assert len(model.images) == len(DB)
    assert len(model.images[DB[3]].points) == 0
    assert len(model.point_ids) > 200


BROKEN = {
    "no reference model": ("reference", "no such folder"),
    "pair of strangers": ("pairs.txt", ("db/99.jpg", "reference model")),
    "features missing": ("features.h5", "db/2.jpg"),
    "photo missing": ("images", "db/4.jpg"),
    "pair not matched": ("matches.h5", "pair"),
    "other features": (None, ("keypoint", "3")),
    "rotated": ("features.h5", ("db/5.jpg", "480x640", "640x480"), "rotated"),
    "another size": ("features.h5", ("db/5.jpg", "320x240", "640x480")),
    "no matches": (None, ("0 points", "no matches")),
    "truncated model": ("points3D.bin", "damaged"),
    "not HDF5": ("features.h5", "cannot be read"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_in_one_line(files: Files, tmp_path: Path, what: str) -> None:
    features, pair_file = tmp_path / "features.h5", tmp_path / "matches.h5"
    changes: dict[str, Path] = {}
    if what == "no reference model":
        changes["reference_model"] = tmp_path / "reference"
    elif what == "pair of strangers":
        changes["pairs"] = tmp_path / "pairs.txt"
        changes["pairs"].write_text(f"{DB[0]} {DB[1]}\n{DB[0]} db/99.jpg\n")
    elif what == "features missing":
        changes["features"] = mapped_scene.copy_without(files.features, features, DB[2])
    elif what == "photo missing":
        changes["image_dir"] = shutil.copytree(files.images, tmp_path / "images")
        (changes["image_dir"] / DB[4]).unlink()
    elif what == "pair not matched":
        changes["matches"] = mapped_scene.copy_without(
            files.matches("db"), pair_file, "db-0.jpg/db-1.jpg"
        )
    elif what == "other features":
        changes["features"] = mapped_scene.with_features(
            files.features, features, DB[1], keypoints=np.zeros((3, 2), np.float32)
        )
    elif what in ("rotated", "another size"):
        size = np.array([480, 640] if what == "rotated" else [320, 240])
        changes["features"] = mapped_scene.with_features(
            files.features, features, DB[5], image_size=size
        )
    elif what == "no matches":
        changes["matches"] = pair_file
        pair_file.write_bytes(files.matches("db").read_bytes())
        with h5py.File(pair_file, "a") as file:
            for group in file.values():
                for pair in group.values():
                    pair["matches0"][...] = -1
    elif what == "truncated model":
        changes["reference_model"] = shutil.copytree(files.reference, tmp_path / "model")
        points = changes["reference_model"] / "points3D.bin"
        points.write_bytes(points.read_bytes()[:-20])
    elif what == "not HDF5":
        changes["features"] = features
        features.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    output = tmp_path / "out" / "map"
    with refused(*BROKEN[what]):
        build_map(files, output, **changes)
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_poses_that_do_not_fit_the_photos_give_no_map(files: Files, tmp_path: Path) -> None:
    """The reference poses shuffled: few matches agree, and the error says so."""
    names = list(DB)
    shuffled = dict(zip(names, [files.scene.poses[n] for n in names[3:] + names[:3]], strict=True))
    reference = tmp_path / "reference"
    mapped_scene.write_reference(
        type(files.scene)(files.scene.points, files.scene.descriptors, shuffled), reference
    )
    with h5py.File(files.features) as file:
        counts = [len(file[name]["keypoints"]) for name in names]
    assert min(counts) > 100
    try:
        model = read_model(build_map(files, tmp_path / "map", reference_model=reference))
    except SamfeatError as error:
        assert "0 points" in str(error)
    else:
        assert len(model.point_ids) < 0.5 * len(files.scene.points)


def test_sift_on_photos_of_the_fountain(shared: Path, tmp_path: Path) -> None:
    """Real photos, real calibration: a map of many points at less than a pixel."""
    town = shared / "data" / "town"
    whole = pycolmap.Reconstruction(str(town / "3D-models" / "aachen_v_1_1"))
    names = sorted(i.name for i in whole.images.values() if "fountain" in i.name)
    features = tmp_path / "features.h5"
    sift = cv2.SIFT_create(1500)
    with h5py.File(features, "w") as file:
        for name in sorted(i.name for i in whole.images.values()):
            photo = cv2.imread(str(town / "images_upright" / name), cv2.IMREAD_GRAYSCALE)
            group = file.create_group(name)
            group["image_size"] = np.array(photo.shape[::-1])
            if name not in names:
                group["keypoints"] = np.zeros((0, 2), np.float32)
                continue
            half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            points, descriptors = sift.detectAndCompute(half, None)
            descriptors = np.sqrt(descriptors / descriptors.sum(axis=1, keepdims=True))
            xy = (np.array([p.pt for p in points]) + 0.5) * 2 - 0.5
            stored = group.create_dataset("keypoints", data=xy.astype(np.float32))
            stored.attrs["uncertainty"] = 2.0
            group["descriptors"] = descriptors.T.astype(np.float16)
            group["keypoint_scores"] = np.ones(len(points), np.float32)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(f"{a} {b}" for i, a in enumerate(names) for b in names[i + 1 :]))
    pair_file = matches.main(pairs, features, tmp_path / "matches.h5")
    reference = town / "3D-models" / "aachen_v_1_1"
    output = tmp_path / "map"
    inputs = MappingInputs(reference, town / "images_upright", pairs, features, pair_file)
    mapping.main(inputs, output)
    model = read_model(output)
    assert len(model.point_ids) > 700
    assert model.mean_track_length > 2.5
    assert model.mean_reprojection_error < 1.0
    assert model.colors.std() > 10


def test_a_map_that_was_stopped_verifies_only_what_is_left(
    files: Files, mapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in the middle of the verification, then in the triangulation."""
    monkeypatch.setattr(verification, "PAIRS_A_BATCH", 5)
    monkeypatch.setattr(h5store, "SEGMENT_SECONDS", 0)
    verify, asked = verification.Verifier.inliers, []

    def note(self: verification.Verifier, name0: str, name1: str) -> object:
        if len(asked) == 12:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append((name0, name1))
        return verify(self, name0, name1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification.Verifier, "inliers", note)
    output = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt):
        build_map(files, output)
    assert len(asked) == 13
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mapping, "triangulate", stop)
        build_map(files, output)
    pairs = [pair for pair in asked if pair is not None]
    total = len(set(pairs))
    assert len(pairs) == total + 2  # of the batch that was not finished
    assert [path.name for path in tmp_path.iterdir()] == ["map.verified.parts"]
    build_map(files, output)
    assert len(asked) == len(pairs) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["map"]
    for name in ("images.bin", "points3D.bin", "cameras.bin"):
        assert (output / name).read_bytes() == (mapped / name).read_bytes()


@pytest.mark.parametrize("what", ["rational", "crop to the left", "crop to the right"])
def test_given_cameras_are_taken_however_odd(files: Files, tmp_path: Path, what: str) -> None:
    """COLMAP drops images of cameras that it finds implausible; these are calibrated."""
    reference = pycolmap.Reconstruction(str(files.reference))
    (camera,) = reference.cameras.values()
    center = [WIDTH / 2, HEIGHT / 2]
    shift = {"crop to the left": 600.0, "crop to the right": -600.0}.get(what, 0.0)
    if what == "rational":  # numerator and denominator cancel
        camera.model = pycolmap.CameraModelId.FULL_OPENCV
        camera.params = [FOCAL, FOCAL, *center, 5.0, 2.0, 0, 0, 0.1, 5.0, 2.0, 0.1]
    else:
        camera.params = [FOCAL, FOCAL, center[0] + shift, center[1]]
    given = list(camera.params)
    (tmp_path / "reference").mkdir()
    reference.write_binary(str(tmp_path / "reference"))
    features = tmp_path / "features.h5"
    features.write_bytes(files.features.read_bytes())
    with h5py.File(features, "a") as file:
        for name in DB:
            keypoints = file[name]["keypoints"]
            keypoints[...] = keypoints[()] + np.array([shift, 0], np.float32)
    output = build_map(
        files, tmp_path / "map", reference_model=tmp_path / "reference", features=features
    )
    found = pycolmap.Reconstruction(str(output))
    assert len(found.points3D) > 0.9 * len(files.scene.points)
    assert list(next(iter(found.cameras.values())).params) == given
    with h5py.File(features) as file:
        for image in found.images.values():
            xy = np.array([keypoint.xy for keypoint in image.points2D])
            np.testing.assert_allclose(xy, file[image.name]["keypoints"][()] + 0.5, atol=1e-3)
    assert found.compute_mean_reprojection_error() < 1


def test_images_without_points_are_named_with_the_reason(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = tmp_path / "pairs.txt"
    kept = [pair for pair in read_pairs(files.pairs("db")) if DB[7] not in pair]
    pairs.write_text("".join(f"{a} {b}\n" for a, b in kept))
    pair_file = tmp_path / "matches.h5"
    pair_file.write_bytes(files.matches("db").read_bytes())
    with h5py.File(pair_file, "a") as file:
        for first, group in file.items():
            for second, pair in group.items():
                if "db-0.jpg" in (first, second):
                    pair["matches0"][...] = -1
    with caplog.at_level("WARNING"):
        build_map(files, tmp_path / "map", pairs=pairs, matches=pair_file)
    assert f"2 of {len(DB)} images have no points" in caplog.text
    assert (
        f"{DB[0]} (in no pair 15 matches" in caplog.text and f"{DB[7]} (in no pair)" in caplog.text
    )


def test_poses_that_the_matches_contradict_are_told(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of cameras to the world, or matches of other features; a few agree by chance."""
    pair_file = tmp_path / "matches.h5"
    pair_file.write_bytes(files.matches("db").read_bytes())
    with h5py.File(pair_file, "a") as file:
        pairs = [pair for group in file.values() for pair in group.values()]
        counts = [int((pair["matches0"][()] >= 0).sum()) for pair in pairs]
        right = int(np.argmin([count if count >= 60 else 1 << 30 for count in counts]))
        for number, pair in enumerate(pairs):
            if number != right:
                pair["matches0"][...] = np.roll(pair["matches0"][()], 7)
    assert counts[right] < 0.08 * sum(counts)
    with caplog.at_level("WARNING"), refused("matches.h5", "contradict the poses", "the poses"):
        build_map(files, tmp_path / "map", matches=pair_file)
    assert "nearly all matches contradict the poses" in caplog.text
    assert "parallax" not in caplog.text


def test_an_image_id_that_colmap_cannot_store_is_named(files: Files, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(files.reference, reference)
    pycolmap.Reconstruction(str(reference)).write_text(str(reference))
    for binary in reference.glob("*.bin"):
        binary.unlink()
    for part in ("rigs.txt", "frames.txt"):
        (reference / part).unlink(missing_ok=True)
    images = reference / "images.txt"
    lines = images.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(DB[3]))
    number = lines[at].split()[0]
    lines[at] = lines[at].replace(number, str(2**31), 1)
    images.write_text("\n".join(lines) + "\n")
    with pytest.raises(SamfeatError) as caught:
        build_map(files, tmp_path / "map", reference_model=reference)
    assert DB[3] in caught.value.problem and str(2**31) in caught.value.problem


def test_a_database_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLMAP says "no registered database factory succeeded" of a full disk."""

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database.tempfile, "TemporaryFile", full)
    with pytest.raises(SamfeatError) as caught, database.database_errors(tmp_path / "map"):
        raise RuntimeError("No registered database factory succeeded.")
    assert "disk is full" in caught.value.problem
    monkeypatch.undo()
    with pytest.raises(SamfeatError) as caught, database.database_errors(tmp_path / "map"):
        raise RuntimeError("No registered database factory succeeded.")
    assert "factory" in caught.value.problem and caught.value.mend
