"""Teachers, their cache, and how well it keeps their relations."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files.h5store import Group
from samfeat_hloc.pictures.relations import name_in
from samfeat_hloc.teachers import agreement, dinov2, teach
from samfeat_hloc.teachers.cache import BUDGET, Taught, TeacherCache, pack
from samfeat_hloc.teachers.labels import read_label_map
from samfeat_hloc.teachers.maps import borders
from samfeat_hloc.teachers.probe import guessed_right, probe
from samfeat_hloc.teachers.reduction import RELATION_ERROR, reduce_embedding, relations
from samfeat_hloc.teachers.registry import Photo, TeacherOptions, load_teacher, need
from samfeat_hloc.teachers.sam import groups_and_edges, without_padding


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)} (pip install samfeat_hloc[train])"
    )


def photo_like(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A map with the spectrum that learned features have: few strong axes, a long tail."""
    rng = np.random.default_rng(seed)
    layers = rng.normal(size=(channels, height, width)).astype(np.float32)
    layers = np.stack([cv2.GaussianBlur(layer, (0, 0), 1.5) for layer in layers])
    strength = 1 / np.arange(1, channels + 1, dtype=np.float32) ** 0.7
    turn = np.linalg.qr(rng.normal(size=(channels, channels)))[0].astype(np.float32)
    layers *= (strength / layers.std(axis=(1, 2)))[:, None, None]
    return np.tensordot(turn, layers, axes=1)


def stored_relations(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return relations(values * scale[:, None, None])


def test_a_reduced_embedding_keeps_its_relations() -> None:
    embedding = photo_like(256, 48, 64)
    reduced = reduce_embedding(embedding, 120_000)
    error = np.abs(stored_relations(reduced.values, reduced.scale) - relations(embedding)).mean()
    assert error <= RELATION_ERROR
    assert reduced.relation_error == pytest.approx(float(error), abs=1e-5)
    nothing = reduce_embedding(np.zeros((8, 4, 6), np.float32), 10_000)
    assert nothing.relation_error == 0 and not nothing.values.any()


def test_the_budget_holds_where_the_error_cannot(tmp_path: Path) -> None:
    flat = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float32)
    groups = np.repeat(np.arange(400)[:, None], 480, axis=1) // 7
    group = pack(Taught(flat, groups, borders(groups)), (960, 800), "")
    from samfeat_hloc.files.h5store import SegmentWriter

    with SegmentWriter(tmp_path / "c.h5", {"stage": "teach"}) as writer:
        writer.add({"a.jpg": group})
        writer.finish()
    with h5py.File(tmp_path / "c.h5") as file:
        assert sum(d.id.get_storage_size() for d in file["a.jpg"].values()) <= BUDGET
        stored = file["a.jpg/embedding"]
        error = stored.attrs["relation_error"]
        found = stored_relations(stored[()], file["a.jpg/scale"][()])
    assert error > RELATION_ERROR  # and it is said
    assert error == pytest.approx(float(np.abs(found - relations(flat)).mean()), abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of coloured blocks, of different sizes, one in a folder of its own."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(2)
    for name, (height, width) in (
        ("a.png", (96, 128)),
        ("b/c.png", (128, 96)),
        ("d.png", (90, 90)),
    ):
        blocks = rng.integers(0, 255, (3, 4, 3), dtype=np.uint8)
        image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
        noise = rng.integers(0, 12, image.shape)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray((image * 0.9 + noise).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def label_maps(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of two of the photos, with 255 where there is none."""
    maps = tmp_path_factory.mktemp("maps")
    (maps / "b").mkdir()
    for name in ("a.png", "b/c.png"):
        with Image.open(folder / name) as image:
            width, height = image.size
        labels = np.zeros((height, width), np.uint8)
        labels[: height // 2, : width // 2] = 7
        labels[: height // 2, width // 2 :] = 20
        labels[-5:] = 255
        Image.fromarray(labels).save(maps / name)
    return maps


@needs("skimage")
def test_regions_leave_a_cache(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "cache.h5"
    command = ["teach", "--images", str(folder), "--teacher", "regions", "--output", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "3 photos" in result.output and "mean absolute error" in result.output
    cache = TeacherCache(output)
    assert cache.names == ["a.png", "b/c.png", "d.png"] and cache.teacher == "regions"
    assert cache.weights_sha256 is None and cache.image_size("b/c.png") == (96, 128)
    with h5py.File(output) as file:
        record = json.loads(file.attrs["made_by"])
        assert record["config"]["teacher"] == "regions"
        assert file["a.png/groups"].compression == "gzip"
    taught = cache.read("a.png")
    assert taught.embedding.shape[1:] == (12, 16) and taught.groups.shape == (96, 128)
    # The blocks are found: a group each, edges between them and none inside.
    centres = [(y, x) for y in (16, 48, 80) for x in (16, 48, 80, 112)]
    assert len({int(taught.groups[at]) for at in centres}) == 12
    assert all(taught.edges[at] == 0 for at in centres)
    assert taught.edges[16, 30:34].max() > 0.5
    teacher = load_teacher("regions", TeacherOptions(), "cpu")
    pixels = np.array(Image.open(folder / "a.png"))
    own = teacher.teach([Photo("a.png", pixels)])[0].embedding
    error = np.abs(relations(taught.embedding) - relations(own)).mean()
    assert error <= RELATION_ERROR
    assert cache.relation_error("a.png") == pytest.approx(float(error), abs=1e-4)
    assert cache.bytes("a.png") < BUDGET
    again = cache.read("a.png", own_dimensions=True).embedding
    assert again.shape == own.shape
    assert np.abs(relations(again) - relations(own)).mean() < 2 * RELATION_ERROR
    with refused(mend="samfeat teach"):
        cache.read("other.png")
    picture = tmp_path / "relations.png"
    result = CliRunner().invoke(
        app, ["viz", "relations", str(folder / "a.png"), "--cache", str(output),
              "--output", str(picture), "--at", "20", "30"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 10_000
    with refused(mend="--name"):
        name_in(cache, tmp_path / "elsewhere.png", None)


@needs("skimage")
def test_an_interrupted_run_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.h5"
    teach.main(folder, whole, teacher="regions", options=TeacherOptions(), device="cpu")
    seen: list[str] = []
    original = teach.Job.groups

    def groups(job: teach.Job, teacher: object, names: Sequence[str]) -> dict[str, Group]:
        if len(seen) == 2 and "d.png" in names:
            raise KeyboardInterrupt
        seen.extend(names)
        return original(job, teacher, names)  # type: ignore[arg-type]

    monkeypatch.setattr(teach.Job, "groups", groups)
    broken = tmp_path / "broken.h5"
    with pytest.raises(KeyboardInterrupt):
        teach.main(folder, broken, teacher="regions", options=TeacherOptions(), device="cpu")
    assert not broken.exists()
    seen.clear()
    teach.main(folder, broken, teacher="regions", options=TeacherOptions(), device="cpu")
    assert seen == ["d.png"]
    one, other = TeacherCache(whole), TeacherCache(broken)
    assert one.names == other.names
    for name in one.names:
        np.testing.assert_array_equal(one.read(name).embedding, other.read(name).embedding)
        np.testing.assert_array_equal(one.read(name).groups, other.read(name).groups)
    seen.clear()
    teach.main(folder, broken, teacher="regions", options=TeacherOptions(), device="cpu")
    assert not seen  # all there
    with refused("broken.h5", "raw"):
        teach.main(folder, broken, teacher="regions", options=TeacherOptions(), raw=True)


@needs("skimage")
def test_several_devices_share_the_photos(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teach, "all_devices", lambda: ["cpu", "cpu"])
    options = TeacherOptions()
    teach.main(folder, tmp_path / "both.h5", teacher="regions", options=options)
    teach.main(folder, tmp_path / "one.h5", teacher="regions", options=options, device="cpu")
    both, one = TeacherCache(tmp_path / "both.h5"), TeacherCache(tmp_path / "one.h5")
    assert both.names == one.names
    for name in one.names:
        np.testing.assert_array_equal(both.read(name).embedding, one.read(name).embedding)


def test_labels_teach_and_are_probed(folder: Path, label_maps: Path, tmp_path: Path) -> None:
    options = TeacherOptions(label_dir=label_maps)
    with refused(label_maps, "d.png"):
        teach.main(folder, tmp_path / "x.h5", teacher="labels", options=options, device="cpu")
    labelled = tmp_path / "photos"
    (labelled / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        (labelled / name).write_bytes((folder / name).read_bytes())
    output = tmp_path / "labels.h5"
    teach.main(labelled, output, teacher="labels", options=options, device="cpu")
    taught = TeacherCache(output).read("a.png")
    assert {int(g) for g in np.unique(taught.groups)} == {-1, 0, 7, 20}
    assert taught.edges[48, 30] > 0.5 and taught.edges[20, 30] == 0
    report = tmp_path / "probe.json"
    result = CliRunner().invoke(
        app, ["probe", str(output), "--label-maps", str(label_maps), "--output", str(report)]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(report.read_text())
    assert figures["accuracy"] == 1.0 and figures["regions"] == 6 and figures["labels"] == 3
    assert figures["chance"] == pytest.approx(1 / 3)


def drawn_by_three() -> list[np.ndarray]:
    """A photo of 96 x 64 by three people: all see left and right, one of them two pixels off, two
    see a stripe below, and one of these divides it once more."""
    first = np.zeros((64, 96), np.int32)
    first[:, 48:] = 1
    second = np.zeros_like(first)
    second[:, 50:] = 9
    second[48:] = 4
    third = np.zeros_like(first)
    third[:, 48:] = 3
    third[48:] = 2
    third[48:, :24] = 1
    return [first, second, third]


def test_several_maps_say_how_many_agree() -> None:
    maps = drawn_by_three()
    taught = agreement.taught_by_several(maps, 8)
    cells = taught.embedding.reshape(len(taught.embedding), -1).T
    relation = cells @ cells.T

    def at(y: int, x: int) -> int:
        return y // 8 * 12 + x // 8

    # Naively: of all pairs of pixels of two cells, and all maps, how many are in one segment.
    places = [(4, 4), (4, 44), (4, 52), (4, 90), (60, 4), (60, 30), (60, 90)]
    for one, other in itertools.combinations(places, 2):
        shares = []
        for labels in maps:
            blocks = [labels[y // 8 * 8 :, x // 8 * 8 :][:8, :8].ravel() for y, x in (one, other)]
            shares.append((blocks[0][:, None] == blocks[1][None]).mean())
        assert relation[at(*one), at(*other)] == pytest.approx(np.mean(shares), abs=1e-5)
    assert relation[at(4, 4), at(4, 90)] == 0
    assert relation[at(60, 30), at(60, 90)] == pytest.approx(2 / 3)
    # Edges: all three between left and right, though one drew it beside, two above the stripe,
    # one within it; the lines themselves lose a little to their soft flanks.
    strength, agreed = agreement.border_shares(maps)
    assert strength[20, 48] == strength[20, 50] == 1 and strength[20, 30] == 0
    assert strength[48, 80] == pytest.approx(2 / 3) and strength[56, 24] == pytest.approx(1 / 3)
    assert taught.edges[20, 48] > 0.8 and taught.edges[56, 24] < 0.34
    assert agreed[0] > agreed[1] > 0.5
    # The third's borders are shared by most as well, and it has the most segments.
    assert agreed[2] > 0.5 and (taught.groups == maps[2]).all()


def test_the_finest_map_needs_a_majority() -> None:
    coarse = np.zeros((40, 60), np.int32)
    coarse[:, 30:] = 1
    fine = np.arange(2400).reshape(40, 60) // 5
    assert (agreement.finest([coarse, coarse, fine], [0.9, 0.9, 0.2]) == coarse).all()
    agreed = agreement.border_shares([coarse, coarse, fine])[1]
    assert agreed[0] > 0.5 > agreed[2]
    assert (agreement.finest([coarse, fine], [0.4, 0.1]) == coarse).all()  # nobody agrees
    alone = agreement.taught_by_several([coarse], 8)
    assert (alone.groups == coarse).all() and alone.edges[20, 30] > 0.7
    nothing = agreement.taught_by_several([np.full((16, 16), -1, np.int32)] * 2, 8)
    assert not nothing.embedding.any() and not nothing.edges.any() and (nothing.groups == -1).all()


def test_the_teacher_labels_takes_several_maps(folder: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    (maps / "b").mkdir(parents=True)
    for index, labels in enumerate(drawn_by_three()):
        Image.fromarray(labels.astype(np.uint8)).save(maps / f"a_{index}.png")
    Image.fromarray(drawn_by_three()[0].astype(np.uint8)).save(maps / "b" / "c_1.png")  # no c_0
    options = TeacherOptions(label_dir=maps)
    with pytest.raises(SamfeatError, match=r"no label map of b/c\.png.*--skip-unlabelled"):
        teach.main(folder, tmp_path / "x.h5", teacher="labels", options=options, device="cpu")
    output = tmp_path / "people.h5"
    result = CliRunner().invoke(
        app, ["teach", "--images", str(folder), "--teacher", "labels", "--label-maps", str(maps),
              "--skip-unlabelled", "--out", str(output)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    cache = TeacherCache(output)
    assert cache.names == ["a.png"]
    expected = agreement.taught_by_several(drawn_by_three(), 8)
    found = cache.read("a.png")
    error = np.abs(relations(found.embedding) - relations(expected.embedding)).mean()
    assert error <= RELATION_ERROR
    assert cache.relation_error("a.png") == pytest.approx(float(error), abs=1e-4)
    assert (found.groups == expected.groups).all()
    assert np.abs(found.edges - expected.edges).max() < 0.01
    with pytest.raises(SamfeatError, match="label maps of 0 photos"):
        probe(cache, maps)  # several maps a photo have no classes
    with pytest.raises(SamfeatError, match="regions looks at every photo"):
        teach.main(folder, tmp_path / "x.h5", teacher="regions", options=options, device="cpu",
                   skip_unlabelled=True)  # fmt: skip
    for path in maps.rglob("*.png"):
        path.unlink()
    with pytest.raises(SamfeatError, match="no label map of any photo"):
        teach.main(folder, tmp_path / "x.h5", teacher="labels", options=options, device="cpu",
                   skip_unlabelled=True)  # fmt: skip


def test_embeddings_of_single_photos_are_not_probed(
    folder: Path, label_maps: Path, tmp_path: Path
) -> None:
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    for name, parts in (("a.png", 2), ("b/c.png", 3)):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes((folder / name).read_bytes())
        with Image.open(folder / name) as image:
            labels = np.indices(image.size[::-1])[1] * parts // image.width
        path = (maps / name).with_name(f"{Path(name).stem}_0.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(path)
    teach.main(photos, tmp_path / "c.h5", teacher="labels", device="cpu",
               options=TeacherOptions(label_dir=maps))  # fmt: skip
    with pytest.raises(SamfeatError, match="photos cannot be compared"):
        probe(TeacherCache(tmp_path / "c.h5"), label_maps)


def test_a_teacher_of_ones_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented example, found by its package's entry point."""
    source = Path(__file__).parents[1] / "docs" / "examples" / "colour_teacher.py"
    (tmp_path / "colour_teacher.py").write_text(source.read_text())
    package = tmp_path / "colour_teacher-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-teacher\nVersion: 1.0\n")
    points = package / "entry_points.txt"
    points.write_text(
        "[samfeat_hloc.teachers]\ncolours = colour_teacher:Colours\n"
        "broken = colour_teacher:Missing\nempty = builtins:slice\n"
    )
    assert 'colours = "colour_teacher:Colours"' in source.read_text()
    monkeypatch.syspath_prepend(str(tmp_path))
    output = tmp_path / "cache.h5"
    command = ["teach", "--images", str(folder), "--teacher", "colours", "--out", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    cache = TeacherCache(output)
    assert cache.teacher == "colours" and len(cache) == 3
    taught = cache.read("a.png")
    blocks = [
        taught.groups[4 + 32 * row, 4 + 32 * column] for row in range(3) for column in range(4)
    ]
    assert len(set(blocks)) >= 5
    assert taught.edges[16, 30:34].max() > 0.5 and taught.edges[16, 16] == 0
    with pytest.raises(SamfeatError, match="does not load"):
        load_teacher("broken", TeacherOptions(), "cpu")
    with pytest.raises(SamfeatError, match="has no name"):
        load_teacher("empty", TeacherOptions(), "cpu")
    with pytest.raises(SamfeatError, match=r"choose from regions.*broken, colours, empty"):
        load_teacher("owl", TeacherOptions(), "cpu")


def test_label_maps_in_colour_and_16_bits(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:2] = (1, 2, 3)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    found = read_label_map(tmp_path / "colour.png")
    assert (found[:2] == 0x010203).all() and (found[2:] == -1).all()
    deep = np.full((4, 6), 65535, np.uint16)
    deep[:2] = 700
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert set(read_label_map(tmp_path / "deep.png").ravel().tolist()) == {-1, 700}
    (tmp_path / "no.png").write_bytes(b"no image")
    with refused("no.png", "label map"):
        read_label_map(tmp_path / "no.png")


def test_neighbours_of_the_same_photo_do_not_vote() -> None:
    vectors = np.eye(4)[[0, 0, 1, 1]]
    labels, photos = np.array([1, 2, 1, 1]), np.array([1, 1, 2, 3])
    # Region 0's twin is in its own photo; those of other photos have its label all the same.
    assert guessed_right(vectors, labels, photos, 1).tolist() == [True, False, True, True]


def test_the_smallest_mask_is_on_top() -> None:
    large, small = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    large[2:18, 2:20], small[6:10, 6:12] = True, True
    masks = [
        {"segmentation": m, "area": int(m.sum()), "predicted_iou": q}
        for m, q in ((small, 0.9), (large, 0.5))
    ]
    groups, edges = groups_and_edges(masks, (20, 30))
    assert groups[0, 0] == -1 and groups[3, 3] == 0 and groups[8, 8] == 1
    assert edges[8, 6] > edges[8, 2] > 0.3 and edges[14, 14] < 0.01
    nothing, edges = groups_and_edges([], (5, 6))
    assert (nothing == -1).all() and not edges.any()


def test_padding_is_cropped() -> None:
    # Cells that hold where they are in the encoder's input of 1,024 pixels, of which 683 rows.
    at = (torch.arange(64) + 0.5) / 64 * 1024
    features = torch.stack(torch.meshgrid(at, at, indexing="ij"))
    found = without_padding(features, (683, 1024), 1024)
    assert found.shape == (2, 43, 64)
    np.testing.assert_allclose(found[1, 0], at.numpy(), atol=1e-2)
    rows = (np.arange(43) + 0.5) / 43 * 683
    np.testing.assert_allclose(found[0, 1:, 0], rows[1:], atol=1e-2)
    assert abs(found[0, 0, 0] - rows[0]) < 0.1  # nothing lies above the first cell's middle


def test_a_torchvision_of_another_torch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    for failure in ('RuntimeError("operator torchvision::nms does not exist")',
                    'ImportError("torchvision/_C.so: undefined symbol: _ZN3c10")'):  # fmt: skip
        (package / "__init__.py").write_text(f"raise {failure}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
            monkeypatch.delitem(sys.modules, name)
        with refused("teacher dinov2", torch.__version__.split("+")[0], mend="torchvision"):
            need("torchvision", "teacher dinov2")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **options: Path) -> None:
        load_teacher(name, TeacherOptions(**options), "cpu")  # type: ignore[arg-type]

    with refused("--teacher owl", mend="regions"):
        load("owl")
    with refused("teacher sam", "--weights"):
        load("sam")
    with refused("sam_vit_b_01ec64.pth", "no such"):
        load("sam", weights=tmp_path / "sam_vit_b_01ec64.pth")
    with refused("teacher labels", "--label-maps"):
        load("labels")
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with refused("teacher regions", mend="samfeat_hloc[train]"):
        load("regions")


@needs("segment_anything", "torchvision")
def test_sam(folder: Path, tmp_path: Path) -> None:
    """The real ViT-B, with random weights: through a file with an official kind of name."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    state = sam_model_registry["vit_b"]().state_dict()
    path = tmp_path / "sam_vit_b_000000.pth"
    torch.save(state, path)
    del state
    with refused("sam_vit_b_000000.pth", "MD5"):
        load_teacher("sam", TeacherOptions(weights=path), "cpu")
    official = tmp_path / f"sam_vit_b_{hashlib.md5(path.read_bytes()).hexdigest()[:6]}.pth"
    path.rename(official)
    options = TeacherOptions(
        weights=official, points_per_side=2, iou_threshold=-1e9, stability_threshold=-1.0
    )
    teacher = load_teacher("sam", options, "cpu")
    assert teacher.config["model"] == "vit_b"
    assert teacher.weights_sha256 == hashlib.sha256(official.read_bytes()).hexdigest()
    pixels = np.array(Image.open(folder / "a.png"))
    taught = teacher.teach([Photo("a.png", pixels)])[0]
    assert taught.embedding.shape == (256, 48, 64)
    assert taught.groups.shape == (96, 128) and taught.edges.shape == (96, 128)
    group = pack(taught, (128, 96), "")
    assert group.attributes["embedding"]["relation_error"] <= RELATION_ERROR

    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with refused("other.pth", "SAM"):
        load_teacher("sam", TeacherOptions(weights=other), "cpu")


@needs("timm", "torchvision", "skimage")
def test_dinov2(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network, with random weights."""
    import timm

    monkeypatch.setattr(dinov2, "MOST_CELLS", 12)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    path = tmp_path / "dinov2.pth"
    torch.save(network.state_dict(), path)
    teacher = load_teacher("dinov2", TeacherOptions(weights=path), "cpu")
    assert teacher.config["model"] == "vit_small_patch14_dinov2"
    pixels = np.array(Image.open(folder / "b" / "c.png"))
    taught = teacher.teach([Photo("b/c.png", pixels)])[0]
    assert taught.embedding.shape == (384, 12, 9) and taught.groups.shape == (128, 96)
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with refused("other.pth", "DINOv2"):
        load_teacher("dinov2", TeacherOptions(weights=other), "cpu")
    with refused("resnet18", "DINOv2"):
        load_teacher("dinov2", TeacherOptions(dinov2_model="resnet18"), "cpu")
