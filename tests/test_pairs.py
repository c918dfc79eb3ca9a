"""Pairs files, covisibility and retrieval."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from samfeat_hloc.colmap.covisibility import most_covisible
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.files.pair_lists import read_pairs, unique_pairs
from samfeat_hloc.localization import pairs

MODEL = Path("data/town/3D-models/aachen_v_1_1")


def test_reads_hlocs_list(shared: Path) -> None:
    listed = read_pairs(shared / "data/aachen_v1.1/pairs-query-netvlad50.txt")
    assert len(listed) == 50 * len({query for query, _ in listed})
    assert listed[0] == ("query/day/nexus4/IMG_20130210_163156.jpg", "db/1344.jpg")


@pytest.mark.parametrize(
    ("text", "subject", "problem"),
    [
        ("a b\n\nc\n", "p.txt:3", "1 words"),
        ("a b c\n", "p.txt:1", "3 words"),
        ("a b\n../x b\n", "p.txt:2", "../x"),
        ("/x b\n", "p.txt:1", ("/x", "absolute")),
        ("", "p.txt", "no pairs"),
    ],
)
def test_malformed_lists(tmp_path: Path, text: str, subject: str, problem: object) -> None:
    path = tmp_path / "p.txt"
    path.write_text(text)
    with refused(subject, problem):
        read_pairs(path)
    with refused("absent.txt", "no such"):
        read_pairs(tmp_path / "absent.txt")


@given(st.text(max_size=60))
def test_any_text_is_pairs_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("pairs") / "p.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_pairs(path)
    except SamfeatError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(a and b for a, b in found)


def test_unique_pairs_keep_the_first() -> None:
    listed = [("a", "b"), ("c", "a"), ("b", "a"), ("a", "b"), ("a", "a"), ("a", "c")]
    assert unique_pairs(listed) == [("a", "b"), ("c", "a"), ("a", "a")]


def test_covisibility_counts_observations() -> None:
    seen = [np.array([0, 1, 1, 2]), np.array([1, 2]), np.array([2, 3]), np.array([4])]
    found = {image: others.tolist() for image, others in most_covisible(seen, 5)}
    assert found == {0: [1, 2], 1: [0, 2], 2: [0, 1], 3: []}  # point 1 counts twice
    assert {i: o.tolist() for i, o in most_covisible(seen, 1)}[2] == [0]  # of equals the first


def test_covisibility_of_the_town(shared: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(shared / MODEL)
    output = pairs.from_covisibility(shared / MODEL, tmp_path / "p.txt", num_matched=20)
    found: dict[str, list[str]] = {}
    for name, other in read_pairs(output):
        found.setdefault(name, []).append(other)
    assert len(found) == 34
    for image in list(model.images.values())[::7]:
        common: Counter[str] = Counter()
        for point2d in image.get_observation_points2D():
            for element in model.points3D[point2d.point3D_id].track.elements:
                if element.image_id != image.image_id:
                    common[model.images[element.image_id].name] += 1
        counts = [common[name] for name in found[image.name]]
        assert counts == sorted(common.values(), reverse=True)[:20]
    # the same from the text form, and nothing is done twice
    text_model = tmp_path / "text"
    text_model.mkdir()
    model.write_text(text_model)
    again = pairs.from_covisibility(text_model, tmp_path / "t.txt", num_matched=20)
    assert sorted(read_pairs(again)) == sorted(read_pairs(output))
    before = output.stat().st_mtime_ns
    pairs.from_covisibility(shared / MODEL, output, num_matched=20)
    assert output.stat().st_mtime_ns == before
    with refused("p.txt", ("num_matched", "20", "5"), "--overwrite"):
        pairs.from_covisibility(shared / MODEL, output, num_matched=5)
    pairs.from_covisibility(shared / MODEL, output, num_matched=5, overwrite=True)


def test_covisibility_equals_hloc(shared: Path, tmp_path: Path) -> None:
    hloc = pytest.importorskip("hloc.pairs_from_covisibility", reason="hloc is not installed")
    for count in (5, 20):
        hloc.main(shared / MODEL, tmp_path / "hloc.txt", count)
        output = tmp_path / f"{count}.txt"
        pairs.from_covisibility(shared / MODEL, output, num_matched=count)
        assert set(read_pairs(output)) == set(read_pairs(tmp_path / "hloc.txt"))


def test_covisibility_of_bad_models(shared: Path, tmp_path: Path) -> None:
    with refused(tmp_path, "COLMAP model"):
        pairs.from_covisibility(tmp_path, tmp_path / "p.txt")
    for part in ("cameras", "images", "points3D"):
        content = (shared / MODEL / f"{part}.bin").read_bytes()
        (tmp_path / f"{part}.bin").write_bytes(content[: len(content) // 2])
    with refused("cameras.bin", "damaged"):
        pairs.from_covisibility(tmp_path, tmp_path / "p.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    pycolmap.Reconstruction().write_binary(empty)
    with refused("empty", "no points", "samfeat pairs poses"):
        pairs.from_covisibility(empty, tmp_path / "p.txt")
    assert not (tmp_path / "p.txt").exists()


def write_descriptors(path: Path, vectors: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, vector in vectors.items():
            file[f"{name}/global_descriptor"] = vector
    return path


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, list[str], list[str]]:
    random = np.random.default_rng(0)
    database = [f"db/{i}.jpg" for i in range(30)]
    queries = [f"query/{i}.jpg" for i in range(7)]
    vectors = {name: random.normal(size=16).astype(np.float32) for name in database + queries}
    return write_descriptors(tmp_path / "g.h5", vectors), database, queries


@pytest.mark.parametrize("block", [1, 3, 8, 100])
def test_retrieval(
    block: int,
    described: tuple[Path, list[str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, database, queries = described
    monkeypatch.setattr(pairs, "_BLOCK_VALUES", 16 * block)
    found = read_pairs(pairs.from_retrieval(path, queries, database, tmp_path / "p", num_matched=4))
    with h5py.File(path) as file:
        vectors = {n: file[n]["global_descriptor"][()] for n in database + queries}
    expected = []
    for query in queries:
        similar = {name: float(vectors[query] @ vectors[name]) for name in database}
        ranked = sorted((n for n in database if similar[n] >= 0), key=lambda n: -similar[n])
        expected += [(query, name) for name in ranked[:4]]
    assert found == expected
    # more than there are, and queries that are in the database themselves
    all_pairs = read_pairs(pairs.from_retrieval(path, database, database, tmp_path / "all"))
    assert all(a != b for a, b in all_pairs)


def test_of_equally_similar_images_the_earlier_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_BLOCK_VALUES", 2 * 7)
    random = np.random.default_rng(1)
    database = [f"db/{i}.jpg" for i in range(40)]
    vectors = {name: random.integers(-1, 3, 2).astype(np.float32) for name in database}
    path = write_descriptors(tmp_path / "g.h5", vectors)
    found = read_pairs(
        pairs.from_retrieval(path, database, database, tmp_path / "p", num_matched=6)
    )
    expected = []
    for query in database:
        similar = {n: float(vectors[query] @ vectors[n]) for n in database if n != query}
        ranked = sorted((n for n in similar if similar[n] >= 0), key=lambda n: -similar[n])
        expected += [(query, name) for name in ranked[:6]]
    assert found == expected


def test_retrieval_equals_hloc(
    described: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    hloc = pytest.importorskip("hloc.pairs_from_retrieval", reason="hloc is not installed")
    path, database, queries = described
    for count in (5, 30):
        hloc.main(path, tmp_path / "hloc", count, query_prefix=["query/"], db_prefix=["db/"])
        output = tmp_path / f"{count}"
        pairs.from_retrieval(path, queries, database, output, num_matched=count)
        assert sorted(read_pairs(output)) == sorted(read_pairs(tmp_path / "hloc"))


def test_retrieval_of_bad_input(tmp_path: Path) -> None:
    vectors = {"db/1": np.ones(4), "db/2": np.ones(4), "q": -np.ones(4), "short": np.ones(3)}
    path = write_descriptors(tmp_path / "g.h5", {**vectors, "nan": np.full(4, np.nan)})
    database, output = ["db/1", "db/2"], tmp_path / "p.txt"
    for queries, problem in [
        (["db/1", "q"], ("database image", "q")),
        (["a", "b", "c", "d"], ("a, b, c", "1 more")),
        (["short"], ("4", "3")),
        (["nan"], ("nan", "finite")),
        ([], "no query"),
    ]:
        with refused("g.h5" if queries else "p.txt", problem):
            pairs.from_retrieval(path, queries, database, output)
    with refused("num_matched", "0"):
        pairs.from_retrieval(path, ["db/1"], database, output, num_matched=0)
    assert not output.exists()
