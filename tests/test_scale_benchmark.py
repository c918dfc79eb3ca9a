"""The scale benchmark on a city of a dozen images: it runs, and goes on after a kill."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "speed" / "scale.py"
DB = [f"db/{i}.jpg" for i in range(10)] + ["sequences/a/0.jpg", "sequences/a/1.jpg"]
QUERIES = [f"query/day/{i}.jpg" for i in range(4)]


@pytest.fixture(scope="module")
def scale() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))  # as for a program; it imports its neighbour
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def aachen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark's metadata in small: database, retrieval list, list of pairs to match."""
    folder = tmp_path_factory.mktemp("aachen")
    with sqlite3.connect(folder / "database_v1_1.db") as database:
        database.execute("CREATE TABLE cameras (camera_id, model, width, height, params)")
        database.execute("CREATE TABLE images (image_id, name, camera_id)")
        params = np.array([600.0, 400, 300, 0.01]).tobytes()
        database.execute("INSERT INTO cameras VALUES (1, 2, 800, 600, ?)", [params])
        names = enumerate([*DB, *QUERIES])
        database.executemany("INSERT INTO images VALUES (?, ?, 1)", names)
    retrieved = [(q, DB[(3 * i + j) % 12]) for i, q in enumerate(QUERIES) for j in range(5)]
    text = "".join(f"{a} {b}\n" for a, b in retrieved)
    (folder / "pairs-query-netvlad50.txt").write_text(text)
    # as the benchmark's list has them: some both ways round, and some of queries
    listed = [(DB[i], DB[i + 1]) for i in range(11)] + [(DB[1], DB[0]), (QUERIES[0], DB[0])]
    (folder / "image_pairs_to_match_v1_1.txt").write_text("".join(f"{a} {b}\n" for a, b in listed))
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def test_a_city_is_repeated_under_other_names(
    scale: ModuleType, aachen: Path, tmp_path: Path
) -> None:
    for size, images, queries, db_pairs in (("0.25", 5, 1, 4), ("1", 12, 4, 11), ("3", 36, 12, 33)):
        work = tmp_path / size
        work.mkdir()
        scale.city.write_city(aachen, work, float(size))
        assert len(set(lines(work / "images.txt"))) == images
        assert len(scale.city.queries_of(work)) == queries
        assert len(lines(work / "pairs-db.txt")) == db_pairs
        assert len(lines(work / "pairs-query.txt")) == 5 * queries
        named = {name for pair in lines(work / "pairs-query.txt") for name in pair.split()}
        assert named <= {
            *lines(work / "images.txt"),
            *(query.name for query in scale.city.queries_of(work)),
        }


def test_it_goes_on_after_a_kill(
    scale: ModuleType, aachen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    killed_in: list[str] = ["matching"]

    def run(aachen: Path, work: Path, keypoints: int, stage: str) -> dict[str, Any]:
        if stage in killed_in:
            raise KeyboardInterrupt
        stages.append(stage)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            scale._measure(stage, work, keypoints)
        return {**json.loads(output.getvalue().split("\n")[-2]), "disk_mb": 0.0}

    monkeypatch.setattr(scale, "_in_its_process", run)

    def go() -> None:
        scale.main(aachen, tmp_path, "1,2", 40, False, tmp_path / "record.json", None)

    with pytest.raises(KeyboardInterrupt):
        go()
    assert stages == ["features", "global descriptors", "retrieval"]
    with (tmp_path / "measured.jsonl").open("a") as log:
        log.write('{"size": 1.0, "stage": "matc')
    killed_in.clear()
    go()
    assert stages == [*scale.OUTPUTS, *scale.OUTPUTS]
    assert not list(tmp_path.glob("city-*"))
    record = json.loads((tmp_path / "record.json").read_text())
    assert [entry["items"] for entry in record["stages"]] == [
        16,
        16,
        16,
        31,
        11,
        4,
        32,
        32,
        32,
        62,
        22,
        8,
    ]
    go()  # all is measured
    assert len(stages) == 14
