"""Validation during training: held-back photos beside planar pairs in HPatches' layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.training import ablation, journal
from samfeat_hloc.training.recipe import Recipe, read_recipe
from samfeat_hloc.training.run_state import load_state
from samfeat_hloc.training.trainer import train
from samfeat_hloc.training.validation import MOST_PLANAR, PlanarPairs, planar_accuracy

RECIPE = Path(__file__).parents[1] / "configs" / "homographies.yaml"
MATRIX = np.array([[0.95, 0.08, 12.0], [-0.06, 1.02, 9.0], [1e-4, 0.0, 1.0]])


def board(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (14, 18, 3), dtype=np.uint8)
    blocks = cv2.resize(coarse, (216, 168), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(blocks, (0, 0), 0.8)


@pytest.fixture(scope="module")
def planar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of a picture and what a homography makes of it."""
    root = tmp_path_factory.mktemp("planar")
    for number in range(2):
        folder = root / f"v_{number}"
        folder.mkdir()
        cv2.imwrite(str(folder / "1.png"), board(number))
        cv2.imwrite(str(folder / "2.png"), cv2.warpPerspective(board(number), MATRIX, (216, 168)))
        np.savetxt(folder / "H_1_2", MATRIX)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(25):
        cv2.imwrite(str(folder / f"{number:02}.png"), board(10 + number))
    return folder


def test_the_shipped_network_on_planar_pairs(planar: Path, tmp_path: Path) -> None:
    pairs = PlanarPairs.open(planar)
    right = planar_accuracy(SAMFeat.from_pretrained(device="cpu"), pairs)
    assert right["mma@3"] > 0.8 and right["matches"] > 50
    wrong = tmp_path / "v_wrong"
    wrong.mkdir()
    for name in ("1.png", "2.png"):
        (wrong / name).write_bytes((planar / "v_0" / name).read_bytes())
    np.savetxt(wrong / "H_1_2", MATRIX + np.array([[0, 0, 20.0], [0, 0, 0], [0, 0, 0]]))
    assert planar_accuracy(SAMFeat.from_pretrained(device="cpu"), PlanarPairs.open(tmp_path))[
        "mma@3"
    ] < 0.1  # fmt: skip
    for number in range(3, 60):
        (wrong / f"{number}.png").write_bytes((wrong / "2.png").read_bytes())
        np.savetxt(wrong / f"H_1_{number}", MATRIX)
    many = PlanarPairs.open(tmp_path).pairs
    assert len(many) == MOST_PLANAR
    assert {many[0].images[1], many[-1].images[1]} == {"v_wrong/2.png", "v_wrong/59.png"}


def small(photos: Path, output: Path, *more: str) -> list[str]:
    return [
        f"data.images={photos}", f"output={output}", "train.steps=2", "train.batch=2",
        "train.log_every=1", "train.save_every=5", "train.validate_every=1", "train.warmup=1",
        "pairs.crop=64", "pairs.points=32", "pairs.keypoints=32", *more,
    ]  # fmt: skip


def test_a_run_with_planar_pairs(
    planar: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictured = []
    monkeypatch.setattr(
        journal.Journal, "pictures", lambda self, step, model, batch: pictured.append(batch)
    )
    more = f"data.validation_pairs={planar}"
    train(read_recipe(RECIPE, small(photos, tmp_path / "run", more, "start_from=shipped")))
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all({"mma@1", "mma@3", "planar/mma@1", "planar/mma@3"} < set(r) for r in records)
    # The best is the one that matches the real pairs best.
    best = max(range(2), key=lambda i: records[i]["planar/mma@3"])
    steps = SAMFeat.from_pretrained(tmp_path / "run/best.safetensors").metadata["steps"]
    assert steps == records[best]["step"]
    assert [batch.matrix01 is not None for batch in pictured] == [True, True]
    recipe = read_recipe(RECIPE, small(photos, tmp_path / "run", more, "start_from=shipped"))
    result = ablation._result(
        recipe, "all", tmp_path / "run/samfeat.safetensors", [], memory=1.0, cpu_seconds=1.0
    )
    found = result["sets"]["validation"]["mma@3"]
    assert found == pytest.approx(100 * records[-1]["planar/mma@3"], abs=1e-3)


def test_what_is_wrong_with_the_pairs_is_said_first(
    planar: Path, photos: Path, tmp_path: Path
) -> None:
    for folder, problem in ((tmp_path / "nowhere", "no such folder"), (photos, "HPatches' layout")):
        more = f"data.validation_pairs={folder}"
        with refused(folder, problem):
            train(read_recipe(RECIPE, small(photos, tmp_path / "run", more)))
    assert not (tmp_path / "run" / "photos.pack").exists()


def test_states_of_earlier_versions_go_on(photos: Path, tmp_path: Path) -> None:
    """Without keys that came later, with a key that was renamed, with the recipe beside it."""
    run = tmp_path / "run"
    recipe = read_recipe(RECIPE, small(photos, run, "train.steps=1", "train.validate_every=9"))
    config = SAMFeat.from_pretrained(train(recipe), device="cpu").config
    path = run / "state.pt"
    whole = torch.load(path, weights_only=True)

    def differing(now: Recipe, before: object) -> str:
        torch.save({**whole, "recipe": before}, path)
        model = SAMFeat(**config)
        optimizer = torch.optim.Adam(model.parameters())
        try:
            load_state(run, now, model, optimizer, None, torch.device("cpu"))
        except SamfeatError as error:
            return error.problem
        return ""

    values = whole["recipe"]
    renamed = {**values, "pairs.not_search": values["pairs.too_close"]}
    for gone in ("posed.zoom", "data.mix.synthetic", "pairs.too_close"):
        del renamed[gone]
    for before in (values, renamed, "aeb45f12a2b63db1"):
        assert differing(recipe, before) == ""
        again = replace(recipe, posed=replace(recipe.posed, zoom=0.9))
        assert "posed.zoom: 0.8 then, 0.9 now" in differing(again, before)
        longer = replace(recipe, train=replace(recipe.train, steps=9), output=tmp_path)
        assert differing(longer, before) == ""


def test_a_former_name_of_a_key_is_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    former = tmp_path / "former.yaml"
    former.write_text("data:\n  images: x\noutput: y\npairs:\n  not_search: 3.0\n")
    assert read_recipe(former, []).pairs.too_close == 3
    assert read_recipe(former, ["pairs.not_search=5"]).pairs.too_close == 5
    assert read_recipe(former, ["pairs.too_close=7"]).pairs.too_close == 7
    assert "pairs.not_search is called pairs.too_close now" in caplog.text


def test_another_recipe_is_refused_with_what_differs(photos: Path, tmp_path: Path) -> None:
    arguments = small(photos, tmp_path / "run", "train.steps=1", "train.validate_every=9")
    train(read_recipe(RECIPE, arguments))
    # The resolved recipe is a recipe: it goes on with the run, here to its second step.
    saved = tmp_path / "run" / "config.yaml"
    assert "!!" not in saved.read_text()
    train(read_recipe(saved, ["train.steps=2"]))
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == 2
    with refused("state.pt", "pairs.night: 0.35 then, 0.1 now"):
        train(read_recipe(saved, ["pairs.night=0.1", "train.steps=3"]))
