"""VLAD of local features: what it is, and that it finds the right place."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from refusals import refused
from test_h5store import assert_equal

from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import global_descriptors, pairs
from samfeat_hloc.localization.global_descriptors import vlad

PLACES = 5
DB = [f"db/{place}-{i}.jpg" for place in range(PLACES) for i in range(3)]
QUERIES = [f"query/{place}.jpg" for place in range(PLACES)]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Places with descriptors of their own; photos of one place share most of them."""
    random = np.random.default_rng(0)
    own = random.normal(size=(PLACES, 16, 80))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in DB + QUERIES:
            place = int(name.split("/")[1].split(".")[0].split("-")[0])
            seen = own[place][:, random.permutation(80)[:60]]
            values = seen + 0.3 * random.normal(size=seen.shape)
            values /= np.linalg.norm(values, axis=0)
            file[f"{name}/descriptors"] = values.astype(np.float16)
    return tmp_path / "f.h5"


def test_vlad_is_what_it_says() -> None:
    random = np.random.default_rng(0)
    descriptors = random.normal(size=(50, 6)).astype(np.float32)
    words = random.normal(size=(4, 6)).astype(np.float32)
    expected = np.zeros((4, 6))
    for row in descriptors:
        nearest = np.argmin(((words - row) ** 2).sum(1))
        expected[nearest] += row - words[nearest]
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    expected /= np.linalg.norm(expected)
    found = vlad(descriptors, words)
    assert found.dtype == np.float32 and np.allclose(found, expected.ravel(), atol=1e-5)
    assert not vlad(descriptors[:0], words).any()


def test_finds_the_place(features: Path, tmp_path: Path) -> None:
    output = global_descriptors.main(features, DB, QUERIES, tmp_path / "g.h5", clusters=8)
    with h5py.File(output) as file:
        vector = file["query/2.jpg/global_descriptor"][()]
        assert vector.shape == (8 * 16,) and vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert file.attrs["vocabulary"].shape == (8, 16)
    found = pairs.from_retrieval(output, QUERIES, DB, tmp_path / "p.txt", num_matched=3)
    for query, name in read_pairs(found):
        assert query.split("/")[1][0] == name.split("/")[1][0]


def test_same_again_and_extended(
    features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = global_descriptors.main(features, DB, QUERIES, tmp_path / "whole.h5", clusters=8)
    output = global_descriptors.main(features, DB, QUERIES[:2], tmp_path / "g.h5", clusters=8)
    global_descriptors.main(features, DB, QUERIES, output, clusters=8)
    assert_equal(output, whole)
    global_descriptors.main(features, DB, QUERIES, output, clusters=8)
    assert "skipped" in caplog.text
    with refused("g.h5", ("clusters", "8", "4"), "--overwrite"):
        global_descriptors.main(features, DB, QUERIES, output, clusters=4)
    with refused("g.h5", "input db", "--overwrite"):
        global_descriptors.main(features, DB[1:], QUERIES, output, clusters=8)


def test_bad_input(features: Path, tmp_path: Path) -> None:
    output = tmp_path / "g.h5"
    with refused("f.h5", "db/9.jpg"):
        global_descriptors.main(features, [*DB, "db/9.jpg"], [], output)
    with refused("f.h5", ("900", "4096")):
        global_descriptors.main(features, DB, [], output, clusters=4096)
    with refused("clusters", "0"):
        global_descriptors.main(features, DB, [], output, clusters=0)
    with h5py.File(features, "a") as file:
        file["db/nan.jpg/descriptors"] = np.full((16, 5), np.nan, np.float16)
        file["db/short.jpg/descriptors"] = np.ones((8, 5), np.float16)
        file["db/black.jpg/descriptors"] = np.ones((16, 0), np.float16)
    for name, problem in [("nan", "finite"), ("short", "(8, 5)")]:
        with refused("f.h5", (f"db/{name}.jpg", problem)):
            global_descriptors.main(features, DB, [f"db/{name}.jpg"], output, clusters=8)
    assert not output.exists()
    black = [*DB, "db/black.jpg"]
    with refused("g.h5.parts", "input db", "--overwrite"):
        global_descriptors.main(features, black, QUERIES, output, clusters=8)
    global_descriptors.main(features, black, QUERIES, output, clusters=8, overwrite=True)
    with h5py.File(output) as file:
        assert not file["db/black.jpg/global_descriptor"][()].any()
