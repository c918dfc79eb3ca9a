"""Matching: hloc's rules, exactly; whole files; clear errors."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from refusals import refused
from test_h5store import assert_equal

from samfeat_hloc.feature.matching import nearest_neighbours
from samfeat_hloc.files.feature_readers import MatchReader, pair_name
from samfeat_hloc.localization import matches
from samfeat_hloc.localization.matches import MatchConfig, for_locality

THRESHOLDS = [
    {},
    {"distance_threshold": 0.9},
    {"ratio_threshold": 0.9},
    {"ratio_threshold": 0.95, "distance_threshold": 1.1},
    {"ratio_threshold": 0.9, "mutual": False},
    {"mutual": False},
]


def descriptors(seed: int, count: int, size: int = 32) -> torch.Tensor:
    """Unit descriptors (size, count); those of all seeds resemble each other."""
    common = np.random.default_rng(0).normal(size=(size, 500))[:, :count]
    noise = np.random.default_rng(seed + 1).normal(size=(size, count))
    values = torch.from_numpy((common + 0.7 * noise).astype(np.float16)).float()
    return torch.nn.functional.normalize(values, dim=0)


def write_features(path: Path, counts: dict[str, int], size: int = 32) -> Path:
    with h5py.File(path, "w") as file:
        for seed, (name, count) in enumerate(counts.items()):
            file[f"{name}/descriptors"] = descriptors(seed, count, size).half().numpy()
            file[f"{name}/keypoints"] = np.zeros((count, 2), np.float32)
            file[f"{name}/image_size"] = np.array([640, 480])
    return path


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{a} {b}\n" for a, b in pairs))
    return path


def plain(a: np.ndarray, b: np.ndarray, config: dict) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one descriptor at a time."""

    def side(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = np.full(len(similarity), -1)
        scores = np.zeros(len(similarity))
        for i, row in enumerate(similarity):
            j = int(row.argmax())
            nearest = 2 * (1 - row[j])
            if config.get("distance_threshold") and nearest > config["distance_threshold"] ** 2:
                continue
            if config.get("ratio_threshold") and min(similarity.shape) > 1:
                second = 2 * (1 - np.delete(row, j).max())
                if nearest > config["ratio_threshold"] ** 2 * second:
                    continue
            found[i], scores[i] = j, (row[j] + 1) / 2
        return found, scores

    similarity = a.T @ b
    found, scores = side(similarity)
    if config.get("mutual", True):
        back, _ = side(similarity.T)
        found = np.array([j if j >= 0 and back[j] == i else -1 for i, j in enumerate(found)])
    return found, scores


@pytest.mark.parametrize("config", THRESHOLDS)
@pytest.mark.parametrize("counts", [(200, 150), (1, 40), (40, 1)])
def test_follows_the_definition(
    config: dict, counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samfeat_hloc.feature.matching._CHUNK", {"cpu": 1000})  # several chunks
    a, b = descriptors(1, counts[0]), descriptors(2, counts[1])
    found, scores = nearest_neighbours(a, b, **config)
    expected, expected_scores = plain(a.double().numpy(), b.double().numpy(), config)
    assert np.array_equal(found, expected)
    assert np.allclose(scores, expected_scores, atol=1e-6)
    assert found.dtype == torch.int64 and scores.dtype == torch.float32


@pytest.mark.parametrize("config", THRESHOLDS)
def test_equals_hloc(config: dict) -> None:
    hloc = pytest.importorskip("hloc.matchers.nearest_neighbor", reason="hloc is not installed")
    conf = {**config, "do_mutual_check": config.get("mutual", True)}
    conf.pop("mutual", None)
    a, b = descriptors(1, 300), descriptors(2, 400)
    reference = hloc.NearestNeighbor(conf)({"descriptors0": a[None], "descriptors1": b[None]})
    found, scores = nearest_neighbours(a, b, **config)
    assert torch.equal(found, reference["matches0"][0])
    assert torch.equal(scores, reference["matching_scores0"][0])


def test_batches_and_equal_descriptors() -> None:
    a = torch.stack([descriptors(1, 50), descriptors(2, 50)])
    b = torch.stack([descriptors(3, 70), descriptors(4, 70)])
    found, scores = nearest_neighbours(a, b, ratio_threshold=0.95)
    for i in range(2):
        single, single_scores = nearest_neighbours(a[i], b[i], ratio_threshold=0.95)
        assert torch.equal(found[i], single) and torch.allclose(scores[i], single_scores)
    same = torch.ones(4, 3) / 2
    assert nearest_neighbours(same, same)[0].tolist() == [0, -1, -1]
    assert nearest_neighbours(same, same[:, :0])[0].tolist() == [-1, -1, -1]
    assert nearest_neighbours(same[:, :0], same)[0].shape == (0,)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return write_features(
        tmp_path / "f.h5", {"db/1.jpg": 60, "db/2.jpg": 50, "db/3.jpg": 0, "query/4.jpg": 40}
    )


def test_file_is_hlocs(tmp_path: Path, four: Path) -> None:
    listed = [
        ("db/1.jpg", "db/2.jpg"),
        ("db/2.jpg", "db/1.jpg"),
        ("query/4.jpg", "db/1.jpg"),
        ("db/1.jpg", "db/3.jpg"),
        ("db/3.jpg", "db/2.jpg"),
        ("db/1.jpg", "db/2.jpg"),
    ]
    output = matches.main(write_pairs(tmp_path / "p.txt", listed), four, tmp_path / "m.h5")
    with h5py.File(output) as file:
        groups = [f"{a}/{b}" for a in file for b in file[a]]
        assert sorted(groups) == sorted(pair_name(*listed[i]) for i in (0, 2, 3, 4))
        group = file["db-1.jpg/db-2.jpg"]
        assert group["matches0"].dtype == np.int16 and group["matches0"].shape == (60,)
        assert group["matching_scores0"].dtype == np.float16
        assert (file["db-1.jpg/db-3.jpg/matches0"][()] == -1).all()
        assert file["db-3.jpg/db-2.jpg/matches0"].shape == (0,)
    with MatchReader(output) as reader:
        forward = reader.matches("db/1.jpg", "db/2.jpg")
        assert len(forward) > 30
        assert np.array_equal(reader.matches("db/2.jpg", "db/1.jpg"), forward[:, ::-1])


def test_more_pairs_are_added_and_other_configurations_refused(
    tmp_path: Path, four: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    listed = [("db/1.jpg", "db/2.jpg"), ("query/4.jpg", "db/1.jpg")]
    pairs, output = tmp_path / "p.txt", tmp_path / "m.h5"
    matches.main(write_pairs(pairs, listed[:1]), four, output)
    first = output.stat().st_mtime_ns
    matches.main(pairs, four, output)
    assert output.stat().st_mtime_ns == first and "skipped" in caplog.text
    matches.main(write_pairs(pairs, listed), four, output)
    assert "1 of 2 pairs are done" in caplog.text
    matches.main(pairs, four, tmp_path / "whole.h5")
    assert_equal(output, tmp_path / "whole.h5")
    with refused("m.h5", ("distance_threshold", "0.7")):
        matches.main(pairs, four, output, config=MatchConfig(distance_threshold=0.7))
    write_features(four, {"db/1.jpg": 60, "db/2.jpg": 50, "query/4.jpg": 30})
    with refused("m.h5", "input features"):
        matches.main(pairs, four, output)
    matches.main(pairs, four, output, overwrite=True)


def test_queries_in_another_file(tmp_path: Path, four: Path) -> None:
    queries = write_features(tmp_path / "q.h5", {"new.jpg": 20})
    pairs = write_pairs(tmp_path / "p.txt", [("new.jpg", "db/1.jpg")])
    output = matches.main(pairs, queries, tmp_path / "m.h5", features_ref=four)
    with h5py.File(output) as file:
        assert file["new.jpg/db-1.jpg/matches0"].shape == (20,)


def test_bad_input(tmp_path: Path, four: Path) -> None:
    def run(pair: tuple[str, str]) -> None:
        matches.main(write_pairs(tmp_path / "p.txt", [pair]), four, tmp_path / "m.h5")

    with refused("p.txt", ("f.h5", "db/9.jpg")):
        run(("db/1.jpg", "db/9.jpg"))
    with h5py.File(four, "a") as file:
        file["short/descriptors"] = np.ones((16, 5), np.float16)
        file["nan/descriptors"] = np.full((32, 5), np.nan, np.float16)
        file["flat/descriptors"] = np.ones(5, np.float16)
    with refused("f.h5", ("short", "16", "db/1.jpg", "32")):
        run(("db/1.jpg", "short"))
    with refused("f.h5", ("nan", "finite")):
        run(("db/1.jpg", "nan"))
    with refused("f.h5", ("flat", "float16", "(5,)")):
        run(("db/1.jpg", "flat"))
    with refused("absent.h5", "no such"):
        matches.main(tmp_path / "p.txt", tmp_path / "absent.h5", tmp_path / "m.h5")
    with refused("ratio_threshold", "3"):
        MatchConfig(ratio_threshold=3)
    clash = [("a/b.jpg", "c"), ("a-b.jpg", "c")]
    with refused("p.txt", "a-b.jpg/c"):
        matches.main(write_pairs(tmp_path / "p.txt", clash), four, tmp_path / "m.h5")


def test_wide_indices(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a/descriptors"] = np.ones((2, 1), np.float16)
        many = np.full((2, 33000), -1, np.float16)
        many[:, -1] = 1
        file["b/descriptors"] = many
    pairs = write_pairs(tmp_path / "p.txt", [("a", "b")])
    with h5py.File(matches.main(pairs, tmp_path / "f.h5", tmp_path / "m.h5")) as file:
        assert file["a/b/matches0"].dtype == np.int32
        assert file["a/b/matches0"][()].tolist() == [32999]


def test_order_keeps_images_in_the_cache(tmp_path: Path) -> None:
    """Images along a street, listed in random order: few are read twice with room for 40."""
    chance = random.Random(0)
    listed = [(f"{i}", f"{j}") for i in range(200) for j in range(i + 1, min(i + 11, 200))]
    chance.shuffle(listed)
    ordered = for_locality(listed)
    assert sorted(ordered) == sorted(listed) and for_locality(listed) == ordered
    features = write_features(tmp_path / "f.h5", {f"{i}": 2 for i in range(200)}, size=4)
    with matches.DescriptorCache(features, "cpu", limit=40 * 2 * 4 * 4) as cache:
        for name0, name1 in ordered:
            cache.get(name0), cache.get(name1)
        assert cache.reads < 260 and len(cache._kept) <= 40


KILLED = """
import sys
from pathlib import Path
from samfeat_hloc.files import h5store
from samfeat_hloc.localization import matches
h5store.SEGMENT_SECONDS = 0
print("started", flush=True)
matches.main(*map(Path, sys.argv[1:]), device="cpu")
"""


def test_killed_and_run_again(tmp_path: Path) -> None:
    names = [f"db/{i}.jpg" for i in range(20)]
    features = write_features(tmp_path / "f.h5", dict.fromkeys(names, 100))
    pairs = write_pairs(tmp_path / "p.txt", [(a, b) for a in names for b in names if a < b])
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"
    began = time.monotonic()
    matches.main(pairs, features, whole)
    usual = time.monotonic() - began
    chance = random.Random(1)
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, pairs, features, killed],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep((0.1 + chance.random()) * usual)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    matches.main(pairs, features, killed)
    assert_equal(killed, whole)
    assert not (tmp_path / "killed.h5.parts").exists()


def test_a_pair_that_fails_unforeseen_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"db/{i}.jpg" for i in range(4)]
    features = write_features(tmp_path / "f.h5", dict.fromkeys(names, 100))
    pairs = write_pairs(tmp_path / "p.txt", [(names[0], name) for name in names[1:]])
    match, asked = matches._match, []

    def fail_at_the_last(*arguments: object) -> object:
        asked.append(1)
        if len(asked) == 3:
            raise LookupError("nobody foresaw this")
        return match(*arguments)  # type: ignore[arg-type]

    def fail(*arguments: object) -> object:
        raise LookupError("nobody foresaw this")

    monkeypatch.setattr(matches, "mutual_in_tiles", fail)  # of the pairs together
    monkeypatch.setattr(matches, "_match", fail_at_the_last)  # of each alone
    with refused(".jpg", "LookupError: nobody foresaw this") as caught:
        matches.main(pairs, features, tmp_path / "m.h5", workers=2, device="cpu")
    assert caught.value.subject in {f"{names[0]} {name}" for name in names[1:]}
    assert list((tmp_path / "m.h5.parts").iterdir())  # the others are kept
