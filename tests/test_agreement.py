"""Agreement of the detector with itself, and training of the detection layers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc.feature import checkpoints
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.training.agreement import REACH, agreement_loss, own_peaks, score_loss
from samfeat_hloc.training.losses import kept_loss
from samfeat_hloc.training.recipe import read_recipe
from samfeat_hloc.training.trainer import DETECTION_LAYERS, train

AGREE = Path(__file__).parents[1] / "configs" / "agree.yaml"
POLISH = AGREE.with_name("polish.yaml")
SIDE = 48
PLACES = torch.tensor([[10.0, 12.0], [30.0, 20.0], [17.0, 36.0]])
SEEN = torch.ones(1, SIDE, SIDE)


def heatmap(places: torch.Tensor) -> torch.Tensor:
    """Logits (1, SIDE, SIDE) whose peaks are at places (N, 2)."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).float()
    squared = (pixels[None] - places[:, None, None]).square().sum(-1)
    return 4 * torch.exp(-squared / 3).sum(0)[None] - 3


def shifted(dx: float, dy: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda points: points + torch.tensor([dx, dy])


def test_own_peaks_are_where_the_heatmap_says() -> None:
    moved = PLACES + torch.tensor([0.3, -0.2])
    places, found = own_peaks(heatmap(moved), SEEN, 3)
    assert found.all()
    order = torch.cdist(places[0], moved).argmin(0)
    torch.testing.assert_close(places[0][order], moved, atol=0.12, rtol=0)
    hidden = SEEN.clone()
    hidden[0, :16] = 0  # the first of them is not in the other view
    _, found = own_peaks(heatmap(PLACES), hidden, 2)
    assert found.all()
    places, _ = own_peaks(heatmap(PLACES), hidden, 2)
    assert (places[0, :, 1] > 16).all()


def test_agreement_asks_for_the_same_place_in_both_views() -> None:
    shift = torch.tensor([3.0, 2.0])

    def loss(off: float, logits0: torch.Tensor | None = None) -> torch.Tensor:
        view1 = heatmap(PLACES + shift + torch.tensor([off, 0.0]))
        view0 = heatmap(PLACES) if logits0 is None else logits0
        moves = shifted(3, 2), shifted(-3, -2)
        return agreement_loss(torch.cat([view0, view1]), SEEN, SEEN, moves, 3)

    apart = [loss(off).item() for off in (0.0, 0.5, 1.0, 2.0)]
    assert apart == sorted(apart)
    assert apart[2] - apart[0] > 1  # a pixel of distance, and a label a pixel beside the peak
    assert loss(REACH + 1).item() == 0  # not one place
    # Its gradient raises the first view's heatmap on the side on which the other's peak is.
    view0 = heatmap(PLACES).requires_grad_()
    loss(1.0, view0).backward()
    assert view0.grad is not None
    x, y = (int(v) for v in PLACES[1])
    assert view0.grad[0, y, x + 1] < 0 < view0.grad[0, y, x - 1]


def test_scores_stay_while_peaks_move() -> None:
    before = heatmap(PLACES)
    assert score_loss(before, before, SEEN).item() == 0
    moved = score_loss(heatmap(PLACES + 0.5), before, SEEN).item()
    lower = score_loss(before - 1, before, SEEN).item()
    assert lower == pytest.approx(0.5)  # smooth L1 of 1
    assert moved < 0.2 * lower
    assert score_loss(before - 1, before, 0 * SEEN).item() == 0


def test_a_grown_head_begins_as_nothing_and_counts_once_trained(tmp_path: Path) -> None:
    shipped = SAMFeat.from_pretrained(device="cpu")
    plain = SAMFeat(**{**shipped.config, "fine_detection": False}).eval()
    plain.load_state_dict(shipped.state_dict(), strict=False)
    grown = SAMFeat(**{**plain.config, "fine_detection": True}).eval()
    grown.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(grown(image).keypoint_logits, plain(image).keypoint_logits)
        assert grown.detect_fine is not None
        grown.detect_fine.score.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        more = grown(image).keypoint_logits - plain(image).keypoint_logits
    # Four logits a place, row by row.
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(24, 40).expand(2, 1, -1, -1)
    torch.testing.assert_close(more, expected, atol=1e-4, rtol=0)
    # What is trained, on levels kept whole, is what extraction computes, in strips of them.
    for parameter in grown.detect_fine.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tall = torch.rand(1, 3, 1200, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        whole = grown.detect_in(grown.see(tall).levels)
        torch.testing.assert_close(grown.encode(tall).keypoint_logits, whole, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(26):  # each 25th is held back
        picture = cv2.resize(random.integers(0, 255, (14, 18, 3), np.uint8), (180, 140))
        cv2.imwrite(str(folder / f"{number:02}.png"), picture)
    return folder


def arguments(photos: Path, output: Path, *more: str) -> list[str]:
    return [
        f"data.images={photos}", f"output={output}", "train.steps=4", "train.batch=2",
        "train.log_every=1", "train.save_every=2", "train.validate_every=100", "train.warmup=1",
        "train.ema=0", "train.keep=1", "pairs.crop=64", "pairs.keypoints=32", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("scenes", [0, 1])
def test_detection_trains_alone(photos: Path, tmp_path: Path, scenes: int) -> None:
    more = ["losses.scores=1", "pairs.sensor=0.5"]
    more += [f"data.mix.scenes={scenes}", f"data.mix.homographies={1 - scenes}"]
    path = train(read_recipe(AGREE, arguments(photos, tmp_path / "run", *more)), device="cpu")
    before = SAMFeat.from_pretrained(device="cpu")
    after = SAMFeat.from_pretrained(path, device="cpu")
    old, new = before.state_dict(), after.state_dict()
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == set(DETECTION_LAYERS) & {name.split(".")[0] for name in old}
    # What is known of its descriptors stays known.
    kept = {k: v for k, v in before.metadata.items() if k not in ("date", "detection")}
    assert "projected" in kept
    assert kept.items() <= after.metadata.items()
    assert after.metadata["detection"]["steps"] == 4
    assert (tmp_path / "run" / "step-0000004.safetensors").is_file()
    picture = cv2.imread(str(photos / "00.png"))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None, :, :128, :176].float() / 127.5 - 1
    keypoints = torch.tensor([[20.3, 30.8], [100.0, 60.5]])
    with torch.no_grad():
        described = [
            m.describe_at(m.encode(image.contiguous()).features, keypoints) for m in (before, after)
        ]
    assert torch.equal(*described), "descriptors at the same places are bit for bit the same"
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"agreement", "scores", "detection"} < records[-1].keys()
    assert "matching" not in records[-1]


def test_all_layers_train_and_descriptors_are_held(photos: Path, tmp_path: Path) -> None:
    options = arguments(photos, tmp_path / "run", "pairs.points=16", "train.learning_rate=0.001")
    after = SAMFeat.from_pretrained(train(read_recipe(POLISH, options), device="cpu"), device="cpu")
    old, new = SAMFeat.from_pretrained(device="cpu").state_dict(), after.state_dict()
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved >= {"backbone", "describe", "detect", "detect_share"}
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert records[0]["scores"] < 1e-3, "nothing has moved yet"
    assert 0 < records[0]["kept"] < records[-1]["kept"] < 0.5
    assert {"agreement", "detection"} < records[-1].keys()


def test_descriptors_are_held_to_the_first_views_at_the_start() -> None:
    random = torch.Generator().manual_seed(0)
    before0 = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=random), dim=-1)
    valid = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    assert kept_loss(before0, before0, before0, valid) == pytest.approx(0, abs=1e-6)
    assert kept_loss(before0, -before0, before0, valid) == pytest.approx(1)
    other = torch.where(valid[..., None] > 0, before0, -before0)
    assert kept_loss(other, other, before0, valid) == pytest.approx(0, abs=1e-6)
    assert kept_loss(before0, before0, before0, 0 * valid) == 0


def test_the_shipped_weights_were_made_so() -> None:
    shipped = checkpoints.read_checkpoint(checkpoints.SHIPPED)
    assert "fine_detection" not in shipped.config
    assert shipped.metadata["detection"]["pairs"] == 2800


def test_more_steps_on_a_batch_are_other_weights(photos: Path, tmp_path: Path) -> None:
    runs = []
    for name, reuse in (("one", 1), ("two", 2)):
        recipe = read_recipe(AGREE, arguments(photos, tmp_path / name, f"train.reuse={reuse}"))
        runs.append(train(recipe, device="cpu"))
    first, second = (SAMFeat.from_pretrained(path, device="cpu").state_dict() for path in runs)
    assert not torch.equal(first["detect_share"], second["detect_share"])


def test_what_cannot_be_trained_so_is_refused(photos: Path, tmp_path: Path) -> None:
    cases = [
        (["train.layers=heads"], "train.layers"),
        (["train.layers=all"], "train.reuse"),
        (
            ["train.layers=all", "train.reuse=1", "losses.scores=1", "start_from=null"],
            "losses.scores",
        ),
        (["losses.kept=1"], "losses.kept"),
        (["train.reuse=0"], "train.reuse"),
        (["losses.agreement=0", "losses.detection=0"], "train.layers"),
        (["data.synthetic=2"], "losses.agreement"),
    ]
    for more, key in cases:
        with refused(AGREE, key):
            read_recipe(AGREE, arguments(photos, tmp_path / "no", *more))
