"""Matchers of other features on SAMFeat's: told, in hloc too."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest

from samfeat_hloc.hloc_plugin import configurations, hloc_installed
from samfeat_hloc.hloc_plugin.foreign_matchers import complaint, watch

OURS = Path("feats-samfeat-aachen-n4096-r1024.h5")
ALIKED = {"model": {"name": "lightglue", "features": "aliked"}}
SUPERGLUE = {"model": {"name": "superglue", "weights": "outdoor"}}
RATIO = {"model": {"name": "nearest_neighbor", "ratio_threshold": 0.8}}
OWN = {"model": {"name": "lightglue", "features": "samfeat", "weights": "mine.pth"}}


def test_only_what_was_made_for_others_on_ours() -> None:
    assert "lightglue was trained for aliked" in str(complaint(ALIKED, OURS))
    assert "superglue was trained for SuperPoint" in str(complaint(SUPERGLUE, OURS))
    assert "a ratio test of 0.8 leaves few" in str(complaint(RATIO, OURS))
    for conf in (*configurations.matchers().values(), OWN):
        assert complaint(conf, OURS) is None
    for conf in (ALIKED, SUPERGLUE, RATIO):
        assert complaint(conf, Path("feats-aliked-n16.h5")) is None


def test_our_files_under_any_name(tmp_path: Path) -> None:
    for stage, told in (("features", True), ("global_descriptors", False)):
        path = tmp_path / f"{stage}.h5"
        with h5py.File(path, "w") as file:
            file.attrs["made_by"] = json.dumps({"stage": stage})
        assert (complaint(ALIKED, path) is not None) == told


def test_hlocs_module_says_it_once_and_matches(caplog: pytest.LogCaptureFixture) -> None:
    module: Any = ModuleType("match_features")
    done: list[Path] = []

    def match_from_paths(
        conf: dict, pairs_path: Path, match_path: Path, feature_path_q: Path, *rest: Any
    ) -> str:
        done.append(feature_path_q)
        return "matched"

    module.match_from_paths = match_from_paths
    watch(module)
    watch(module)
    with caplog.at_level(logging.WARNING):
        found = module.match_from_paths(
            ALIKED, Path("p"), match_path=Path("m"), feature_path_q=OURS
        )
    assert found == "matched" and done == [OURS]
    assert len(caplog.messages) == 1 and "NN-samfeat" in caplog.messages[0]


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
def test_hloc_is_watched_and_its_own_configurations_are_told() -> None:
    from hloc import match_features

    assert hasattr(match_features.match_from_paths, "__wrapped__")
    told = {name for name, conf in match_features.confs.items() if complaint(conf, OURS)}
    assert told >= {"aliked+lightglue", "superpoint+lightglue", "superglue", "NN-ratio"}
    assert not told & {"NN-samfeat", "NN-mutual"}
