"""Saved maps and the localizer: a run's poses, from threads, and images that join and leave."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from refusals import refused
from typer.testing import CliRunner, Result

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.absolute_pose import reprojection_errors
from samfeat_hloc.colmap.cameras import CAMERA_MODELS, Camera
from samfeat_hloc.colmap.intrinsics import camera_from_exif, camera_from_text
from samfeat_hloc.colmap.poses import read_poses
from samfeat_hloc.datasets.queries import Query
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.files.feature_readers import FeatureReader
from samfeat_hloc.files.images import read_image
from samfeat_hloc.localization.acceptance import confidence, least_inliers, refusal
from samfeat_hloc.localization.global_descriptors import vlad
from samfeat_hloc.maps import building, saved_map
from samfeat_hloc.maps.localization import Localization
from samfeat_hloc.maps.localizer import Localizer
from samfeat_hloc.maps.localizer_settings import LocalizerSettings
from samfeat_hloc.maps.query import QueryFeatures
from samfeat_hloc.maps.sources import sources_in
from samfeat_hloc.pipelines import run
from samfeat_hloc.pipelines.run import Run
from samfeat_hloc.pipelines.run_options import RunOptions
from samfeat_hloc.scenes import write_demo


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(2)
    root = tmp_path_factory.mktemp("demo")
    # in so small a map of seed 0 a photo by night is refused: keypoints agree in 24 places, not 25
    dataset = write_demo(root / "dataset", num_db=10, num_queries=2, size=(320, 240), seed=1)
    return run.run(dataset, root / "outputs", RunOptions(preset="samfeat_fast"))


@pytest.fixture(scope="module")
def map_dir(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps") / "demo.map"
    building.build(sources_in(finished.outputs), folder)
    return folder


@pytest.fixture(scope="module")
def localizer(map_dir: Path) -> Localizer:
    return Localizer.load(map_dir)


def test_settings_come_as_one_or_by_their_names(map_dir: Path, localizer: Localizer) -> None:
    settings = LocalizerSettings(num_retrieved=7, turns=True)
    wanted = replace(settings, min_inliers=40)
    assert Localizer.load(map_dir, settings, min_inliers=40).settings == wanted
    by_name = Localizer(localizer.map, localizer.model, num_retrieved=7, turns=True, min_inliers=40)
    assert by_name.settings == wanted
    assert by_name.options == localizer.map.extraction
    with pytest.raises(TypeError, match="number_retrieved"):
        Localizer.load(map_dir, number_retrieved=7)
    nan, inf = float("nan"), float("inf")
    for name, values in (
        ("num_retrieved", (0, 2.5)), ("min_inliers", (0, -5)), ("max_error", (0, nan, inf))
    ):  # fmt: skip
        for value in values:
            impossible: dict[str, Any] = {name: value}
            with refused(f"{name} {value}", "it has to be"):
                LocalizerSettings(**impossible)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def localize_all(localizer: Localizer, run: Run) -> list[Localization]:
    return [
        localizer.localize(run.dataset.image_dir / query.name, query.camera)
        for query in run.dataset.queries
    ]


def same(a: Localization, b: Localization) -> bool:
    return (
        a.pose is not None
        and b.pose is not None
        and (a.pose.qvec == b.pose.qvec).all()
        and (a.pose.tvec == b.pose.tvec).all()
        and (a.inlier_points == b.inlier_points).all()
        and a.retrieved == b.retrieved
    )


def test_the_poses_are_those_of_the_run(localizer: Localizer, finished: Run) -> None:
    for query, found in zip(
        finished.dataset.queries, localize_all(localizer, finished), strict=True
    ):
        run = finished.result.queries[query.name]
        assert finished.dataset.ground_truth is not None
        truth = finished.dataset.ground_truth[query.name]
        assert found.pose is not None
        ours, theirs = position_error(found.pose, truth), position_error(run.pose, truth)
        assert ours < max(2 * theirs, 0.1)
        assert rotation_error(found.pose, truth) < max(2 * rotation_error(run.pose, truth), 0.5)
        assert [name for name, _ in run.retrieved] == [name for name, _ in found.retrieved]
        assert found.num_inliers > 0.7 * run.num_inliers
        assert 0.5 < found.confidence < 1
        assert set(found.seconds) == {
            "total", "read", "extract", "retrieve", "match", "places", "pose"
        }  # fmt: skip
        assert sum(n for _, n in found.retrieved) == found.num_matches >= found.num_correspondences


def test_of_equal_features_the_poses_are_equal(localizer: Localizer, finished: Run) -> None:
    with FeatureReader(finished.features) as features:
        for query in finished.dataset.queries:
            rows = features.descriptors(query.name)
            size = features.image_size(query.name)
            assert size is not None
            found, _, _ = localizer.localize_features(
                QueryFeatures(
                    features.keypoints(query.name), rows, size,
                    vlad(rows.astype(np.float32), localizer.map.vocabulary),
                ),
                query.camera,
            )  # fmt: skip
            run = finished.result.queries[query.name]
            assert found.pose is not None and run.localized
            assert (found.pose.qvec == run.pose.qvec).all()
            assert (found.pose.tvec == run.pose.tvec).all()
            assert found.retrieved == run.retrieved
            assert found.num_correspondences == run.num_correspondences


def test_lookalike_places_are_left_out(localizer: Localizer, finished: Run) -> None:
    """The map twice, the second time a kilometre away, with half of the points moved about."""
    once, query = localizer.map, finished.dataset.queries[0]
    count = len(once.xyz)
    elsewhere = once.xyz + np.array([1000.0, 0, 0])
    elsewhere[::2] += np.random.default_rng(0).normal(size=(len(elsewhere[::2]), 3))
    images = [
        replace(
            image, name=f"twin/{image.name}",
            points=np.where(image.points >= 0, image.points + count, -1).astype(np.int32),
        )
        for image in once.images
    ]  # fmt: skip
    twice = replace(
        once, images=[*images, *once.images], xyz=np.concatenate([once.xyz, elsewhere]),
        point_ids=np.arange(2 * count),
        global_descriptors=np.concatenate([once.global_descriptors] * 2),
    )  # fmt: skip
    features, camera, _ = localizer.extract(finished.dataset.image_dir / query.name, query.camera)
    alone, _, _ = localizer.localize_features(features, camera)
    found, _, _ = localizer.on(twice).localize_features(features, camera)
    assert alone.pose is not None and found.pose is not None
    assert not any(name.startswith("twin/") for name, _ in found.retrieved)
    assert position_error(found.pose, alone.pose) < 0.01
    without = Localizer(twice, localizer.model, places=False)
    found, _, _ = without.localize_features(features, camera)
    assert any(name.startswith("twin/") for name, _ in found.retrieved)


def test_threads_share_a_localizer_and_nothing_is_written(
    localizer: Localizer, finished: Run, map_dir: Path
) -> None:
    before = content(map_dir)
    alone = localize_all(localizer, finished)
    queries = finished.dataset.queries
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(
                lambda query: localizer.localize(
                    read_image(finished.dataset.image_dir / query.name), query.camera
                ),
                queries,
            )
        )
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert content(map_dir) == before


def test_photos_side_by_side_are_localized_as_one_by_one(
    localizer: Localizer, finished: Run, tmp_path: Path
) -> None:
    alone = localize_all(localizer, finished)
    folder, queries = finished.dataset.image_dir, finished.dataset.queries
    photos = [(folder / query.name, query.camera, None) for query in queries]
    missing = (tmp_path / "missing.jpg", queries[0].camera, None)
    taken = []
    found = localizer.localize_many(taken.append(p) or p for p in [photos[0], missing, *photos[1:]])
    first = next(found)
    assert len(taken) <= 2 * 8 + 1
    second, *others = found
    assert isinstance(second, SamfeatError) and "missing.jpg" in str(second)
    assert len(others) == len(queries) - 1
    for one, other in zip(alone, [first, *others], strict=True):
        assert isinstance(other, Localization) and same(one, other)


def test_images_join_and_leave_without_touching_the_rest(
    localizer: Localizer, finished: Run, map_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    before = content(folder)
    queries = finished.dataset.queries
    cameras: dict[str, Camera | None] = {query.name: query.camera for query in queries[:2]}
    cameras[queries[2].name] = queries[2].camera
    assert finished.dataset.ground_truth is not None
    posed = {queries[2].name: finished.dataset.ground_truth[queries[2].name]}
    added = building.add(
        folder, localizer, finished.dataset.image_dir, cameras, poses=posed, min_inliers=10
    )
    assert all(entry.refused is None and entry.observations > 10 for entry in added)
    after = content(folder)
    assert {name for name in before if before[name] != after.get(name)} == {
        "manifest.json", *(f"points-0000/{part}.npy" for part in ("xyz", "ids", "seen"))
    }  # fmt: skip

    larger = Localizer(saved_map.read(folder), localizer.model)
    assert len(larger.map.images) == 13
    assert [image.name for image in larger.map.images[10:]] == list(cameras)
    count = len(localizer.map.xyz)
    assert sum(entry.new_points for entry in added) == len(larger.map.xyz) - count > 20
    assert (larger.map.xyz[:count] == localizer.map.xyz).all()
    assert (np.diff(larger.map.point_ids) > 0).all()
    views = np.zeros(len(larger.map.xyz), dtype=int)
    for image in larger.map.images:
        seen = image.points >= 0
        views[image.points[seen]] += 1
        added_to = seen & ((image.points >= count) | (image.name in cameras))
        errors = reprojection_errors(
            image.pose, image.camera.to_pycolmap(),
            image.keypoints[added_to].astype(float), larger.map.xyz[image.points[added_to]],
        )  # fmt: skip
        assert errors.max(initial=0) <= 4.01
        if image.name in cameras:
            assert len(set(image.points[seen].tolist())) == seen.sum()
    assert views.min() >= 2
    for old, now in zip(localizer.map.images, larger.map.images, strict=False):
        had = old.points >= 0
        assert (now.points[had] == old.points[had]).all()
        assert (now.points[~had] >= count).sum() == (now.points[~had] >= 0).sum()
    # a photo that is in the map now finds itself first
    found = larger.localize(finished.dataset.image_dir / queries[0].name, queries[0].camera)
    assert found.retrieved[0][0] == queries[0].name
    assert found.pose is not None
    assert position_error(found.pose, larger.map.images[10].pose) < 0.05

    with refused(problem=("this map", "already"), mend="remove"):
        building.add(folder, larger, finished.dataset.image_dir, cameras)
    saved_map.drop(folder, list(cameras))
    without = content(folder)
    assert {name for name in before if before[name] != without.get(name)} == {
        "manifest.json", *(f"points-0000/{part}.npy" for part in ("xyz", "ids", "seen"))
    }  # fmt: skip
    left = saved_map.read(folder)
    assert not set(cameras) & {image.name for image in left.images}
    assert not any(path.name == "images-0001" for path in folder.iterdir())
    assert_equal(left, localizer.map)


def test_a_map_that_another_changed_meanwhile_is_not_extended(
    localizer: Localizer, finished: Run, map_dir: Path, tmp_path: Path
) -> None:
    """Two that add the same photo once left a map that did not open."""
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    first, second = (
        Localizer(saved_map.read(folder), localizer.model, options=localizer.options.limited(*size))
        for size in ((None, None), (None, 300))
    )
    query = finished.dataset.queries[0]
    photos: dict[str, Camera | None] = {query.name: query.camera}
    building.add(folder, first, finished.dataset.image_dir, photos, min_inliers=10)
    after = content(folder)
    with refused(folder, "changed meanwhile", "run this again"):
        building.add(folder, second, finished.dataset.image_dir, photos, min_inliers=10)
    assert content(folder) == after
    assert saved_map.read(folder).images[-1].name == query.name


def assert_equal(one: saved_map.FrozenMap, other: saved_map.FrozenMap) -> None:
    """Two maps are the same: points, and all images with what their keypoints see."""
    assert (one.point_ids == other.point_ids).all() and (one.xyz == other.xyz).all()
    assert (one.global_descriptors == other.global_descriptors).all()
    assert one.first_added_id == other.first_added_id
    for a, b in zip(one.images, other.images, strict=True):
        assert (a.name, a.camera, a.added) == (b.name, b.camera, b.added)
        assert (a.points == b.points).all() and (a.keypoints == b.keypoints).all()
        assert (a.descriptors == b.descriptors).all()
        assert (a.pose.qvec == b.pose.qvec).all() and (a.pose.tvec == b.pose.tvec).all()


def test_the_map_is_as_it_was_whatever_joined_and_left(
    localizer: Localizer, finished: Run, map_dir: Path, tmp_path: Path
) -> None:
    """Images that leave take with them what they brought, and nothing of each other's."""
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    first, second = finished.dataset.queries[:2]

    def add(query: Query) -> saved_map.FrozenMap:
        there = Localizer(saved_map.read(folder), localizer.model)
        cameras: dict[str, Camera | None] = {query.name: query.camera}
        (entry,) = building.add(folder, there, finished.dataset.image_dir, cameras, min_inliers=10)
        assert entry.new_points > 0
        return saved_map.read(folder)

    def drop(query: Query) -> saved_map.FrozenMap:
        saved_map.drop(folder, [query.name])
        return saved_map.read(folder)

    with_first = add(first)
    assert [image.name for image in with_first.images if image.added] == [first.name]
    # some of its points would stand without it, as two images that were there see them too
    old = np.concatenate([image.points for image in with_first.images[:-1]])
    views = np.bincount(old[old >= 0], minlength=len(with_first.xyz))
    assert (views[with_first.point_ids >= with_first.first_added_id] >= 2).any()
    both = add(second)
    assert_equal(drop(second), with_first)
    assert_equal(add(second), both)
    without_first = drop(first)
    assert len(without_first.xyz) < len(both.xyz)  # what the second sees of the first's stays
    by_second = without_first.images[-1].points
    brought = without_first.point_ids[by_second[by_second >= 0]]
    kept = np.flatnonzero(without_first.point_ids >= without_first.first_added_id)
    assert set(without_first.point_ids[kept]) == {
        i for i in brought if i >= without_first.first_added_id
    }  # fmt: skip
    assert_equal(drop(second), localizer.map)
    # the ids of points that are gone are not taken for those of the built map
    saved_map.drop(folder, [localizer.map.images[0].name])
    small = add(first)
    assert small.first_added_id == localizer.map.first_added_id
    saved_map.drop(folder, [first.name])
    assert saved_map.read(folder).point_ids.max() < localizer.map.first_added_id


def test_maps_of_earlier_versions_do_not_say_what_was_added(
    localizer: Localizer, map_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    listed = folder / "images-0000" / "images.json"
    images = [{k: v for k, v in i.items() if k != "added"} for i in json.loads(listed.read_text())]
    listed.write_text(json.dumps(images))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["first_added_id"]
    digest = hashlib.sha256(listed.read_bytes()).hexdigest()
    manifest["files"]["images-0000/images.json"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert_equal(saved_map.read(folder), localizer.map)


def test_removed_images_are_gone(localizer: Localizer, map_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    names = [image.name for image in localizer.map.images]
    saved_map.drop(folder, names[:1])
    left = saved_map.read(folder)
    assert [image.name for image in left.images] == names[1:]
    assert left.global_descriptors.shape[0] == 9
    assert names[0].encode() not in b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )
    assert (left.images[0].descriptors == localizer.map.images[1].descriptors).all()
    views = np.zeros(len(left.xyz), dtype=int)
    for image, old in zip(left.images, localizer.map.images[1:], strict=True):
        seen = image.points >= 0
        views[image.points[seen]] += 1
        rows = old.points[seen]
        assert (left.xyz[image.points[seen]] == localizer.map.xyz[rows]).all()
        assert (left.point_ids[image.points[seen]] == localizer.map.point_ids[rows]).all()
    assert views.min() >= 2
    assert len(left.xyz) < len(localizer.map.xyz)
    with refused(folder, f"no image {names[0]}"):
        saved_map.drop(folder, names[:1])
    with refused(folder, "all"):
        saved_map.drop(folder, names[1:])


def test_a_kill_while_adding_leaves_the_old_map(
    localizer: Localizer, map_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    first = replace(localizer.map.images[0], name="again.jpg")
    larger = replace(localizer.map, images=[*localizer.map.images, first])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved_map, "_write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            saved_map.extend(folder, larger)
    assert (folder / "images-0001").is_dir()
    assert len(saved_map.read(folder).images) == 10
    saved_map.extend(folder, larger)
    assert len(saved_map.read(folder).images) == 11
    with refused(problem="meanwhile"):
        saved_map.extend(folder, localizer.map)


def test_a_compact_map_has_observations_alone(
    localizer: Localizer, finished: Run, tmp_path: Path
) -> None:
    compact = building.build(sources_in(finished.outputs), tmp_path / "map", compact=True)
    for image, whole in zip(compact.images, localizer.map.images, strict=True):
        assert (image.points == whole.points[whole.points >= 0]).all()
        assert len(image.keypoints) == len(image.descriptors) == len(image.points)
    small = Localizer(saved_map.read(tmp_path / "map"), localizer.model)
    assert all(found.num_inliers > 20 for found in localize_all(small, finished))


@pytest.mark.parametrize(
    ("damage", "subject", "problem"),
    [
        (
            lambda f: (f / "points-0000/xyz.npy").unlink(),
            "xyz.npy",
            "missing",
        ),
        (
            lambda f: (f / "points-0000/seen.npy").write_bytes(b"no"),
            "seen.npy",
            "manifest",
        ),
        (lambda f: (f / "manifest.json").unlink(), "map", "no saved map"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json", "not the manifest"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace('"version": 2', '"version": 3')
            ),
            "manifest.json",
            ("version 3", "version 2"),
        ),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace("images-0000", "../images-0000")
            ),
            "manifest.json",
            "not the manifest",
        ),
    ],
)
def test_damage_is_told(
    damage: object, subject: str, problem: object, map_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    damage(folder)  # type: ignore[operator]
    with refused(subject, problem):
        saved_map.read(folder)


def test_no_array_of_a_map_is_a_pickle(map_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "map"
    shutil.copytree(map_dir, folder)
    evil = folder / "points-0000/xyz.npy"
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["points-0000/xyz.npy"] = hashlib.sha256(evil.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with refused("map", "version 2"):
        saved_map.read(folder)


def with_exif(path: Path, target: Path, focal_in_35mm: int | None) -> Path:
    exif = Image.Exif()
    if focal_in_35mm is not None:
        exif.get_ifd(0x8769)[0xA405] = focal_in_35mm
    with Image.open(path) as image:
        image.save(target, exif=exif, quality=95)
    return target


def test_intrinsics_come_from_exif(finished: Run, localizer: Localizer, tmp_path: Path) -> None:
    query = finished.dataset.queries[0]
    source = finished.dataset.image_dir / query.name
    diagonal = np.hypot(query.camera.width, query.camera.height)
    focal = round(query.camera.params[0] * np.hypot(36, 24) / diagonal)
    photo = with_exif(source, tmp_path / "photo.jpg", focal)
    camera = camera_from_exif(photo)
    assert camera.model == "SIMPLE_RADIAL"
    assert (camera.width, camera.height) == (query.camera.width, query.camera.height)
    assert abs(camera.params[0] / query.camera.params[0] - 1) < 0.03
    found = localizer.localize(photo)
    theirs = camera.to_pycolmap()
    as_given = Localizer(localizer.map, localizer.model, refine_focal=False)
    unrefined = as_given.localize(photo)
    assert unrefined.camera == camera and unrefined.focal_deviation is None
    for form in (photo, Image.open(photo), read_image(photo)):
        again = localizer.localize(form, theirs)
        assert again.camera == camera
        assert again.num_inliers == unrefined.num_inliers
    assert found.pose is not None
    assert found.camera != camera and found.focal_deviation is not None
    assert position_error(found.pose, finished.result.queries[query.name].pose) < 1
    without = with_exif(source, tmp_path / "without.jpg", None)
    with refused("without.jpg", "EXIF", "--camera"):
        as_given.localize(without)
    with refused("camera", "EXIF"):
        as_given.localize(read_image(source))
    with refused("--camera 'FISH 1 1 1'", "'FISH'"):
        camera_from_text("FISH 1 1 1")
    with refused(query.name, ("320x240", "10x10")):
        localizer.localize(source, camera_from_text("SIMPLE_PINHOLE 10 10 5 5 5"))


def scaled_focal(camera: Camera, ratio: float) -> Camera:
    count = CAMERA_MODELS[camera.model][2]
    return replace(
        camera, params=(*(f * ratio for f in camera.params[:count]), *camera.params[count:])
    )


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4])
def test_a_rough_focal_length_is_found(localizer: Localizer, finished: Run, ratio: float) -> None:
    finding = Localizer(localizer.map, localizer.model, refine_focal=True)
    for query in finished.dataset.queries:
        path = finished.dataset.image_dir / query.name
        found = finding.localize(path, scaled_focal(query.camera, ratio))
        focal = query.camera.params[0]
        assert found.pose is not None and found.focal_deviation is not None
        error = abs(found.camera.params[0] - focal)
        assert error < 0.03 * focal
        assert error < 4 * found.focal_deviation < 0.2 * focal
        known = localizer.localize(path, query.camera)
        assert known.pose is not None and known.focal_deviation is None
        assert known.camera == query.camera
        assert position_error(found.pose, known.pose) < 0.3


def test_a_photo_of_unknown_intrinsics_is_localized(
    localizer: Localizer, finished: Run, tmp_path: Path
) -> None:
    query = finished.dataset.queries[0]
    source = finished.dataset.image_dir / query.name
    focal = query.camera.params[0]
    photo = with_exif(source, tmp_path / "without.jpg", None)
    for form in (photo, read_image(source)):
        found = localizer.localize(form)
        assert found.pose is not None and "focal" in found.seconds
        assert abs(found.camera.to_pycolmap().mean_focal_length() - focal) < 0.03 * focal
        assert found.as_json()["focal_deviation"] == found.focal_deviation


def test_a_turned_photo_is_localized_where_turns_are_tried(
    localizer: Localizer, finished: Run, tmp_path: Path
) -> None:
    query = finished.dataset.queries[0]
    photo = read_image(finished.dataset.image_dir / query.name)
    upright = localizer.localize(photo, query.camera)
    assert upright.pose is not None and upright.turned == 0
    # a few keypoints agree at a quarter too, and rightly
    strict = Localizer(localizer.map, localizer.model, min_inliers=100)
    turning = Localizer(localizer.map, localizer.model, min_inliers=100, turns=True)
    assert same(turning.localize(photo, query.camera), upright)
    height, width = photo.shape[:2]
    f, _, cx, cy = query.camera.params
    # not upside down: generated facades are the same then
    for quarters, sides, centre in (
        (1, (height, width), (cy, width - cx)),  # counter-clockwise, as np.rot90 turns
        (3, (height, width), (height - cy, cx)),
    ):
        camera = Camera("SIMPLE_PINHOLE", *sides, (f, *centre))
        stored = np.ascontiguousarray(np.rot90(photo, quarters))
        assert strict.localize(stored, camera).pose is None
        found = turning.localize(stored, camera)
        assert found.pose is not None and found.turned == 90 * quarters
        # the same camera, rolled
        assert position_error(found.pose, upright.pose) < 0.01
        roll = abs(rotation_error(found.pose, upright.pose))
        assert abs(roll - 90) < 0.1
        assert found.inlier_keypoints[:, 0].max() <= sides[0]
        assert found.inlier_keypoints[:, 1].max() <= sides[1]


def test_what_a_mask_hides_takes_no_part(localizer: Localizer, finished: Run) -> None:
    query = finished.dataset.queries[0]
    photo = read_image(finished.dataset.image_dir / query.name)
    half = photo.shape[1] // 2
    mask = np.ones(photo.shape[:2], dtype=np.uint8)
    mask[:, :half] = 0
    found = localizer.localize(photo, query.camera, mask=mask)
    whole = localizer.localize(photo, query.camera)
    assert found.pose is not None and whole.pose is not None
    assert found.inlier_keypoints[:, 0].min() >= half > whole.inlier_keypoints[:, 0].min()
    assert position_error(found.pose, whole.pose) < 0.3
    # a turned photo's mask is turned with it
    f, _, cx, cy = query.camera.params
    height, width = photo.shape[:2]
    camera = Camera("SIMPLE_PINHOLE", height, width, (f, cy, width - cx))
    turning = Localizer(localizer.map, localizer.model, turns=True)
    turned = turning.localize(
        np.ascontiguousarray(np.rot90(photo)), camera, mask=np.rot90(mask).copy()
    )
    assert turned.turned == 90 and turned.inlier_keypoints[:, 1].max() <= width - half
    assert localizer.localize(photo, query.camera, mask=mask * 0).pose is None
    with refused("mask", "320x239", "size"):
        localizer.localize(photo, query.camera, mask=mask[1:])


def test_a_photo_of_nothing_is_not_trusted(localizer: Localizer) -> None:
    camera = Camera("SIMPLE_PINHOLE", 320, 240, (300.0, 160.0, 120.0))
    assert localizer.localize(np.zeros((240, 320, 3), dtype=np.uint8), camera).confidence < 0.5
    features, _, _ = localizer.extract(np.zeros((240, 320, 3), dtype=np.uint8), camera)
    empty = replace(
        features, keypoints=features.keypoints[:0], descriptors=features.descriptors[:0]
    )
    found, _, _ = localizer.localize_features(empty, camera)
    assert found.pose is None
    assert found.confidence == 0 and found.num_inliers == 0


def test_a_photo_of_elsewhere_is_not_localized(localizer: Localizer, finished: Run) -> None:
    query = finished.dataset.queries[0]
    photo = read_image(finished.dataset.image_dir / query.name)
    here = localizer.localize(photo, query.camera)
    assert here.pose is not None and here.refused is None and here.weak_pose is None
    assert here.as_json()["localized"] and here.as_json()["refused"] is None
    assert here.as_json()["num_agreeing"] == here.num_agreeing > here.as_json()["num_squares"] > 0
    assert here.num_agreeing <= here.num_inliers and here.num_matched <= here.num_correspondences
    blocks = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = localizer.localize(blocks.repeat(10, axis=0).repeat(10, axis=1), query.camera)
    assert found.pose is None
    assert found.refused is not None and f"of {found.num_matched} matched" in found.refused
    assert found.confidence < 0.5 < here.confidence
    assert found.as_json()["qvec"] is None
    assert found.weak_pose is not None and found.as_json(weak=True)["qvec"] is not None
    assert Localizer(localizer.map, localizer.model, min_inliers=here.num_agreeing + 1).localize(
        photo, query.camera
    ).refused == (
        f"{here.num_agreeing} of {here.num_matched} matched keypoints agree with a pose, "
        f"{here.num_agreeing + 1} have to (so many may by chance)"
    )


def test_the_least_number_of_inliers_grows_with_the_matches() -> None:
    assert [least_inliers(n) for n in (0, 299, 301, 1000)] == [30, 30, 31, 100]
    assert refusal(30, 300, 30) is None and refusal(99, 1000, 90) is not None
    assert refusal(100, 1000, 90) is None and refusal(100, 1000, None) is None
    assert refusal(100, 1000, 24) is not None, "in one place of the photo"
    assert refusal(20, 100, 20, min_inliers=20) is None
    assert [confidence(n, 400, n) for n in (0, 20, 40, 80)] == sorted(
        confidence(n, 400, n) for n in (0, 20, 40, 80)
    )
    assert confidence(0, 0, 0) == 0 and confidence(400, 400, 300) < 1
    assert confidence(400, 400, 10) < 0.5


def test_every_model_of_a_reconstruction_gets_a_map(finished: Run, tmp_path: Path) -> None:
    """The second once had no global descriptors: those of the first's images were there."""
    shutil.copy(finished.outputs / "features.h5", tmp_path)
    whole = finished.outputs / "map"
    names = sorted(image.name for image in pycolmap.Reconstruction(whole).images.values())
    halves = names[::2], names[1::2]
    for number, left in enumerate(halves):
        model = pycolmap.Reconstruction(whole)
        for image in list(model.images.values()):
            if image.name not in left:
                model.deregister_frame(image.frame_id)
        folder = tmp_path / "sparse" / str(number)
        folder.mkdir(parents=True)
        model.write(folder)
    for number, left in enumerate(halves):
        built = building.build(sources_in(tmp_path, number), tmp_path / f"{number}.map")
        assert sorted(image.name for image in built.images) == left


def test_a_run_with_pairs_of_its_own_gets_a_map(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a run has made no global descriptors."""
    shutil.copy(finished.outputs / "features.h5", tmp_path)
    shutil.copytree(finished.outputs / "map", tmp_path / "map")
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)  # nothing is read-only for root
        with refused(tmp_path, "read-only"):
            sources_in(tmp_path)
    built = building.build(sources_in(tmp_path), tmp_path / "house.map")
    assert len(built.images) == len(built.global_descriptors) == 10


def test_another_network_is_refused(localizer: Localizer) -> None:
    with refused("weights", mend="--weights"):
        Localizer(localizer.map, SAMFeat())


def test_the_commands(finished: Run, tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    folder = tmp_path / "map"
    assert "10 images" in call("map", "build", finished.outputs, "--output", folder)
    with refused(folder, "already"):
        call("map", "build", finished.outputs, "--output", folder)
    (tmp_path / "empty").mkdir()
    call("map", "build", finished.outputs, "--output", tmp_path / "empty", "--overwrite")
    with refused(tmp_path, "saved map"):
        call("map", "build", tmp_path, "--output", tmp_path, "--overwrite")
    query = finished.dataset.queries[0]
    camera = " ".join(
        map(str, [query.camera.model, query.camera.width, query.camera.height,
                  *query.camera.params])
    )  # fmt: skip
    photo = finished.dataset.image_dir / query.name
    arguments = ("localize", photo, "--map", folder, "--camera", camera)
    assert "inliers of" in call(*arguments)
    found = json.loads(call(*arguments, "--json", "--num-retrieved", 3, "--max-keypoints", 500))
    assert found["localized"] and len(found["retrieved"]) == 3 and found["num_keypoints"] <= 500
    for wanted, weak in (("not localized, ", ()), ("pose (qw", ("--weak",))):
        done = CliRunner().invoke(app, [*map(str, arguments), "--min-inliers", "100000", *weak])
        assert done.exit_code == 3
        assert wanted in done.output and "have to (so many may by chance)" in done.output
    with refused("--masks", "already"):
        call("map", "build", finished.outputs, "--output", tmp_path / "m", "--masks", tmp_path)
    with refused("--camera", "has the cameras"):
        call("map", "build", finished.outputs / "map", "--output", tmp_path / "m",
             "--images", finished.dataset.image_dir, "--camera", camera)  # fmt: skip
    (tmp_path / "poses.txt").write_text(f"new/{query.name} 1 0 0 0 0 0 0\n")
    (tmp_path / "list.txt").write_text(f"{query.name} {camera}\n")
    with refused("poses.txt", f"new/{query.name}"):
        call("map", "add", folder, "--images", finished.dataset.image_dir, "--queries",
             tmp_path / "list.txt", "--poses", tmp_path / "poses.txt")  # fmt: skip
    black = Image.new("1", (query.camera.width, query.camera.height))
    for name in (photo.name, query.name):
        path = tmp_path / f"masks/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        black.save(path)
    hidden = CliRunner().invoke(app, [*map(str, arguments), "--masks", str(tmp_path / "masks")])
    assert hidden.exit_code == 3 and "0 inliers" in hidden.output
    with refused(mend="--poses"):
        call("map", "add", folder, "--images", finished.dataset.image_dir, "--queries",
             tmp_path / "list.txt", "--masks", tmp_path / "masks")  # fmt: skip
    text = call("map", "add", folder, "--images", finished.dataset.image_dir,
                "--queries", tmp_path / "list.txt", "--min-inliers", 10)  # fmt: skip
    assert "1 of 1 images added" in text and " new points" in text
    assert f"{query.name}:" in call("map", "info", folder)
    assert "1 image removed" in call("map", "remove", folder, query.name)
    assert query.name not in call("map", "info", folder)


def test_several_photos_and_folders(
    finished: Run, map_dir: Path, localizer: Localizer, tmp_path: Path
) -> None:
    """A line a photo, a poses file of those that are localized, and the exit code."""
    queries = finished.dataset.queries
    camera = queries[0].camera
    words = " ".join(map(str, [camera.model, camera.width, camera.height, *camera.params]))
    folder = tmp_path / "new"
    (folder / "below").mkdir(parents=True)
    shutil.copy(finished.dataset.image_dir / queries[0].name, folder / "below" / "a.jpg")
    shutil.copy(finished.dataset.image_dir / queries[1].name, folder / "b.jpg")
    blocks = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    strange = tmp_path / "strange.png"
    Image.fromarray(blocks.repeat(10, axis=0).repeat(10, axis=1)).save(strange)
    output = tmp_path / "poses.txt"

    def call(*more: object) -> Result:
        command = ["localize", "--map", map_dir, "--camera", words, *more]
        return CliRunner().invoke(app, list(map(str, command)))

    # a photo of the folder is given once more: it is taken once
    done = call(strange, folder, folder / "b.jpg", "--output", output)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and lines[-1] == "2 of 3 photos localized"
    assert lines[0].startswith(f"{strange}: not localized, ")
    assert lines[1].startswith(f"{folder / 'b.jpg'}: localized; pose ")
    poses = read_poses(output)
    assert list(poses) == ["b.jpg", "below/a.jpg"]
    for query, name in ((queries[0], "below/a.jpg"), (queries[1], "b.jpg")):
        alone = localizer.localize(folder / name, query.camera)
        assert alone.pose is not None
        assert (poses[name].tvec == alone.pose.tvec).all()
        assert f"{alone.num_inliers} inliers, confidence {alone.confidence:.2f}" in done.stdout

    with refused(output, "exists", "--overwrite"):
        raise call(folder, "--output", output).exception or AssertionError
    done = call(strange, strange, "--output", output, "--overwrite")  # one of them is enough
    assert done.exit_code == 3
    assert read_poses(output) == {}
    done = call(strange, folder, "--json", "--weak")
    listed = json.loads(done.stdout)
    assert [one["localized"] for one in listed] == [False, True, True]
    assert [one["photo"] for one in listed] == [
        str(strange), str(folder / "b.jpg"), str(folder / "below" / "a.jpg")
    ]  # fmt: skip
    assert all(one["qvec"] is not None for one in listed)


def test_photos_that_cannot_be_tried_are_named(
    finished: Run, map_dir: Path, tmp_path: Path
) -> None:
    query = finished.dataset.queries[0]
    good = finished.dataset.image_dir / query.name
    (tmp_path / "b.jpg").write_bytes(good.read_bytes()[:2000])
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(good, other / Path(query.name).name)

    def call(*more: object) -> Result:
        return CliRunner().invoke(app, ["localize", "--map", str(map_dir), *map(str, more)])

    output = tmp_path / "poses.txt"
    done = call(tmp_path / "b.jpg", good, "--output", output)
    assert f"{tmp_path / 'b.jpg'}: could not be tried, " in done.stdout
    with refused("1 of 2 photos", "b.jpg"):
        raise done.exception or AssertionError
    assert list(read_poses(output)) == [good.name]
    with refused("b.jpg"):
        raise call(tmp_path / "b.jpg").exception or AssertionError
    with refused("none.jpg", "no such photo or folder"):
        raise call(good, tmp_path / "none.jpg").exception or AssertionError
    with refused(other / good.name, good.name, "one folder"):
        raise call(good, other, "--output", tmp_path / "twice.txt").exception or AssertionError
    both = call(good, other, "--json")
    assert [one["localized"] for one in json.loads(both.stdout)] == [True, True]
    (tmp_path / "empty").mkdir()
    with refused("empty", "no image"):
        raise call(tmp_path / "empty").exception or AssertionError
