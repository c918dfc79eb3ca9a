"""benchmarks/localizer/accept.py compares poses with the truth of a dataset's queries."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import tiny_dataset

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "localizer" / "accept.py"


def test_every_query_with_a_true_pose_has_it(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("accept", SCRIPT)
    assert spec is not None and spec.loader is not None
    accept = importlib.util.module_from_spec(spec)
    sys.modules["accept"] = accept  # where its dataclasses look for their annotations
    spec.loader.exec_module(accept)
    photos = list(accept._photos_of("p", SimpleNamespace(images=[]), tiny_dataset.build(tmp_path)))
    assert {p.name: p.truth.tvec[0] for p in photos} == {
        "query/day/a.jpg": 0, "query/day/b.jpg": 1, "query/night/c.jpg": 2, "query/night/d.jpg": 3
    }  # fmt: skip
