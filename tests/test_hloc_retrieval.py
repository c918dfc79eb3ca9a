"""Retrieval in hloc: `samfeat_vlad`, and what is said of models that hloc cannot load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import h5py
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc import SAMFeat
from samfeat_hloc.feature.presets import PRESETS
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.hloc_plugin import configurations, hloc_installed
from samfeat_hloc.hloc_plugin.engine import global_descriptors as by_engine
from samfeat_hloc.localization import features, global_descriptors, pairs

pytestmark = pytest.mark.skipif(
    not hloc_installed(), reason="hloc is not installed (it is on no package index)"
)
DB = [f"db/{i}.jpg" for i in range(4)]
QUERIES = [f"query/{i}.jpg" for i in range(2)]


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    paths = sorted((shared / "data/photos").glob("*.jpg"))
    for name, path in zip(DB + QUERIES, paths, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)
    return folder


def vectors(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[f"{name}/global_descriptor"][()] for name in DB + QUERIES}


def test_vlad_in_hloc_is_ours(photos: Path, tmp_path: Path) -> None:
    from hloc import extract_features, pairs_from_retrieval

    model, options = SAMFeat.from_pretrained(device="cpu"), PRESETS["samfeat_fast"]
    local = features.main(photos, DB + QUERIES, tmp_path / "f.h5", model=model, options=options)
    ours = global_descriptors.main(local, DB, QUERIES, tmp_path / "ours.h5", clusters=16)

    conf = configurations.vlad(extract_features.confs["samfeat_fast"], clusters=16)
    theirs = extract_features.main(conf, photos, tmp_path / "hloc")
    assert theirs == tmp_path / "hloc" / "global-feats-samfeat-vlad-fast-n1024-r640.h5"
    expected = vectors(ours)
    for name, vector in vectors(theirs).items():
        assert np.allclose(vector, expected[name], atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    pairs_from_retrieval.main(
        theirs, tmp_path / "theirs.txt", 2, query_prefix="query", db_prefix="db"
    )
    pairs.from_retrieval(ours, QUERIES, DB, tmp_path / "ours.txt", num_matched=2)
    found, expected_pairs = (read_pairs(tmp_path / f"{who}.txt") for who in ("theirs", "ours"))
    assert set(found) == set(expected_pairs) and len(found) == 4

    # As other scripts do: the database first, then the queries, into one file.
    two = tmp_path / "two" / "g.h5"
    for names in (DB, QUERIES):
        made = extract_features.main(conf, photos, image_list=names, feature_path=two)
        assert made == two
    for name, vector in vectors(two).items():
        assert np.array_equal(vector, vectors(theirs)[name])
    written = two.stat().st_mtime_ns
    extract_features.main(conf, photos, feature_path=two)
    assert two.stat().st_mtime_ns == written
    with refused("f.h5", "too few for 512 clusters"):
        global_descriptors.vocabulary_of(local, [], clusters=512)


def test_the_configuration_is_for_what_hloc_users_have() -> None:
    from hloc import extract_features

    conf = extract_features.confs["samfeat_vlad"]
    assert conf["local"] == extract_features.confs["samfeat_aachen"]
    assert conf["output"] == "global-feats-samfeat-vlad-aachen-n4096-r1024"


def test_weights_that_cannot_be_downloaded(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hloc import extract_features, match_features

    def offline(*args: Any, **named: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with refused("netvlad", "Name or service not known", ("Pitts30K_struct.mat", "samfeat_vlad")):
        extract_features.main(extract_features.confs["netvlad"], photos, tmp_path)
    with refused("netvlad", "Name or service not known", "--retrieval vlad"):  # in a run
        by_engine(photos, DB, tmp_path / "g.h5")
    assert not list(tmp_path.glob("g.h5*"))
    monkeypatch.setitem(match_features.confs, "no", {"output": "m", "model": {"name": "none"}})
    (tmp_path / "pairs.txt").write_text("a b\n")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a/keypoints"] = np.zeros((1, 2))
    with refused("none", "ModuleNotFoundError", "NN-samfeat"):
        match_features.main(
            match_features.confs["no"], tmp_path / "pairs.txt", tmp_path / "f.h5",
            matches=tmp_path / "m.h5",
        )  # fmt: skip
