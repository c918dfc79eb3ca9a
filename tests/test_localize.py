"""Localization: right poses, honest failures, the same result every time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mapped_scene
import numpy as np
import pytest
from mapped_scene import BLIND, CAMERA, DB, QUERIES, Files
from refusals import refused
from synthetic_scene import FOCAL, HEIGHT, WIDTH, project

from samfeat_hloc.colmap.absolute_pose import estimate_pose
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.poses import read_poses
from samfeat_hloc.datasets.queries import Query
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation.localization import position_error, rotation_error
from samfeat_hloc.files.feature_readers import FeatureReader, MatchReader
from samfeat_hloc.localization import localize, mapping
from samfeat_hloc.localization import matches as matching
from samfeat_hloc.localization.correspondences import (
    ImageMatches,
    check_keypoints,
    image_matches,
    merged,
)
from samfeat_hloc.localization.query_poses import Matched, QueryPoses, Task
from samfeat_hloc.localization.result import FALLBACK, LOCALIZED, LocalizationResult


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    built = mapped_scene.build(tmp_path_factory.mktemp("dataset"))
    mapping.main(built.mapping(), built.root / "map")
    return built


OPTIONS = ("max_error", "workers", "overwrite")


def run(files: Files, output: Path, **changes: object) -> LocalizationResult:
    options = {name: changes.pop(name) for name in OPTIONS if name in changes}
    return localize.main(files.localization(**changes), output, **options)  # type: ignore[arg-type]


def test_poses_are_right(files: Files, tmp_path: Path) -> None:
    result = run(files, tmp_path / "poses.txt")
    for name in QUERIES[:2]:
        query, truth = result.queries[name], files.scene.poses[name]
        assert query.status == LOCALIZED
        assert position_error(query.pose, truth) < 0.03
        assert rotation_error(query.pose, truth) < 0.15
        assert query.num_inliers > 100
        assert query.num_inliers <= query.num_correspondences <= query.num_matches
        assert [image for image, _ in query.retrieved] == DB  # each once
        assert sum(count for _, count in query.retrieved) == query.num_matches
    assert read_poses(tmp_path / "poses.txt").keys() == set(QUERIES)


def test_inliers_project_onto_their_keypoints(files: Files, tmp_path: Path) -> None:
    """The stored indices and ids are what pictures and reports build on."""
    result = run(files, tmp_path / "poses.txt")
    model = read_model(files.root / "map")
    query = result.queries[QUERIES[0]]
    rows = np.searchsorted(model.point_ids, query.inlier_points)
    assert (model.point_ids[rows] == query.inlier_points).all()
    camera = model.xyz[rows] @ query.pose.rotation.T + query.pose.tvec
    xy = camera[:, :2] / camera[:, 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]
    with h5py.File(files.features) as file:
        keypoints = file[QUERIES[0]]["keypoints"][()][query.inlier_keypoints]
    errors = xy - (keypoints + 0.5)
    assert np.abs(errors).max() < 12
    assert np.abs(errors.mean(axis=0)).max() < 0.1  # the half pixel is there


def test_a_query_that_sees_nothing_gets_the_first_retrieved_pose(
    files: Files, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{name} {DB[5]}\n{name} {DB[2]}\n" for name in QUERIES))
    empty = mapped_scene.with_features(
        files.features, tmp_path / "features.h5", BLIND, keypoints=np.zeros((0, 2), np.float32)
    )
    matches = tmp_path / "matches.h5"
    matches.write_bytes(files.matches("query").read_bytes())
    with h5py.File(matches, "a") as file:
        group = file[BLIND.replace("/", "-")]
        for name in list(group):
            del group[name]["matches0"]
            group[name]["matches0"] = np.zeros(0, np.int16)
    result = run(files, tmp_path / "poses.txt", pairs=pairs, features=empty, matches=matches)
    blind = result.queries[BLIND]
    assert blind.status == FALLBACK
    assert (blind.num_keypoints, blind.num_matches, blind.num_inliers) == (0, 0, 0)
    assert position_error(blind.pose, files.scene.poses[DB[5]]) < 1e-9
    assert result.num_localized == 2


def test_the_same_every_time_and_with_any_workers(files: Files, tmp_path: Path) -> None:
    texts = set()
    for i, workers in enumerate((1, 3, 3)):
        output = tmp_path / str(i) / "poses.txt"
        run(files, output, workers=workers)
        texts.add(output.read_text() + (output.parent / "localization.json").read_text())
    assert len(texts) == 1


def test_done_is_skipped_and_read_back(files: Files, tmp_path: Path) -> None:
    output = tmp_path / "poses.txt"
    first = run(files, output)
    before = output.stat().st_mtime_ns
    again = run(files, output)
    assert again.skipped and not first.skipped
    assert output.stat().st_mtime_ns == before
    for name, query in first.queries.items():
        same = again.queries[name]
        assert np.allclose(same.pose.qvec, query.pose.qvec, atol=1e-15)
        assert (same.pose.tvec == query.pose.tvec).all()
        assert (same.inlier_keypoints == query.inlier_keypoints).all()
        assert (same.inlier_points == query.inlier_points).all()
        assert replace(same, pose=query.pose, inlier_keypoints=query.inlier_keypoints,
                       inlier_points=query.inlier_points).__dict__ == query.__dict__  # fmt: skip
    with refused("poses.txt", ("max_error", "12.0", "4.0")):
        run(files, output, max_error=4.0)
    assert not run(files, output, max_error=4.0, overwrite=True).skipped

    (tmp_path / "localization.json").write_text(json.dumps({QUERIES[0]: {}}))
    with refused("localization.json", "poses.txt"):
        run(files, output, max_error=4.0)


def test_correspondences_are_hlocs(files: Files) -> None:
    """The arrays against the plain loops over matches that they stand for."""
    model = read_model(files.root / "map")
    with MatchReader(files.matches("query")) as matches:
        images = [image_matches(model, QUERIES[0], name, matches) for name in DB]
        found = merged(images)
        expected, counts = set(), []
        for db_name in DB:
            seen = [
                (int(k), int(model.images[db_name].points[m]))
                for k, m in matches.matches(QUERIES[0], db_name)
                if model.images[db_name].points[m] >= 0
            ]
            counts.append(len(seen))
            expected.update(seen)
            others = [pair for pair in matches.matches(QUERIES[0], db_name).tolist()
                      if model.images[db_name].points[pair[1]] < 0]  # fmt: skip
            assert images[DB.index(db_name)].pointless.tolist() == others
    pairs = list(zip(found.keypoints.tolist(), found.points.tolist(), strict=True))
    assert pairs == sorted(expected)
    assert found.matches_per_image == counts


def test_matches_without_a_point_are_of_the_querys_keypoints_too(files: Files) -> None:
    none = np.zeros(0, dtype=np.int64)
    images = [ImageMatches(DB[0], none, none, none, np.array([[7, 0]]))]
    with FeatureReader(files.features) as features, MatchReader(files.matches("query")) as matches:
        check_keypoints(QUERIES[0], images, 8, features, matches)
        with refused(matches.path.name, QUERIES[0]):
            check_keypoints(QUERIES[0], images, 7, features, matches)
        images[0].pointless[0, 1] = features.count(DB[0])
        with refused(matches.path.name, DB[0]):
            check_keypoints(QUERIES[0], images, 8, features, matches)


def test_features_of_the_queries_alone_will_do(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    none = np.zeros(0, dtype=np.int64)
    alone = tmp_path / "features-query.h5"
    with h5py.File(files.features) as source, h5py.File(alone, "w") as copy:
        for name in QUERIES:
            source.copy(name, copy, name)
    with caplog.at_level("INFO"), files.localization(features=alone).open() as opened:
        assert f"no features of {DB[0]}" in caplog.text and "8 of the 8 images" in caplog.text
        poses = QueryPoses(opened.map_model, opened.features, opened.matches, 12.0)
        task = Task([(files.queries[0], DB)])
        matched, pose, inliers = poses.solve(poses.read(task))
        matched.images[0].append(ImageMatches(DB[0], none, none, none, np.array([[7, 0]])))
        (result,) = poses.finish(matched, pose, inliers)
    assert position_error(result.pose, files.scene.poses[QUERIES[0]]) < 0.03


def test_a_pair_stored_the_other_way_round(files: Files, tmp_path: Path) -> None:
    reverse = tmp_path / "matches.h5"
    with MatchReader(files.matches("query")) as matches, h5py.File(reverse, "w") as file:
        pair = matches.matches(QUERIES[0], DB[0])
        backward = np.full(pair[:, 1].max() + 1, -1, np.int16)
        backward[pair[:, 1]] = pair[:, 0]
        file["db-0.jpg/query-day-a.jpg/matches0"] = backward
        with MatchReader(reverse) as reversed_matches:
            other = reversed_matches.matches(QUERIES[0], DB[0])
    assert sorted(map(tuple, other.tolist())) == sorted(map(tuple, pair.tolist()))


def test_the_whole_map_in_one_pixel_is_no_pose(files: Files) -> None:
    """More matches of one spot, a lamp, than true ones: any far camera agrees with them all."""
    random = np.random.default_rng(0)
    truth = files.scene.poses[QUERIES[0]]
    points = files.scene.points
    xy = project(files.scene, truth)
    true = random.choice(len(points), 40, replace=False)
    spot = random.choice(len(points), 150, replace=False)
    lamp = np.array([500, 80]) + random.uniform(-3, 3, (len(spot), 2))
    keypoints = np.concatenate([xy[true] + random.normal(scale=0.3, size=(40, 2)), lamp])
    solved = estimate_pose(
        keypoints, np.concatenate([points[true], points[spot]]), CAMERA.to_pycolmap()
    )
    assert solved is not None
    pose, inliers = solved
    assert position_error(pose, truth) < 0.05
    assert inliers[:40].all() and inliers[40:].mean() < 0.1
    assert estimate_pose(lamp, points[spot], CAMERA.to_pycolmap()) is None


def test_a_database_image_without_points_is_passed_over(files: Files, tmp_path: Path) -> None:
    """It is in the map and retrieved; pycolmap 3.13 keeps no keypoints of it."""
    without = tmp_path / "pairs.txt"
    lines = files.pairs("db").read_text().split("\n")
    without.write_text("\n".join(line for line in lines if DB[0] not in line.split()))
    map_dir = mapping.main(files.mapping(pairs=without), tmp_path / "map")
    result = run(files, tmp_path / "poses.txt", map_dir=map_dir)
    assert result.queries[QUERIES[0]].retrieved[0] == (DB[0], 0)
    assert result.num_localized >= 2


def test_too_few_correspondences_are_no_pose() -> None:
    none = np.zeros((0, 2)), np.zeros((0, 3))
    assert estimate_pose(*none, CAMERA.to_pycolmap()) is None
    assert estimate_pose(np.ones((3, 2)), np.ones((3, 3)), CAMERA.to_pycolmap()) is None


@pytest.mark.parametrize("what", ["fewer", "reordered", "of the query"])
def test_features_that_the_map_was_not_made_from_are_refused(
    files: Files, tmp_path: Path, what: str
) -> None:
    """Once "all localized", metres off: map, matches and features are joined by number."""
    changed = tmp_path / "features.h5"
    changed.write_bytes(files.features.read_bytes())
    with h5py.File(changed, "a") as file:
        for name in [QUERIES[0]] if what == "of the query" else DB:
            keypoints = file[name]["keypoints"][()]
            del file[name]["keypoints"]
            file[name]["keypoints"] = keypoints[::-1] if what == "reordered" else keypoints[:50]
    with pytest.raises(SamfeatError) as caught:
        run(files, tmp_path / "poses.txt", features=changed)
    where = files.matches("query") if what == "of the query" else changed
    assert caught.value.subject == str(where)
    assert not (tmp_path / "poses.txt").exists()


def test_hlocs_stage_refuses_them_too(files: Files, tmp_path: Path) -> None:
    pytest.importorskip("hloc")
    from samfeat_hloc.hloc_plugin.localization import localize as by_hloc

    changed = tmp_path / "features.h5"
    changed.write_bytes(files.features.read_bytes())
    with h5py.File(changed, "a") as file:
        for name in DB:
            file[name]["keypoints"][...] = file[name]["keypoints"][()][::-1]
    with pytest.raises(SamfeatError) as caught:
        by_hloc(files.localization(features=changed), tmp_path / "poses.txt")
    assert caught.value.subject == str(changed)
    assert not (tmp_path / "poses.txt").exists()


BROKEN = {
    "no retrieval": ("pairs.txt", "query/night/b.jpg"),
    "not in the map": ("pairs.txt", ("db/99.jpg", "query/day/a.jpg")),
    "no features": ("features.h5", "query/night/b.jpg"),
    "pair not matched": ("matches.h5", "query/day/a.jpg db/3.jpg"),
    "rotated": ("features.h5", ("query/day/a.jpg", "480x640"), "rotated"),
    "another size": ("features.h5", ("query/day/a.jpg", "640x480", "1280x960"), "intrinsics"),
    "other features": (None, ("db/0.jpg", "90")),
    "no map": ("map", "no map"),
    "damaged map": ("points3D.bin", "damaged"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_in_one_line(files: Files, tmp_path: Path, what: str) -> None:
    changes: dict[str, object] = {}
    pairs, features, matches = (tmp_path / n for n in ("pairs.txt", "features.h5", "matches.h5"))
    if what == "no retrieval":
        changes["pairs"] = pairs
        pairs.write_text("".join(f"{name} {DB[0]}\n" for name in (QUERIES[0], QUERIES[2])))
    elif what == "not in the map":
        changes["pairs"] = pairs
        pairs.write_text("".join(f"{name} db/99.jpg\n" for name in QUERIES))
    elif what == "no features":
        changes["features"] = mapped_scene.copy_without(files.features, features, QUERIES[1])
    elif what == "pair not matched":
        changes["matches"] = mapped_scene.copy_without(
            files.matches("query"), matches, "query-day-a.jpg/db-3.jpg"
        )
    elif what == "rotated":
        changes["features"] = mapped_scene.with_features(
            files.features, features, QUERIES[0], image_size=np.array([HEIGHT, WIDTH])
        )
    elif what == "another size":
        camera = replace(CAMERA, width=2 * WIDTH, height=2 * HEIGHT)
        changes["queries"] = [Query(QUERIES[0], "day", camera)]
    elif what == "other features":
        with h5py.File(files.features) as file:
            some = {key: file[DB[0]][key][()] for key in ("keypoints", "descriptors")}
        few = mapped_scene.with_features(
            files.features, features, DB[0],
            keypoints=some["keypoints"][:90], descriptors=some["descriptors"][:, :90],
        )  # fmt: skip
        pair_file = matching.main(files.pairs("db"), few, matches)
        inputs = files.mapping(features=few, matches=pair_file)
        changes["map_dir"] = mapping.main(inputs, tmp_path / "map")
    elif what == "no map":
        changes["map_dir"] = tmp_path / "map"
    elif what == "damaged map":
        map_dir = Path(shutil.copytree(files.root / "map", tmp_path / "map"))
        (map_dir / "points3D.bin").write_bytes((map_dir / "points3D.bin").read_bytes()[:-9])
        changes["map_dir"] = map_dir
    output = tmp_path / "out" / "poses.txt"
    with refused(*BROKEN[what]):
        run(files, output, **changes)
    # beside queries that were finished before, which are kept
    assert {path.name for path in tmp_path.glob("out/*")} <= {"poses.txt.queries.parts"}


def test_a_run_that_was_stopped_goes_on(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole" / "poses.txt", tmp_path / "out" / "poses.txt"
    run(files, whole)
    finish = QueryPoses.finish
    solved: list[str] = []

    def stop_at_the_last(self: QueryPoses, matched: Matched, *rest: Any) -> object:
        if matched.task.name == files.queries[-1].name:
            raise KeyboardInterrupt
        solved.append(matched.task.name)
        return finish(self, matched, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(QueryPoses, "finish", stop_at_the_last)
        run(files, output, workers=1)
    assert len(solved) == len(files.queries) - 1
    assert [path.name for path in output.parent.iterdir()] == ["poses.txt.queries.parts"]

    def note(self: QueryPoses, matched: Matched, *rest: Any) -> object:
        solved.append(matched.task.name)
        return finish(self, matched, *rest)

    monkeypatch.setattr(QueryPoses, "finish", note)
    run(files, output)
    assert sorted(solved) == sorted(query.name for query in files.queries)  # each once
    names = sorted(path.name for path in whole.parent.iterdir())
    assert sorted(path.name for path in output.parent.iterdir()) == names
    for name in ("poses.txt", "localization.json"):
        assert (output.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def test_what_was_kept_for_other_inputs_is_not_used(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "poses.txt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(localize, "write_result", _interrupted)
        run(files, output)
    assert (tmp_path / "poses.txt.queries.parts").is_dir()
    asked = []
    finish = QueryPoses.finish
    monkeypatch.setattr(QueryPoses, "finish", lambda *a: asked.append(a[1]) or finish(*a))
    run(files, output, max_error=10.0)
    assert len(asked) == len(files.queries)
    assert not (tmp_path / "poses.txt.queries.parts").exists()


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
