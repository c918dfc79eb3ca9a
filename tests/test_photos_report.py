"""The report of a reconstruction, of a saved map, and of hloc's own outputs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import mapped_scene
import numpy as np
import pycolmap
import pytest
import street_run
import typer
from refusals import refused
from test_report import browser, colours, errors, island, until  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from samfeat_hloc.colmap.alignment import Alignment
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.unplaced import unplaced
from samfeat_hloc.commands import report as command
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.files.feature_readers import FeatureReader
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import localize, mapping
from samfeat_hloc.maps import saved_map
from samfeat_hloc.report.gather import gather
from samfeat_hloc.report.gather_photos import gather_photos
from samfeat_hloc.report.hloc_log import read_hloc
from samfeat_hloc.report.page import page_content, write_report
from samfeat_hloc.report.placed import figures_of, of_model

NAMES = [f"street/{i:02d}.jpg" for i in range(6)]
OTHERS = [f"garden/{i:02d}.jpg" for i in range(3)]
NEAR, ALONE, EMPTY = "near.jpg", "alone.jpg", "empty.jpg"


def app() -> typer.Typer:
    made = typer.Typer()
    command.register(made)
    return made


def write_model(folder: Path, names: list[str], seed: int) -> list[np.ndarray]:
    """A model whose keypoints lie half a pixel to the right of their points' projections."""
    rng = np.random.default_rng(seed)
    xyz = np.column_stack(
        [rng.uniform(-6, 26, 900), rng.normal(0, 0.2, 900), rng.uniform(-0.5, 6, 900)]
    )
    poses = [street_run.pose_at(4.0 * i) for i in range(len(names))]
    street_run.write_map(folder, xyz, names, poses)
    return [street_run.seen_from(pose, xyz)[1] + [0.5, 0] for pose in poses]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `samfeat reconstruct` leaves them: two models, and three photos that are in none."""
    root = tmp_path_factory.mktemp("reconstruction")
    outputs, photos = root / "outputs", root / "photos"
    keypoints = dict(zip(NAMES, write_model(outputs / "sparse" / "0", NAMES, 0), strict=True))
    second = write_model(outputs / "sparse" / "1", OTHERS, 1)
    keypoints.update(zip(OTHERS, second, strict=True))
    keypoints[NEAR] = keypoints[ALONE] = np.full((50, 2), 20.0)
    keypoints[EMPTY] = np.zeros((0, 2))
    rng = np.random.default_rng(0)
    for name in keypoints:
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 255, (street_run.HEIGHT, street_run.WIDTH, 3)).astype(np.uint8)
        picture = cv2.GaussianBlur(picture, (0, 0), 9)
        cv2.imwrite(str(path), cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))
    with h5py.File(outputs / "features.h5", "w") as file:
        for name, xy in keypoints.items():
            file.create_dataset(f"{name}/keypoints", data=(xy - 0.5).astype(np.float32))
    with pycolmap.Database.open(str(outputs / "database.db")) as database:
        camera = pycolmap.Camera(
            model="PINHOLE", width=street_run.WIDTH, height=street_run.HEIGHT,
            params=[300.0, 300.0, 160.0, 120.0],
        )  # fmt: skip
        camera_id = database.write_camera(camera)
        ids = {}
        for name, xy in keypoints.items():
            ids[name] = database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
            database.write_keypoints(ids[name], xy.astype(np.float32))
        matches = np.column_stack([np.arange(17), np.arange(17)]).astype(np.uint32)
        for other, count in ((NAMES[2], 17), (NAMES[3], 16)):
            geometry = pycolmap.TwoViewGeometry(
                config=pycolmap.TwoViewGeometryConfiguration.CALIBRATED,
                inlier_matches=matches[:count],
            )
            database.write_two_view_geometry(ids[NEAR], ids[other], geometry)
    with h5py.File(outputs / "matches.h5", "w") as file:
        matches0 = np.full(50, -1, dtype=np.int16)
        matches0[:20] = np.arange(20)
        pair = f"{NEAR}/{NAMES[2].replace('/', '-')}/matches0"
        file.create_dataset(pair, data=matches0)
    summary = {"configuration": {"images": str(photos), "preset": "samfeat_fast"}}
    (outputs / "summary.json").write_text(json.dumps(summary))
    return outputs


def photos_of(outputs: Path) -> Path:
    return outputs.parent / "photos"


def test_figures_of_a_reconstruction(outputs: Path) -> None:
    data = gather_photos(outputs)
    model = read_model(outputs / "sparse" / "0")
    rows = [image.points for image in model.images.values()]
    lengths = np.bincount(np.concatenate(rows), minlength=900)
    np.testing.assert_array_equal(data.models[0].track_lengths, lengths)
    seen = lengths > 0
    np.testing.assert_allclose(data.models[0].errors[seen], 0.5, atol=1e-4)
    by_name = {photo.name: photo for photo in data.photos}
    assert list(by_name) == sorted([*NAMES, *OTHERS, NEAR, ALONE, EMPTY])
    first = by_name[NAMES[1]]
    assert first.model == 0 and first.num_points == first.num_keypoints == len(rows[1])
    assert first.error == pytest.approx(0.5, abs=1e-4)
    assert first.track_length == pytest.approx(lengths[rows[1]].mean())
    # the neighbours are those at its sides, with the points that both see
    shared = {data.photos[row].name: count for row, count in first.neighbours}
    assert shared[NAMES[0]] == len(np.intersect1d(rows[0], rows[1]))
    assert set(list(shared)[:2]) == {NAMES[0], NAMES[2]}
    assert first.picture is not None and first.picture.inliers.all()
    assert first.picture.num_matches == max(shared.values())
    assert "300 px" in first.camera and first.thumbnail is not None
    assert by_name[OTHERS[0]].model == 1
    assert data.models[1].num_photos == len(OTHERS)
    poses = data.models[1].scene.estimated
    assert np.isfinite(poses[:, 0]).sum() == len(OTHERS)  # of the photos of this model alone
    assert any("2 models" in note and "scale of its own" in note for note in data.notes)
    assert any(note.startswith("Model 2, scale: arbitrary") for note in data.notes)


def test_the_scale_is_said(outputs: Path) -> None:
    metric = Alignment("positions", True, "gps", 12, 11, 1.5, 0.02, 3.0)
    content = {"models": [metric.as_json(), Alignment("upright", False).as_json()]}
    record = outputs / "sparse" / "alignment.json"
    record.write_text(json.dumps(content))
    try:
        notes = gather_photos(outputs).notes
    finally:
        record.unlink()
    (first,) = [note for note in notes if note.startswith("Model 1, scale: metric, to about 2%")]
    assert "11 of 12 positions of the photos' GPS" in first and "1.5 m" in first
    assert any(note.startswith("Model 2, scale: arbitrary") for note in notes)


def test_photos_in_no_model_are_named_with_the_reason(outputs: Path) -> None:
    data = gather_photos(outputs)
    near, alone, empty = (next(p for p in data.photos if p.name == n) for n in (NEAR, ALONE, EMPTY))
    assert near.model is alone.model is empty.model is None
    assert "17 verified matches" in near.reason and NAMES[2] in near.reason and "30" in near.reason
    assert "no other photo" in alone.reason and "no keypoints" in empty.reason
    assert near.picture is not None and near.picture.db_name == NAMES[2]
    assert near.picture.inliers.sum() == 17 and near.picture.num_matches == 20
    assert near.num_keypoints == 50 and empty.num_keypoints == 0
    content = page_content(data)
    assert ["in no model", "3"] in content["facts"] and ["with a pose", "9"] in content["facts"]
    # with a model that it might have joined, or none at all, the reason is another
    found = unplaced(outputs / "database.db", set())
    assert "in no model either" in found[NEAR].reason


def test_without_photos_matches_or_database(outputs: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(outputs, bare)
    for name in ("database.db", "matches.h5", "summary.json"):
        (bare / name).unlink()
    data = gather_photos(bare)
    assert len(data.photos) == len(NAMES) + len(OTHERS)
    assert all(photo.thumbnail is None and photo.picture is None for photo in data.photos)
    assert any("--images" in note for note in data.notes)
    assert any("database.db" in note for note in data.notes)
    told = CliRunner().invoke(app(), [str(bare)]).stdout.splitlines()
    assert [line[2:] for line in told[1:]] == data.notes  # not on the page alone
    (photos_of(outputs) / "street").rename(tmp_path / "away")
    try:
        data = gather_photos(outputs)
        assert any("6 of 12 photos" in note for note in data.notes)
    finally:
        (tmp_path / "away").rename(photos_of(outputs) / "street")


@pytest.mark.parametrize(
    ("break_it", "subject", "problem"),
    [
        (lambda o: (o / "features.h5").write_text("x"), "features.h5", "HDF5"),
        (lambda o: (o / "database.db").write_text("x" * 5000), "database.db", "cannot be read"),
        (lambda o: (o / "sparse" / "0" / "cameras.bin").write_bytes(b"x"), "cameras.bin", None),
        (lambda o: shutil.rmtree(o / "sparse" / "0") or shutil.rmtree(o / "sparse" / "1"),
         "sparse", "no model"),
        (lambda o: (o / "summary.json").write_text("[]"), "summary.json", None),
    ],
)  # fmt: skip
def test_broken_reconstructions(
    outputs: Path, tmp_path: Path, break_it: Callable[[Path], Any], subject: str, problem: str
) -> None:
    broken = tmp_path / "outputs"
    shutil.copytree(outputs, broken)
    break_it(broken)
    with refused(subject, problem):
        gather_photos(broken)


def make_map(outputs: Path, folder: Path) -> Path:
    """A saved map of the first model."""
    model = of_model(outputs / "sparse" / "0", outputs / "features.h5")
    images = [
        saved_map.FrozenImage(
            photo.name, photo.camera, photo.pose, photo.keypoints.astype(np.float32),
            np.zeros((len(photo.keypoints), 128), np.float16), photo.points.astype(np.int32),
            np.zeros(256, np.float32),
        )
        for photo in model.photos
    ]  # fmt: skip
    frozen = saved_map.FrozenMap(
        ExtractOptions(), "0" * 64, images, np.zeros((len(images), 256), np.float32),
        np.zeros((2, 128), np.float32), model.xyz, np.arange(1, len(model.xyz) + 1),
        len(model.xyz) + 1,
    )  # fmt: skip
    folder.mkdir(parents=True)
    return saved_map.create(folder, frozen)


def test_a_saved_map(outputs: Path, tmp_path: Path) -> None:
    folder = make_map(outputs, tmp_path / "street.map")
    plain = gather_photos(folder)
    expected = figures_of(of_model(outputs / "sparse" / "0", outputs / "features.h5"))
    np.testing.assert_array_equal(plain.models[0].track_lengths, expected.track_lengths)
    np.testing.assert_allclose(plain.models[0].errors, expected.errors, atol=1e-3)
    assert any("how high" in note for note in plain.notes)
    assert len(np.unique(plain.models[0].scene.colors, axis=0)) > 50
    seen = gather_photos(folder, photos_of(outputs))
    assert seen.photos[0].thumbnail is not None and seen.photos[0].picture is not None
    assert not any("how high" in note for note in seen.notes)
    # a point has a colour of the photo where it is seen
    last = cv2.imread(str(photos_of(outputs) / NAMES[-1]))[..., ::-1]
    photo = of_model(outputs / "sparse" / "0", outputs / "features.h5").photos[-1]
    x, y = np.floor(photo.keypoints[0]).astype(int)
    np.testing.assert_array_equal(
        seen.models[0].scene.colors[photo.points[0]],
        last[min(y, street_run.HEIGHT - 1), min(x, street_run.WIDTH - 1)],
    )
    result = CliRunner().invoke(app(), [str(folder)])
    assert result.exit_code == 0 and (tmp_path / "street.map.report.html").is_file()
    with refused("none", "no such folder"):
        gather_photos(folder, tmp_path / "none")


def test_options_that_do_not_fit(outputs: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app(), list(map(str, arguments))).exception

    assert "--images" in str(run(outputs, "--dataset", tmp_path))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8 precious")
    assert "is no report" in str(run(outputs, "--output", photo))
    assert "this is a folder" in str(run(outputs, "--output", tmp_path))
    assert photo.read_bytes() == b"\xff\xd8 precious"
    assert "--map" in str(run(outputs, "--map", tmp_path))
    (tmp_path / "poses.txt").write_text("")
    assert "--map" in str(run(tmp_path / "poses.txt"))


def test_the_page_in_a_browser(browser: Any, outputs: Path, tmp_path: Path) -> None:  # noqa: F811
    page = write_report(gather_photos(outputs), tmp_path / "report.html")
    browser.get(page.as_uri())
    until(lambda: colours(browser) > 100)
    assert errors(browser) == []
    script = browser.execute_script
    content = island(page.read_text(encoding="utf-8"))
    rows = [query["name"] for query in content["queries"]]
    assert script("return document.querySelectorAll('#queries tbody tr').length") == len(rows)
    assert "photos and points" in browser.find_element("id", "title").text
    # the first view fills the picture: its points reach near two opposite sides
    spread = script(
        """
      const canvas = document.getElementById('scene');
      const at = arguments[0].map((row) => samfeatReport.viewer.at(row));
      const [wide, tall] = [canvas.clientWidth, canvas.clientHeight];
      return [at.every(([x, y]) => x > 0 && y > 0 && x < wide && y < tall),
        (Math.max(...at.map((p) => p[0])) - Math.min(...at.map((p) => p[0]))) / wide];
    """,
        [rows.index(name) for name in NAMES],
    )
    assert spread[0] and spread[1] > 0.3
    # a photo in no model says why, and cannot be looked through
    script("samfeatReport.select(arguments[0])", rows.index(NEAR))
    assert "17 verified matches" in browser.find_element("id", "detail").text
    assert not browser.find_element("id", "through").is_enabled()
    # one of the other model brings that model's view, points and figures
    curves = script("return document.getElementById('curves').src")
    script("samfeatReport.select(arguments[0])", rows.index(OTHERS[1]))
    assert browser.find_element("id", "model").get_attribute("value") == "1"
    assert script("return document.getElementById('curves').src") != curves
    until(lambda: colours(browser) > 100)
    browser.find_element("id", "through").click()
    until(lambda: colours(browser) > 2000)  # the photo is in the view
    neighbour = browser.find_element("css selector", ".retrieved button")
    name = neighbour.text
    neighbour.click()
    assert browser.find_element("css selector", "#detail h3").text == name
    # the neighbours fit into the page without breaking a name
    assert script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert neighbour_height(browser) < 32
    assert errors(browser) == []


def neighbour_height(browser: Any) -> float:  # noqa: F811
    return browser.execute_script(
        "return document.querySelector('.retrieved tbody tr').getBoundingClientRect().height"
    )


# ---- hloc's own outputs ----


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> mapped_scene.Files:
    files = mapped_scene.build(tmp_path_factory.mktemp("scene"))
    mapping.main(files.mapping(), files.root / "map")
    return files


def log_of(files: mapped_scene.Files, poses: Path) -> dict[str, Any]:
    """What hloc.localize_sfm logs, of the native localization: same names, same objects."""
    result = localize.main(files.localization(), files.root / "native" / "poses.txt")
    model = read_model(files.root / "map")
    lines, entries = [], {}
    for name, query in result.queries.items():
        values = " ".join(repr(float(v)) for v in [*query.pose.qvec, *query.pose.tvec])
        lines.append(f"{name.rsplit('/', 1)[-1]} {values}\n")
        found = {
            "cam_from_world": pycolmap.Rigid3d(), "num_inliers": query.num_inliers,
            "inlier_mask": np.ones(query.num_inliers, bool),
            "camera": mapped_scene.CAMERA.to_pycolmap(),
        }  # fmt: skip
        points = [np.int64(point) for point in query.inlier_points]
        entries[name] = {
            "db": [model.images[image].image_id for image, _ in query.retrieved],
            "PnP_ret": found if query.localized else None,
            "keypoints_query": np.zeros((query.num_inliers, 2)),
            "points3D_ids": points, "points3D_xyz": None, "num_matches": query.num_matches,
            "keypoint_index_to_db": (
                [np.int64(k) for k in query.inlier_keypoints], [(point, [0]) for point in points]
            ),
            "covisibility_clustering": False,
        }  # fmt: skip
    poses.write_text("".join(lines))
    return {
        "features": files.features, "matches": files.matches("query"),
        "retrieval": files.pairs("query"), "loc": entries,
    }  # fmt: skip


def write_log(poses: Path, log: Any) -> None:
    Path(f"{poses}_logs.pkl").write_bytes(pickle.dumps(log))


def test_hlocs_poses_and_log(scene: mapped_scene.Files, tmp_path: Path) -> None:
    poses = tmp_path / "hloc_poses.txt"
    write_log(poses, log_of(scene, poses))
    data = gather(poses, map_dir=scene.root / "map", images=scene.images)
    native = localize.main(scene.localization(), scene.root / "native" / "poses.txt")
    assert [query.result.name for query in data.queries] == list(native.queries)
    for query in data.queries:
        expected = native.queries[query.result.name]
        np.testing.assert_allclose(query.result.pose.tvec, expected.pose.tvec)
        np.testing.assert_array_equal(query.result.inlier_points, expected.inlier_points)
        assert query.result.localized == expected.localized
        with FeatureReader(scene.features) as reader:
            assert query.result.num_keypoints == reader.count(query.result.name)
        assert query.thumbnail is not None and query.picture is not None
    conditions = page_content(data)["conditions"]
    assert conditions == ["day", "night"]
    field = data.scene.estimated[0, 12:]
    camera = mapped_scene.CAMERA
    expected_field = [camera.width / 2 / camera.params[0], camera.height / 2 / camera.params[0]]
    np.testing.assert_allclose(field, expected_field, rtol=1e-6)
    run = CliRunner().invoke(app(), [str(poses), "--map", str(scene.root / "map")])
    assert run.exit_code == 0 and Path(f"{poses}.report.html").is_file()


def test_hlocs_clusters(scene: mapped_scene.Files, tmp_path: Path) -> None:
    poses = tmp_path / "poses.txt"
    log = log_of(scene, poses)
    first = next(iter(log["loc"]))
    log["loc"][first] = {"db": [], "best_cluster": 1, "covisibility_clustering": True,
                         "log_clusters": [{}, log["loc"][first]]}  # fmt: skip
    log["loc"]["query/lost.jpg"] = {"db": [], "best_cluster": None, "log_clusters": []}
    write_log(poses, log)
    read = read_hloc(poses, read_model(scene.root / "map"))
    assert list(read.result.queries) == [name for name in log["loc"] if "lost" not in name]


class Code:
    """Unpickled carelessly, this would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["SAMFEAT_EVIL"],)


def test_logs_that_are_none(
    scene: mapped_scene.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMFEAT_EVIL", str(tmp_path / "evil"))
    model = read_model(scene.root / "map")
    poses = tmp_path / "poses.txt"
    good = log_of(scene, poses)
    with refused("poses.txt_logs.pkl", "no such file"):
        read_hloc(poses, model)
    for content, problem in (
        ({**good, "loc": {"a": Code()}}, "mkdir"),
        ({**good, "loc": {name: {} for name in good["loc"]}}, "not the log"),
        ([1, 2], "not the log"),
        ({"loc": {name: {**e, "points3D_ids": []} for name, e in good["loc"].items()}}, "points"),
        ({"loc": {name: {**e, "db": [99999]} for name, e in good["loc"].items()}}, "99999"),
    ):
        write_log(poses, content)
        with refused("_logs.pkl", problem):
            read_hloc(poses, model)
    assert not (tmp_path / "evil").exists()
    Path(f"{poses}_logs.pkl").write_bytes(pickle.dumps(good)[:-40])
    with refused("_logs.pkl", "damaged"):
        read_hloc(poses, model)
    write_log(poses, good)
    poses.write_text(poses.read_text().replace("a.jpg", "z.jpg"))
    with refused("poses.txt", "queries of its log"):
        read_hloc(poses, model)


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
def test_what_hloc_itself_writes(scene: mapped_scene.Files, tmp_path: Path) -> None:
    from samfeat_hloc.hloc_plugin.calls import hloc_module

    listed = tmp_path / "queries.txt"
    params = " ".join(map(str, mapped_scene.CAMERA.params))
    camera = f"{mapped_scene.CAMERA.model} {mapped_scene.CAMERA.width} {mapped_scene.CAMERA.height}"
    listed.write_text("".join(f"{name} {camera} {params}\n" for name in mapped_scene.QUERIES))
    poses = tmp_path / "poses.txt"
    hloc_module("localize_sfm").main(
        scene.root / "map", listed, scene.pairs("query"), scene.features, scene.matches("query"),
        poses,
    )  # fmt: skip
    data = gather(poses, map_dir=scene.root / "map", images=scene.images)
    found = {query.result.name: query for query in data.queries}
    for name in mapped_scene.QUERIES[:2]:
        centre = found[name].result.pose.centre
        assert np.linalg.norm(centre - scene.scene.poses[name].centre) < 0.05
        assert found[name].picture is not None and found[name].picture.inliers.sum() > 20
