"""Metres and upright: a model brought to known positions of its photos, or to their upright."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import synthetic_scene
from PIL import Image
from refusals import refused
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene

from samfeat_hloc.colmap import alignment, structure_from_motion
from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.colmap.registration import ImageEntry, empty_model
from samfeat_hloc.files import provenance
from samfeat_hloc.files.positions import GpsPosition, gps_of, read_positions
from samfeat_hloc.pipelines import align_models

NAMES = [f"walk/{i}.jpg" for i in range(12)]
# From the scene's axes (x right, y down, z forward) to east, north, up.
ENU = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene.build(NAMES)


def model_of(scene: Scene, names: list[str] = NAMES) -> pycolmap.Reconstruction:
    """The scene's cameras and points in coordinates of their own."""
    camera = Camera("PINHOLE", WIDTH, HEIGHT, (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2))
    entries = {name: ImageEntry(i, 1, camera) for i, name in enumerate(names, 1)}
    model = empty_model(entries, {name: scene.poses[name] for name in names})
    for xyz in scene.points:
        model.add_point3D(xyz, pycolmap.Track())
    quaternion = np.array([0.3, -0.2, 0.5, 0.7])
    turn = pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion))
    model.transform(pycolmap.Sim3d(0.31, turn, np.array([3.0, -2.0, 5.0])))
    return model


def centres(model: pycolmap.Reconstruction) -> dict[str, np.ndarray]:
    return {image.name: image.projection_center() for image in model.images.values()}


def true_positions(scene: Scene) -> dict[str, np.ndarray]:
    return {name: ENU @ pose.centre for name, pose in scene.poses.items()}


def test_a_model_comes_to_its_positions(scene: Scene) -> None:
    """Noise of a centimetre, and a photo of which the position is 40 m wrong."""
    model, truth = model_of(scene), true_positions(scene)
    random = np.random.default_rng(0)
    utm = np.array([5e5, 5e6, 0])  # far from the origin
    known = {n: p + utm + random.normal(scale=0.01, size=3) for n, p in truth.items()}
    known[NAMES[3]] = known[NAMES[3]] + np.array([40, 0, 0])
    known["other.jpg"] = np.zeros(3)
    done = alignment.align(model, known, {}, "positions.txt")
    assert done.metric and done.positions == 12 and done.agreeing == 11
    assert done.disagreement is not None and 0.003 < done.disagreement < 0.03
    for name, centre in centres(model).items():
        assert np.linalg.norm(centre - utm - truth[name]) < 0.02
    points = np.array([p.xyz for _, p in sorted(model.points3D.items())]) - utm
    assert np.abs(points - scene.points @ ENU.T).max() < 0.1
    # the cameras' own upright is up in the world
    assert done.tilt is not None and done.tilt < 1
    assert done.scale_deviation is not None and 1e-4 < done.scale_deviation < 3e-3


def test_the_scale_deviation_is_what_it_says(scene: Scene) -> None:
    truth, random = true_positions(scene), np.random.default_rng(1)
    scales, told = [], []
    for _ in range(40):
        model = model_of(scene)
        before = centres(model)
        known = {n: p + random.normal(scale=0.5, size=3) for n, p in truth.items()}
        done = alignment.align(model, known, {}, "gps")
        after = centres(model)
        span = [np.linalg.norm(c[NAMES[0]] - c[NAMES[-1]]) for c in (before, after)]
        scales.append(span[1] / span[0] * 0.31)
        told.append(done.scale_deviation)
    assert abs(np.mean(scales) - 1) < 0.05
    assert 0.5 < np.std(scales) / np.mean(told) < 2


def test_positions_that_leave_something_open(scene: Scene) -> None:
    truth, model = true_positions(scene), model_of(scene)
    before = centres(model)
    with refused("gps", ("2 of 12 photos", "3"), "--align FILE"):
        alignment.align(model, {n: truth[n] for n in NAMES[:2]}, {}, "gps")
    with refused("gps", "line"):
        on_a_line = {n: np.array([i, 2.0 * i, 0]) for i, n in enumerate(NAMES)}
        alignment.align(model, on_a_line, {}, "gps")
    with refused("gps", "the same"):
        alignment.align(model, dict.fromkeys(NAMES, np.ones(3)), {}, "gps")
    random = np.random.default_rng(2)
    with refused("gps", "12 positions"):
        alignment.align(model, {n: random.uniform(-1e4, 1e4, 3) for n in NAMES}, {}, "gps")
    # A straight street: the positions' noise must not decide the turn about it.
    street = model_of(scene, NAMES[5:8])
    for image in street.images.values():
        pose = image.cam_from_world()
        number = NAMES.index(image.name)
        pose.translation = -(pose.rotation.matrix() @ [number, 0, 0.001 * number**2])
        image.frame.rig_from_world = pose
    noisy = {n: np.array([4.0 * i, 0, 0]) + random.normal(size=3) for i, n in enumerate(NAMES)}
    with refused("gps", "stand on a line"):
        alignment.align(street, noisy, {}, "gps")
    for name, centre in centres(model).items():
        assert np.array_equal(centre, before[name])


def test_upright_without_positions(scene: Scene) -> None:
    """The mean of the photos; photos stored on their side count as they are seen."""
    model = model_of(scene)
    done = alignment.make_upright(model, {})
    assert done.method == "upright" and not done.metric
    for image in model.images.values():
        assert image.cam_from_world().rotation.matrix() @ [0, 0, 1] == pytest.approx([0, -1, 0])
    # Stored turned by 90 degrees, to be seen counter-clockwise: the right side is the top.
    model = model_of(scene)
    roll = pycolmap.Rigid3d(np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1.0, 0]]))
    for image in model.images.values():
        image.frame.rig_from_world = roll * image.cam_from_world()
    done = alignment.make_upright(model, dict.fromkeys(NAMES, 8))
    assert done.tilt == pytest.approx(0, abs=1e-4)
    for image in model.images.values():
        assert image.cam_from_world().rotation.matrix() @ [0, 0, 1] == pytest.approx([1, 0, 0])


def test_gps_of_exif(tmp_path: Path) -> None:
    def photo(gps: dict[int, object]) -> GpsPosition | None:
        exif = Image.Exif()
        if gps:
            exif.get_ifd(0x8825).update(gps)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
        return gps_of(tmp_path / "a.jpg")

    south = {1: "S", 2: (33.0, 51.0, 24.12), 3: "E", 4: (151.0, 12.0, 30.0)}
    found = photo({**south, 5: b"\x01", 6: 12.5})
    assert found is not None and found.altitude == -12.5
    assert found.latitude == pytest.approx(-(33 + 51 / 60 + 24.12 / 3600), abs=1e-6)
    assert found.longitude == pytest.approx(151 + 12 / 60 + 30 / 3600, abs=1e-6)
    found = photo({**south, 3: "W"})
    assert found is not None and found.longitude < 0 and found.altitude is None
    zero = (0.0, 0.0, 0.0)
    for nothing in (
        {},
        {1: "N", 2: (1.0, 2.0, 3.0)},
        {**south, 2: zero, 4: zero},
        {**south, 2: (91.0, 0.0, 0.0)},
    ):
        assert photo(nothing) is None


def with_gps(path: Path, enu: np.ndarray, altitude: bool = True) -> None:
    ((latitude, longitude, height),) = pycolmap.GPSTransform().enu_to_ellipsoid(
        enu[None], 48.85, 2.35, 35.0
    )

    def parts(value: float) -> tuple[float, float, float]:
        return (float(int(value)), float(int(value * 60 % 60)), round(value * 3600 % 60, 5))

    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: parts(latitude), 3: "E", 4: parts(longitude)})
    if altitude:
        exif.get_ifd(0x8825).update({5: b"\0", 6: round(float(height), 3)})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)


def test_models_in_their_folder(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By GPS, again from a list, and then without: what is there stays."""
    images, sparse = tmp_path / "images", tmp_path / "sparse"
    truth = true_positions(scene)
    for name in NAMES:
        with_gps(images / name, truth[name])
    for number, names in enumerate((NAMES, NAMES[:2])):
        (sparse / str(number)).mkdir(parents=True)
        model_of(scene, names).write_binary(str(sparse / str(number)))
    provenance.write_sidecar(sparse, {"stage": "x"})
    (upright, second) = align_models.main(sparse, images, None)
    assert upright.method == second.method == "upright"
    assert "arbitrary" in align_models.in_words(upright) and "z is up" in align_models.in_words(
        upright
    )
    written = (sparse / "0/images.bin").stat().st_mtime_ns
    assert align_models.main(sparse, images, None) == [upright, second]
    assert (sparse / "0/images.bin").stat().st_mtime_ns == written

    positions = align_models.known_positions(images, NAMES, "gps")
    assert positions is not None and positions.origin == pytest.approx((48.85, 2.35, 35), abs=1e-3)
    first, other = align_models.main(sparse, images, positions)
    assert first.metric and not other.metric
    assert f"{sparse / '1'} cannot be aligned: 2 of 2 photos have a position" in caplog.text
    assert first.disagreement is not None and first.disagreement < 0.01
    line = align_models.in_words(first)
    assert "; z is 0 degrees from" in line
    assert "scale: metric" in line and "12 of 12 positions of the photos' GPS" in line
    found = read_model(sparse / "0")
    assert len(found.point_ids) == len(scene.points)
    apart = found.images[NAMES[0]].pose.centre - found.images[NAMES[-1]].pose.centre
    assert np.abs(apart - (truth[NAMES[0]] - truth[NAMES[-1]])).max() < 0.02  # x east, z up
    assert provenance.read_sidecar(sparse) == {"stage": "x"}
    assert structure_from_motion.models(sparse) == [sparse / "0", sparse / "1"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # Without --align what is there stays metric; a list takes its place.
    assert align_models.main(sparse, images, None)[0] == first
    listed = tmp_path / "positions.txt"
    listed.write_text("".join(f"{n} {' '.join(map(str, 10 * p))}\n" for n, p in truth.items()))
    (again, _) = align_models.main(
        sparse, images, align_models.known_positions(images, NAMES, str(listed))
    )
    assert again.source == str(listed)
    centre = read_model(sparse / "0").images[NAMES[0]].pose.centre
    assert np.allclose(centre, 10 * truth[NAMES[0]], atol=0.02)
    assert json.loads((sparse / "alignment.json").read_text())["models"][0]["metric"]


def test_what_is_known_is_looked_at_before_any_work(scene: Scene, tmp_path: Path) -> None:
    truth = true_positions(scene)
    for name in NAMES[:2]:
        with_gps(tmp_path / name, truth[name])
    for name in NAMES[2:]:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with refused("--align gps", ("2 of 12 photos", "3"), "--align FILE"):
        align_models.known_positions(tmp_path, NAMES, "gps")
    with_gps(tmp_path / NAMES[2], truth[NAMES[2]], altitude=False)
    assert len(align_models.known_positions(tmp_path, NAMES, "gps").positions) == 3  # type: ignore[union-attr]
    listed = tmp_path / "list.txt"
    listed.write_text("nobody.jpg 1 2 3\n")
    with refused(listed, "none of the 12 photos", NAMES[0]):
        align_models.known_positions(tmp_path, NAMES, str(listed))
    for line in ("a.jpg 1 2", "a.jpg 1 2 x", "a.jpg 1 2 3\na.jpg 1 2 3"):
        listed.write_text(line)
        with refused(f"list.txt:{1 + line.count(chr(10))}"):
            read_positions(listed)
    with refused("absent.txt", "no such file"):
        align_models.known_positions(tmp_path, NAMES, str(tmp_path / "absent.txt"))
    assert align_models.known_positions(tmp_path, NAMES, None) is None
