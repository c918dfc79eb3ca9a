"""What comes after training: whitening, and the map that is learned from matches."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from samfeat_hloc.feature import checkpoints
from samfeat_hloc.feature.extraction import detect_and_describe
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.training import projection, whitening
from samfeat_hloc.training.homography_pairs import HomographySource
from samfeat_hloc.training.last_convolution import multiply_in
from samfeat_hloc.training.pairs import PairOptions
from samfeat_hloc.training.photos import PhotoFolder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of rectangles, enough of them to hold one back."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(25):
        random = np.random.default_rng(number)
        image = np.full((200, 220, 3), 120, np.uint8)
        for x, y, w, h in random.integers(5, 60, (60, 4)) * [4, 4, 1, 1]:
            colour = [int(c) for c in random.integers(0, 255, 3)]
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is not whitened: random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trained") / "trained.safetensors"
    model = SAMFeat(edge_attention=False)
    checkpoints.write_checkpoint(path, model.state_dict(), model.config, {"steps": 7})
    return path


def changes(trained: Path, output: Path) -> tuple[set[str], checkpoints.Checkpoint]:
    """The parameters in which a checkpoint differs from the one before, and the checkpoint."""
    before, after = (checkpoints.read_checkpoint(path) for path in (trained, output))
    changed = {
        name for name in before.parameters
        if not torch.equal(before.parameters[name], after.parameters[name])
    }  # fmt: skip
    return changed, after


def test_what_moves_counts_less() -> None:
    model = SAMFeat(edge_attention=False)
    directions = torch.linalg.qr(torch.randn(128, 128, dtype=torch.float64)).Q
    variances = torch.linspace(0, 0.02, 128, dtype=torch.float64)
    moved = directions @ torch.diag(variances) @ directions.t()
    features = torch.randn(1, 384, 12, 16)
    before = model.describe(features).detach()[0].flatten(1).double()
    whitening.whiten(model, moved, 0.4)
    after = model.describe(features).detach()[0].flatten(1).double()
    ratio = ((directions.t() @ after) / (directions.t() @ before)).mean(1)
    wanted = (variances + 1e-4) ** -0.4
    wanted *= 128**0.5 / wanted.norm()
    torch.testing.assert_close(ratio, wanted, rtol=1e-3, atol=1e-4)


def test_differences_are_those_of_the_same_corners(photos: Path, trained: Path) -> None:
    model = SAMFeat.from_pretrained(trained, device="cpu")
    source = HomographySource(PhotoFolder.open(photos), whitening.HOMOGRAPHIES)
    batch = source.batch(2, whitening.VIEWS, torch.Generator().manual_seed(3))
    found = whitening.differences(model, batch)
    assert 20 < len(found) <= int(batch.present.sum()) and found.shape[1] == 128
    assert float(found.norm(dim=1).max()) < (2 - 2 * 0.4) ** 0.5 + 1e-4
    with torch.inference_mode():
        maps = [model.encode(image * 2 - 1) for image in (batch.image0[:1], batch.image1[:1])]
        views = [
            F.normalize(model.describe_at(m.features[0], c[0]), dim=1)
            for m, c in zip(maps, (batch.corners0, batch.corners1), strict=True)
        ]
    there = (batch.present[0] > 0) & ((views[0] * views[1]).sum(1) > 0.4)
    wanted = (views[0] - views[1])[there]
    # The first pair's come first; half precision and the threshold leave a little apart.
    assert abs(float(found[: len(wanted)].norm() / wanted.norm()) - 1) < 0.1


def test_a_checkpoint_is_whitened_once(photos: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "white.safetensors"
    whitening.main(trained, photos, output, pairs=48)
    changed, after = changes(trained, output)
    assert changed == {"describe.weight", "describe.bias"} or changed == {"describe.weight"}
    assert after.metadata["steps"] == 7
    assert after.metadata["whitened"]["pairs"] == 48
    again = tmp_path / "again.safetensors"
    with refused("white.safetensors", "whitened"):
        whitening.main(output, photos, again, pairs=48)
    with refused("white.safetensors", "already", "--overwrite"):
        whitening.main(trained, photos, output, pairs=48)
    with refused("--strength", "0.7", "0.5"):
        whitening.main(trained, photos, again, strength=0.7)
    with refused(photos, "corners", "--num-pairs"):
        whitening.main(trained, photos, again, pairs=1)
    assert not again.exists()
    whitening.main(trained, photos, output, pairs=48, overwrite=True)
    repeated = checkpoints.read_checkpoint(output).parameters["describe.weight"]
    assert torch.equal(repeated, after.parameters["describe.weight"])


def test_a_map_is_multiplied_in() -> None:
    model = SAMFeat(edge_attention=False)
    features = torch.randn(1, 384, 6, 8)
    before = model.describe(features).detach()[0].flatten(1)
    matrix, vector = torch.randn(128, 128), torch.randn(128)
    multiply_in(model, matrix, vector)
    after = model.describe(features).detach()[0].flatten(1)
    torch.testing.assert_close(after, matrix @ before + vector[:, None], rtol=1e-3, atol=1e-3)


def test_reward_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "TEMPERATURE", 1.0)
    monkeypatch.setattr(projection, "_LEAST_POSSIBLE", 1)
    # Two points, the first of which has its match; the second's is hidden, another is there.
    first, second = torch.eye(3)[:2], torch.eye(3)[[0, 2]]
    right = torch.tensor([[True, False], [False, False]])
    e = float(np.e)
    earned = (e / (e + 1)) ** 2
    cost = 3 * 0.5 / (e + 1) - 0.5 / (e + 1) + 0.25
    reward = projection.expected_reward(first, second, right, ~right, 1.5)
    assert reward.item() == pytest.approx(earned - 1.5 * cost, abs=1e-6)
    # What is neither right nor wrong neither earns nor costs.
    none = torch.zeros_like(right)
    assert projection.expected_reward(first, second, right, none, 1.5).item() == pytest.approx(
        earned
    )
    # A match that cannot be found is not counted twice.
    twice = torch.ones_like(right)
    both = projection.expected_reward(first, second, twice, none, 1.5).item()
    assert both == pytest.approx((earned + cost) / 2)


@pytest.mark.parametrize("scales", projection.SCALES[:2])
def test_at_first_the_map_describes_as_extraction_does(
    photos: Path, trained: Path, scales: tuple[float, ...]
) -> None:
    model = SAMFeat.from_pretrained(trained, device="cpu")
    pixels = torch.from_numpy(cv2.imread(str(photos / "03.png"))).permute(2, 0, 1)[None] / 255
    options = ExtractOptions(max_keypoints=projection.KEYPOINTS, scales=scales)
    extracted = detect_and_describe(model, pixels, options)[0]
    with torch.no_grad():
        view = projection.describe(model, pixels, scales)[0]
        descriptors = projection.Projection(1.0)(view)
    torch.testing.assert_close(view.keypoints, extracted["keypoints"])
    torch.testing.assert_close(descriptors.t(), extracted["descriptors"], rtol=1e-3, atol=1e-4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of few pixels."""
    monkeypatch.setattr(projection, "VIEWS", PairOptions(crop=128, night=0.3))


def test_what_is_learned_matches_better(small: None, photos: Path, trained: Path) -> None:
    model = SAMFeat.from_pretrained(trained, device="cpu")
    source = HomographySource(PhotoFolder.open(photos), projection.HOMOGRAPHIES)
    step = projection.described_pairs(model, source, (1.0,), torch.Generator().manual_seed(5))
    learned = projection.Projection(float(step[0][0].descriptors.norm(dim=-1).mean()))
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.003)

    def reward() -> torch.Tensor:
        same = torch.Generator().manual_seed(6)
        views0, views1, moved = step
        pairs = range(projection.PAIRS)
        return torch.stack(
            [projection.pair_reward(learned, views0, views1, moved[p], p, 0.5, same) for p in pairs]
        ).mean()

    before = reward().item()
    for _ in range(20):
        optimizer.zero_grad()
        (-reward()).backward()
        optimizer.step()
    assert reward().item() > before + 0.02


def test_a_checkpoint_gets_its_map_once(
    small: None, photos: Path, trained: Path, tmp_path: Path
) -> None:
    output, again = tmp_path / "mapped.safetensors", tmp_path / "again.safetensors"
    projection.main(trained, photos, output, steps=2)
    changed, after = changes(trained, output)
    assert changed == {"describe.weight", "describe.bias"}
    assert after.metadata["projected"]["pairs"] == 6
    with refused("mapped.safetensors", "projected"):
        projection.main(output, photos, again, steps=2)
    with refused("mapped.safetensors", "already", "--overwrite"):
        projection.main(trained, photos, output, steps=2)
    assert not again.exists()
    projection.main(trained, photos, again, steps=2)
    repeated = checkpoints.read_checkpoint(again).parameters["describe.weight"]
    assert torch.equal(repeated, after.parameters["describe.weight"])


def test_photos_without_keypoints(small: None, photos: Path, trained: Path, tmp_path: Path) -> None:
    model = SAMFeat.from_pretrained(trained, device="cpu")
    with torch.no_grad():
        for detect in model.detect:
            detect.weight.zero_()
            detect.bias.fill_(-20.0)
    blind, output = tmp_path / "blind.safetensors", tmp_path / "mapped.safetensors"
    checkpoints.write_checkpoint(blind, model.state_dict(), model.config, {})
    with refused(photos, "keypoints"):
        projection.main(blind, photos, output, steps=1)
    assert not output.exists()
