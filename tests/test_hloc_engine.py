"""``--engine hloc`` on the town: hloc's own stages, the native ones' files and answers.

RootSIFT stands in for SAMFeat where only the files matter: it is quick and its map is good.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from refusals import refused

from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.datasets.queries import Query
from samfeat_hloc.files.feature_readers import MatchReader
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import localize, mapping, matches, pairs
from samfeat_hloc.localization.inputs import LocalizationInputs, MappingInputs

if not hloc_installed():
    pytest.skip("hloc is not installed (it is on no package index)", allow_module_level=True)

from samfeat_hloc.hloc_plugin.engine import HlocEngine

engine = HlocEngine()

LONGER_SIDE = 640
NUM_QUERIES = 3


def write_root_sift(image_dir: Path, names: list[str], output: Path) -> Path:
    """Features in hloc's format."""
    sift = cv2.SIFT_create(1000)
    with h5py.File(output, "w") as file:
        for name in names:
            image = cv2.imread(str(image_dir / name), cv2.IMREAD_GRAYSCALE)
            size = np.array(image.shape[::-1])
            small = np.round(size * LONGER_SIDE / size.max()).astype(int)
            image = cv2.resize(image, small.tolist(), interpolation=cv2.INTER_AREA)
            points, descriptors = sift.detectAndCompute(image, None)
            descriptors = np.sqrt(descriptors / descriptors.sum(axis=1, keepdims=True))
            scale = size / small
            keypoints = (np.array([p.pt for p in points]) + 0.5) * scale - 0.5
            group = file.create_group(name)
            stored = group.create_dataset("keypoints", data=keypoints.astype(np.float32))
            stored.attrs["uncertainty"] = float(scale.mean())
            group["descriptors"] = descriptors.T.astype(np.float16)
            group["keypoint_scores"] = np.array([p.response for p in points], np.float32)
            group["image_size"] = size
    return output


@pytest.fixture(scope="module")
def town(shared: Path) -> AachenDataset:
    return AachenDataset.open(shared / "data" / "town")


@pytest.fixture(scope="module")
def queries(town: AachenDataset) -> list[Query]:
    fountain = [q for q in town.queries if "fountain" in q.name and q.condition == "day"]
    return fountain[:NUM_QUERIES]


@pytest.fixture(scope="module")
def made(
    town: AachenDataset, queries: list[Query], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Every stage of hloc, once."""
    out = tmp_path_factory.mktemp("hloc")
    names = [*town.db_names, *[query.name for query in queries]]
    features = write_root_sift(town.image_dir, names, out / "features.h5")
    pairs_db = engine.pairs_from_covisibility(
        town.reference_model, out / "pairs-db.txt", num_matched=4
    )
    matches_db = engine.matches(pairs_db, features, out / "matches-db.h5")
    map_inputs = MappingInputs(town.reference_model, town.image_dir, pairs_db, features, matches_db)
    map_dir = engine.mapping(map_inputs, out / "map")
    pairs_query = out / "pairs-query.txt"
    fountain = [name for name in town.db_names if "fountain" in name]
    pairs_query.write_text("".join(f"{q.name} {name}\n" for q in queries for name in fountain))
    matches_query = engine.matches(pairs_query, features, out / "matches-query.h5")
    inputs = LocalizationInputs(map_dir, queries, pairs_query, features, matches_query)
    result = engine.localize(inputs, out / "poses.txt")
    return {
        "out": out,
        "features": features,
        "pairs_db": pairs_db,
        "matches_db": matches_db,
        "map": map_dir,
        "pairs_query": pairs_query,
        "matches_query": matches_query,
        "result": result,
        "map inputs": map_inputs,
        "inputs": inputs,
    }


def test_same_pairs_from_covisibility(
    town: AachenDataset, made: dict[str, Any], tmp_path: Path
) -> None:
    native = pairs.from_covisibility(town.reference_model, tmp_path / "pairs.txt", num_matched=4)
    assert set(read_pairs(native)) == set(read_pairs(made["pairs_db"]))


def test_same_pairs_from_retrieval(
    town: AachenDataset, queries: list[Query], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    names = [query.name for query in queries]
    with h5py.File(tmp_path / "global.h5", "w") as file:
        for name in [*town.db_names, *names]:
            vector = rng.random(32).astype(np.float32)
            file.create_group(name)["global_descriptor"] = vector / np.linalg.norm(vector)
    for count in (5, 50):  # more than there are: hloc by itself fails there
        arguments = (tmp_path / "global.h5", names, town.db_names)
        hloc = engine.pairs_from_retrieval(
            *arguments, tmp_path / f"hloc-{count}.txt", num_matched=count
        )
        native = pairs.from_retrieval(
            *arguments, tmp_path / f"native-{count}.txt", num_matched=count
        )
        assert read_pairs(hloc) == read_pairs(native)
        assert len(read_pairs(hloc)) == len(names) * min(count, len(town.db_names))


def test_identical_matches(made: dict[str, Any], tmp_path: Path) -> None:
    native = matches.main(made["pairs_query"], made["features"], tmp_path / "matches.h5")
    with MatchReader(native) as ours, MatchReader(made["matches_query"]) as theirs:
        for name0, name1 in read_pairs(made["pairs_query"]):
            np.testing.assert_array_equal(ours.matches(name0, name1), theirs.matches(name0, name1))


def test_map_and_poses_agree(
    town: AachenDataset, queries: list[Query], made: dict[str, Any], tmp_path: Path
) -> None:
    ours = mapping.main(made["map inputs"], tmp_path / "map")
    native, hloc = read_model(ours), read_model(made["map"])
    assert len(hloc.point_ids) > 500
    assert len(native.point_ids) == len(hloc.point_ids)
    np.testing.assert_allclose(native.xyz, hloc.xyz, atol=1e-6)
    result = localize.main(replace(made["inputs"], map_dir=ours), tmp_path / "poses.txt")
    theirs = made["result"]
    assert list(theirs.queries) == [query.name for query in queries]
    assert theirs.num_localized == result.num_localized == len(queries)
    for name, found in theirs.queries.items():
        metres, degrees = difference(found.pose, result.poses[name])
        assert metres < 0.01 and degrees < 0.1
        assert found.num_inliers > 30
        assert found.num_matches == sum(count for _, count in found.retrieved)
        assert found.num_matches == result.queries[name].num_matches
        # ours begins RANSAC with the correspondences of most support where there are many
        few = found.num_correspondences <= 500
        apart = abs(found.num_inliers - result.queries[name].num_inliers)
        assert apart <= (0 if few else 0.02 * found.num_inliers)
        assert found.num_keypoints == result.queries[name].num_keypoints


def difference(a: Any, b: Any) -> tuple[float, float]:
    """Metres between two camera centres and degrees between their rotations."""
    import pycolmap

    rigid = [
        pycolmap.Rigid3d(pycolmap.Rotation3d(np.roll(pose.qvec, -1)), pose.tvec) for pose in (a, b)
    ]
    centres = [pose.inverse().translation for pose in rigid]
    angle = (rigid[0].rotation * rigid[1].rotation.inverse()).angle()
    return float(np.linalg.norm(centres[0] - centres[1])), float(np.degrees(angle))


def test_work_done_is_skipped_and_other_work_refused(
    town: AachenDataset, queries: list[Query], made: dict[str, Any], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made["out"].rglob("*") if path.is_file()}
    covisibility = (town.reference_model, made["pairs_db"])
    matching = (made["pairs_db"], made["features"], made["matches_db"])
    mapped = (made["map inputs"], made["map"])
    localized = (made["inputs"], made["out"] / "poses.txt")
    engine.pairs_from_covisibility(*covisibility, num_matched=4)
    engine.matches(*matching)
    engine.mapping(*mapped)
    again = engine.localize(*localized)
    assert again.skipped and list(again.queries) == [query.name for query in queries]
    for name, found in made["result"].queries.items():
        np.testing.assert_allclose(again.queries[name].pose.tvec, found.pose.tvec)

    config = matches.MatchConfig(distance_threshold=0.5)
    with refused("pairs-db.txt"):
        engine.pairs_from_covisibility(*covisibility, num_matched=3)
    with refused("matches-db.h5"):
        engine.matches(*matching, config=config)
    with refused("poses.txt"):
        engine.localize(*localized, max_error=5.0)
    from samfeat_hloc.colmap.library import pycolmap

    other = pycolmap.Reconstruction(town.reference_model)  # with the cameras of other lenses
    for camera in other.cameras.values():
        camera.set_params_from_string(", ".join(str(value * 1.01) for value in camera.params))
    (tmp_path / "reference").mkdir()
    other.write(tmp_path / "reference")
    with refused("map", "reference_cameras"):
        engine.mapping(
            replace(made["map inputs"], reference_model=tmp_path / "reference"), made["map"]
        )
    with refused("matches-db.h5"):  # another engine's file
        matches.main(*matching)
    after = {path: path.stat().st_mtime_ns for path in made["out"].rglob("*") if path.is_file()}
    assert after == before  # nothing rewritten, nothing left lying about


@pytest.fixture(scope="module")
def model() -> Any:
    import torch

    from samfeat_hloc.feature.network import SAMFeat

    torch.manual_seed(0)
    return SAMFeat().eval()


def test_features_are_the_native_ones(town: AachenDataset, model: Any, tmp_path: Path) -> None:
    from samfeat_hloc.feature.presets import PRESETS
    from samfeat_hloc.localization import features

    names = [name for name in town.db_names if "entry" in name][:2]
    options = replace(PRESETS["samfeat_fast"], resize=320, max_keypoints=300)
    keywords = {"model": model, "options": options}
    hloc = engine.features(town.image_dir, names, tmp_path / "hloc.h5", **keywords)
    native = features.main(town.image_dir, names, tmp_path / "native.h5", **keywords)
    with h5py.File(hloc, "r") as theirs, h5py.File(native, "r") as ours:
        for name in names:
            assert set(theirs[name]) >= {"keypoints", "descriptors", "image_size"}
            np.testing.assert_allclose(
                theirs[name]["keypoints"][()], ours[name]["keypoints"][()], atol=1e-3
            )
            np.testing.assert_array_equal(
                theirs[name]["descriptors"][()], ours[name]["descriptors"][()]
            )
            np.testing.assert_array_equal(theirs[name]["image_size"], ours[name]["image_size"])
            uncertainty = [f[name]["keypoints"].attrs["uncertainty"] for f in (theirs, ours)]
            assert uncertainty[0] == pytest.approx(uncertainty[1])
    with refused("hloc.h5", "max_keypoints"):
        keywords["options"] = replace(options, max_keypoints=200)
        engine.features(town.image_dir, names, tmp_path / "hloc.h5", **keywords)


def test_interrupted_extraction_goes_on(town: AachenDataset, model: Any, tmp_path: Path) -> None:
    from samfeat_hloc.feature.options import ExtractOptions

    names = [name for name in town.db_names if "entry" in name][:2]
    output = tmp_path / "features.h5"
    broken = tmp_path / "images" / names[1]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes((town.image_dir / name).read_bytes())
    broken.write_bytes(b"not an image")
    keywords = {"model": model, "options": ExtractOptions(resize=320, max_keypoints=100)}
    with refused() as error:
        engine.features(tmp_path / "images", names, output, **keywords)
    assert names[1] in str(error.value)
    assert not output.exists()
    broken.write_bytes((town.image_dir / names[1]).read_bytes())
    engine.features(tmp_path / "images", names, output, **keywords)
    with h5py.File(output, "r") as file:
        assert all(name in file for name in names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "images"]
