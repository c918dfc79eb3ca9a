"""Training: losses against the public release's values, exact pairs, a run that resumes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.geometry.homographies import (
    HomographyOptions,
    homography_from_points,
    pixel_grid,
    transform,
    warp,
)
from samfeat_hloc.teachers import teach
from samfeat_hloc.teachers.registry import TeacherOptions
from samfeat_hloc.training import ablation, ablation_tables, corners, losses, trainer
from samfeat_hloc.training.data import open_data
from samfeat_hloc.training.homography_pairs import make_pairs
from samfeat_hloc.training.pairs import PairOptions
from samfeat_hloc.training.photos import PhotoSet
from samfeat_hloc.training.recipe import SHIPPED, NetworkOptions, Recipe, read_recipe
from samfeat_hloc.training.trainer import learning_rate_at, train

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = CONFIGS / "homographies.yaml"


def test_losses_equal_the_releases(shared: Path) -> None:
    folder = shared / "reference" / "samfeat_official"
    given = {k: torch.from_numpy(v) for k, v in np.load(folder / "losses_inputs.npz").items()}
    expected = json.loads((folder / "losses_values.json").read_text())
    triplet = losses.triplet_loss(
        given["desc0"], given["desc1"], given["att0"], given["att1"], given["valid"],
        given["not_search"],
    )  # fmt: skip
    detection = losses.detection_loss(given["det_logits"], given["det_gt"], given["det_mask"])
    edge = losses.edge_loss(given["edge_pred"], given["edge_gt"] / 255)
    assert triplet.item() == pytest.approx(expected["descriptor_T14"], abs=1e-4)
    assert detection.item() == pytest.approx(expected["detection_w200"], abs=1e-4)
    assert edge.item() == pytest.approx(expected["edge"], abs=1e-4)
    sides = [
        losses.wsc_loss(given[f"desc{i}"], given[f"att{i}"], given[f"group{i}"].squeeze(-1),
                        given["not_search"])
        for i in (0, 1)
    ]  # fmt: skip
    relation = losses.psrd_loss(given["student"], given["teacher"])
    assert (sides[0] + sides[1]).item() / 2 == pytest.approx(expected["wsc_T5_m007"], abs=1e-4)
    assert relation.item() == pytest.approx(expected["asrd"], abs=1e-4)


def test_relation_losses_by_hand() -> None:
    # Three places; the student calls the first two the same, the teacher none.
    student = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])[None, :, None]
    teacher = torch.eye(3)[None, :, None]
    assert losses.psrd_loss(student, teacher).item() == pytest.approx(2 / 9)
    attention = torch.tensor([2.0, 1.0, 0.0])[None, None, None]
    weighted = losses.asrd_loss(student, teacher, attention)
    assert weighted.item() == pytest.approx(2 * 2 * 1 / 9)  # weights of mean 1
    assert losses.asrd_loss(student, teacher, torch.ones(1, 1, 1, 3)).item() == pytest.approx(2 / 9)
    # An image without a teacher does not count.
    twice = torch.cat([student, student]), torch.cat([teacher, 1 - teacher])
    assert losses.psrd_loss(*twice, torch.tensor([1, 0])).item() == pytest.approx(2 / 9)
    assert losses.psrd_loss(*twice, torch.tensor([0, 0])).item() == 0


def test_wsc_margin_form_by_hand() -> None:
    # Points of group 7: the first two alike, nearer than M; one of group 8, one of none.
    descriptors = torch.eye(4)[None, [0, 0, 1, 2]]
    attention, groups = torch.ones(1, 4, 1), torch.tensor([[7, 7, 8, -1]])
    loss = losses.wsc_margin_loss(descriptors, attention, groups, torch.eye(4)[None])
    # Point 2 is alone in its group and does not count.
    expected = np.log1p(np.exp((0.07 - np.sqrt(2)) / 5))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    nothing = torch.full((1, 4), -1)
    assert losses.wsc_margin_loss(descriptors, attention, nothing, torch.eye(4)[None]).item() == 0


def test_position_loss_knows_the_place() -> None:
    place = torch.tensor([[[10.25, 20.5]]])
    here = corners.splat(place, torch.ones(1, 1), 40)
    logits = (here + 1e-6).log()
    right = losses.position_loss(logits, place, torch.ones(1, 1))
    entropy = -(here[here > 0] * here[here > 0].log()).sum()
    assert right.item() == pytest.approx(entropy.item(), abs=5e-3)
    wrong = losses.position_loss(logits, place + torch.tensor([1.0, 0.0]), torch.ones(1, 1))
    assert wrong > right + 1
    assert losses.position_loss(logits, place, torch.zeros(1, 1)).item() == 0


def test_matching_loss_by_hand() -> None:
    # Two pairs of two points, all orthogonal but one that is confused across images.
    descriptors = torch.eye(4).view(2, 2, 4)
    everything = torch.ones(2, 2)
    diagonal = torch.eye(2).expand(2, 2, 2)
    loss = losses.matching_loss(descriptors, descriptors, everything, diagonal, temperature=1.0)
    e = float(np.e)
    assert loss.item() == pytest.approx(-np.log(e / (e + 3)), abs=1e-5)
    # A point that is not valid is nobody's negative and has no loss.
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = losses.matching_loss(descriptors, descriptors, valid, diagonal, temperature=1.0)
    assert loss.item() == pytest.approx(-np.log(e / (e + 2)), abs=1e-5)
    # Neighbours within the not-search radius are no negatives either.
    all_near = torch.ones(2, 2, 2)
    loss = losses.matching_loss(descriptors, descriptors, everything, all_near, temperature=1.0)
    assert loss.item() == pytest.approx(-np.log(e / (e + 2)), abs=1e-5)


def test_homography_from_points_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    source = np.array([[0, 0], [99, 0], [99, 99], [0, 99]], np.float32)
    target = source + rng.uniform(-20, 20, (4, 2)).astype(np.float32)
    expected = cv2.getPerspectiveTransform(source, target)
    found = homography_from_points(torch.from_numpy(source)[None], torch.from_numpy(target)[None])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)


def test_warp_shows_what_the_matrix_says() -> None:
    ramp = pixel_grid(64, 80).view(64, 80, 2).permute(2, 0, 1)  # a pixel holds its own xy
    photo = torch.cat([ramp, torch.zeros(1, 64, 80)])[None]
    matrix = torch.tensor([[[0.9, 0.1, 5.0], [-0.1, 0.8, 9.0], [0.0005, 0.0, 1.0]]])
    view, inside = warp(photo, torch.tensor([[80.0, 64.0]]), matrix, 48)
    expected = transform(matrix, pixel_grid(48, 48)[None])[0].T.view(2, 48, 48)
    seen = inside[0] > 0
    assert seen.float().mean() > 0.5
    assert float((view[0, :2] - expected).abs()[:, seen].max()) < 0.02


@pytest.fixture(scope="module")
def photos() -> PhotoSet:
    """Random textures with hard edges, of different sizes."""
    rng = np.random.default_rng(1)
    canvases = np.zeros((4, 240, 240, 3), np.uint8)
    sizes = np.array([[240, 200], [210, 240], [240, 240], [220, 220]])
    for canvas, (width, height) in zip(canvases, sizes, strict=True):
        for _ in range(120):
            x, y = (int(v) for v in rng.integers(0, [width, height]))
            w, h = (int(v) for v in rng.integers(4, 40, 2))
            colour = tuple(int(c) for c in rng.integers(0, 255, 3))
            cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
        canvas[height:] = 0
        canvas[:, width:] = 0
    return PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), torch.from_numpy(sizes))


def test_pairs_correspond(photos: PhotoSet) -> None:
    generator = torch.Generator().manual_seed(5)
    options = PairOptions(crop=96, points=64, keypoints=64, night=0.0)
    batch = make_pairs(photos, 8, options, HomographyOptions(), generator)
    assert batch.valid.mean() > 0.9
    moved = transform(batch.matrix01, batch.points0)
    assert float(((moved - batch.points1) * batch.valid[..., None]).abs().max()) < 1e-3

    # Corresponding places look alike: relighting changes them far less than another place does.
    def grey_at(images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        grid = (2 * points[:, :, None] + 1) / 96 - 1
        blurred = corners.gaussian_blur(images.mean(1, keepdim=True), 1.5)
        found = torch.nn.functional.grid_sample(blurred, grid, align_corners=False)[:, 0, :, 0]
        return (found - found.mean(1, keepdim=True)) / found.std(1, keepdim=True)

    first, second = grey_at(batch.image0, batch.points0), grey_at(batch.image1, batch.points1)
    valid = batch.valid > 0
    right = (first - second)[valid].abs().mean()
    wrong = (first - second.roll(1, dims=1))[valid].abs().mean()
    assert right < 0.5 * wrong
    # Labels lie where both views are seen, in equal number.
    assert float(batch.labels0.sum()) == pytest.approx(float(batch.labels1.sum()), rel=0.02)


def test_labels_keep_the_fraction_of_a_pixel() -> None:
    labels = corners.splat(torch.tensor([[[10.25, 20.5]]]), torch.ones(1, 1), 40)[0]
    y, x = torch.nonzero(labels, as_tuple=True)
    weights = labels[y, x]
    assert float((x * weights).sum() / weights.sum()) == pytest.approx(10.25)
    assert float((y * weights).sum() / weights.sum()) == pytest.approx(20.5)


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory: pytest.TempPathFactory, photos: PhotoSet) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(26):
        canvas = photos.canvases[index % 4].permute(1, 2, 0).numpy()
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.roll(canvas, index * 7, axis=1))
    return folder


def overrides(folder: Path, output: Path, steps: int) -> list[str]:
    return [
        f"data.images={folder}", f"output={output}", f"train.steps={steps}", "train.batch=2",
        "train.log_every=1", "train.save_every=4", "train.validate_every=100", "train.warmup=1",
        "pairs.crop=64", "pairs.points=32", "pairs.keypoints=32",
    ]  # fmt: skip


def test_a_resumed_run_is_the_uninterrupted_one(photo_folder: Path, tmp_path: Path) -> None:
    whole = train(read_recipe(RECIPE, overrides(photo_folder, tmp_path / "whole", 8)))

    class Stop(Exception):
        pass

    def stop_at(step: int):  # type: ignore[no-untyped-def]
        def wrapped(at: int, loop):  # type: ignore[no-untyped-def]
            if at == step:
                raise Stop
            return learning_rate_at(at, loop)

        return wrapped

    arguments = overrides(photo_folder, tmp_path / "resumed", 8)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr("samfeat_hloc.training.trainer.learning_rate_at", stop_at(6))
        train(read_recipe(RECIPE, arguments))
    resumed = train(read_recipe(RECIPE, arguments))
    first, second = (SAMFeat.from_pretrained(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    records = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 8
    assert "mma@3" in records[-1]


def test_a_run_can_start_from_a_checkpoint(photo_folder: Path, tmp_path: Path) -> None:
    first = train(read_recipe(RECIPE, overrides(photo_folder, tmp_path / "first", 2)))
    arguments = [*overrides(photo_folder, tmp_path / "second", 1), f"start_from={first}"]
    second = train(read_recipe(RECIPE, [*arguments, "train.learning_rate=0.0"]))
    states = [SAMFeat.from_pretrained(path).state_dict() for path in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_loss_falls(photo_folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(RECIPE, overrides(photo_folder, tmp_path / "run", 30))
    train(recipe)
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    first = sum(r["detection"] + r["matching"] for r in records[:5])
    last = sum(r["detection"] + r["matching"] for r in records[-5:])
    assert last < 0.9 * first


@pytest.fixture(scope="module")
def cache(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage")
    path = tmp_path_factory.mktemp("teacher") / "regions.h5"
    command = [
        "teach",
        "--images",
        str(photo_folder),
        "--teacher",
        "regions",
        "--output",
        str(path),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return path


SMALL = [
    "train.log_every=1", "train.save_every=50", "train.validate_every=50", "train.warmup=1",
    "train.batch=2", "pairs.crop=64", "pairs.points=48", "pairs.keypoints=32", "train.decay=0.1",
]  # fmt: skip


def mean_losses(run: Path) -> list[dict[str, float]]:
    """Means of the losses over the first and the last third of a run."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    third = len(records) // 3
    names = [n for n in ("detection", "matching", "triplet", "asrd", "wsc", "edge")
             if n in records[0]]  # fmt: skip
    return [{n: float(np.mean([r[n] for r in part])) for n in names}
            for part in (records[:third], records[-third:])]  # fmt: skip


def test_the_papers_recipe_with_a_teacher(photo_folder: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        *SMALL, f"data.images={photo_folder}", f"data.teacher={cache}", f"output={run}",
        "train.steps=24", "train.keep=1", "pairs.too_close=8", "train.clip=5",
    ]  # fmt: skip
    path = train(read_recipe(CONFIGS / "samfeat.yaml", arguments))
    first, last = mean_losses(run)
    assert set(first) == {"detection", "triplet", "asrd", "wsc", "edge"}
    assert sum(last.values()) < sum(first.values())
    assert last["asrd"] < first["asrd"]
    assert "regions" in SAMFeat.from_pretrained(path).metadata["teacher"]
    if importlib.util.find_spec("tensorboard"):
        assert list((run / "tensorboard").glob("events.*"))
    kept = sorted(p.name for p in run.glob("*.safetensors"))
    assert kept == ["best.safetensors", "samfeat.safetensors", "step-0000024.safetensors"]


def test_epochs_are_of_the_pairs_that_are_found(photo_folder: Path, tmp_path: Path) -> None:
    """The paper's 30 epochs were once written as 300,000 steps, of no known number of pairs."""
    paper = read_recipe(CONFIGS / "samfeat.yaml", ["data.mtldesc=x"])
    assert paper.train.epochs == 30
    chosen = read_recipe(CONFIGS / "samfeat.yaml", ["data.mtldesc=x", "train.steps=7"])
    assert chosen.train.epochs is None and chosen.train.steps == 7  # what is given counts
    with refused(problem=("train.epochs", "0")):
        read_recipe(RECIPE, ["data.images=x", "train.epochs=0"])
    given = [*overrides(photo_folder, tmp_path, 1)[:2], "train.epochs=2", "train.batch=8",
             "train.log_every=1", "train.save_every=50", "train.validate_every=50",
             "pairs.crop=64", "pairs.points=16", "pairs.keypoints=16"]  # fmt: skip
    train(read_recipe(RECIPE, given))
    photos = len(list(photo_folder.iterdir()))
    pairs = photos - photos // 25
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2 * -(-pairs // 8)


def test_averaged_weights_resume_too(photo_folder: Path, tmp_path: Path) -> None:
    extra = ["train.ema=0.9", "train.schedule=cosine", *overrides(photo_folder, tmp_path / "a", 4)]
    whole = train(read_recipe(RECIPE, extra))
    extra[-1:] = [extra[-1], f"output={tmp_path / 'b'}", "train.save_every=2"]
    train(read_recipe(RECIPE, [*extra, "train.steps=2", "train.decay=0.5"]))
    # Prolonged: the first two steps had another schedule, so only the state's contents count.
    state = torch.load(tmp_path / "b" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert {f"module.{name}" for name in state["model"]} < set(state["averaged"])
    newest = SAMFeat.from_pretrained(whole).state_dict()
    trained = torch.load(tmp_path / "a" / "state.pt", weights_only=True)["model"]
    assert not torch.equal(newest["edge.weight"], trained["edge.weight"])


def test_two_processes_train_as_one(photo_folder: Path, tmp_path: Path) -> None:
    """torchrun on two processes: one checkpoint, of the average of both gradients."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29731",
        "-m", "samfeat_hloc", "train", "--recipe", str(RECIPE),
        *overrides(photo_folder, tmp_path / "run", 2),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    training = SAMFeat.from_pretrained(tmp_path / "run/samfeat.safetensors").metadata
    assert training["pairs"] == 2 * 2 * 2  # steps, pairs, processes


def test_photos_with_a_teacher_and_photos_without(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """data.mix.taught: the teacher for the photos that have one, none for the rest."""
    maps = tmp_path / "maps"
    maps.mkdir()
    for index in range(0, 24, 2):
        halves = np.zeros((40, 60), np.uint8)
        halves[:, 30:] = 1
        cv2.imwrite(str(maps / f"{index:02d}_0.png"), halves)
        cv2.imwrite(str(maps / f"{index:02d}_1.png"), halves[:, ::-1])
    people = tmp_path / "people.h5"
    teach.main(photo_folder, people, teacher="labels", options=TeacherOptions(label_dir=maps),
               device="cpu", skip_unlabelled=True)  # fmt: skip

    def taught(*mix: str) -> list[list[float]]:
        arguments = [
            *SMALL, f"data.images={photo_folder}", f"data.teacher={people}",
            f"output={tmp_path / 'run'}", *mix,
        ]  # fmt: skip
        recipe = read_recipe(RECIPE, arguments)
        tmp_path.joinpath("run").mkdir(exist_ok=True)
        source = open_data(recipe, torch.device("cpu")).source
        batches = [
            source.batch(4, recipe.pairs, torch.Generator().manual_seed(s)) for s in range(8)
        ]
        return [batch.taught.tolist() for batch in batches]

    assert all(batch == [1] * 4 for batch in taught("data.mix.taught=1", "data.mix.homographies=0"))
    assert all(batch == [0] * 4 for batch in taught("data.mix.taught=0"))
    both = taught("data.mix.taught=1")
    assert {tuple(batch) for batch in both} == {(1.0,) * 4, (0.0,) * 4}
    assert "photos; the others" not in caplog.text  # as the recipe has it
    assert {value for batch in taught() for value in batch} == {0, 1}  # drawn alike
    assert "it knows 12 of 25 photos" in caplog.text
    # Without the teacher's edges a pair has those of its images, and all else of the teacher.
    recipe = read_recipe(RECIPE, [
        *SMALL, f"data.images={photo_folder}", f"data.teacher={people}",
        f"output={tmp_path / 'run'}", "data.mix.taught=1", "data.mix.homographies=0",
    ])  # fmt: skip
    source = open_data(recipe, torch.device("cpu")).source
    with_edges, without, untaught = (
        s.batch(2, replace(recipe.pairs, taught_edges=edges), torch.Generator().manual_seed(5))
        for s, edges in ((source, True), (source, False), (replace(source, teacher=None), True))
    )
    assert torch.equal(without.edges0, untaught.edges0)
    assert not torch.equal(with_edges.edges0, untaught.edges0)
    assert torch.equal(with_edges.groups0, without.groups0) and (without.groups0 >= 0).any()
    with pytest.raises(SamfeatError, match=r"data\.mix\.taught: 1\.0 is not possible"):
        read_recipe(RECIPE, ["data.images=x", "data.mix.taught=1"])
    for index in range(26):
        cv2.imwrite(str(maps / f"{index:02d}_0.png"), halves)
    teach.main(photo_folder, people, teacher="labels", options=TeacherOptions(label_dir=maps),
               device="cpu", overwrite=True)  # fmt: skip
    with pytest.raises(SamfeatError, match=r"all photos.*data\.mix\.homographies=0"):
        taught("data.mix.taught=1")


def test_arms_of_the_ablation() -> None:
    recipe = read_recipe(RECIPE, ["data.images=x", "data.teacher=y", "losses.asrd=0.5"])
    for arm, kind, edge, needing in (
        ("baseline", "none", 0, []),
        ("+PSRD", "none", 0, ["psrd"]),
        ("+EAG pixels", "pixels", 1, []),
        ("+edges", "none", 1, []),
        ("all", "pixels", 1, ["asrd", "wsc_margin"]),
        ("all, release", "rows", 1, ["psrd", "wsc"]),
    ):
        chosen = ablation.variant(recipe, arm, 3)
        assert chosen.network.edge_attention == kind and chosen.losses.edge == edge
        assert chosen.losses.needs_teacher() == needing and chosen.train.seed == 3
    assert ablation.variant(recipe, "+ASRD", 1).losses.asrd == 0.5
    assert ablation.variant(recipe, "+edges", 1).pairs.taught_edges
    gradients = ablation.variant(recipe, "+gradients", 1)
    assert gradients.losses.edge == 1 and not gradients.pairs.taught_edges
    assert ablation.variant(recipe, "all, release", 2).output.name == "all-release-2"
    assert len({ablation.file_name(arm) for arm in ablation.ARMS}) == len(ablation.ARMS)


def test_ablation(
    photo_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = tmp_path / "pairs"
    (measured / "v_a").mkdir(parents=True)
    photo = sorted(photo_folder.iterdir())[0]
    for number in (1, 2):
        (measured / f"v_a/{number}{photo.suffix}").write_bytes(photo.read_bytes())
    np.savetxt(measured / "v_a/H_1_2", np.eye(3))
    results = tmp_path / "results"
    command = [
        "ablate", "--config", str(RECIPE), *SMALL, f"data.images={photo_folder}",
        f"data.teacher={cache}", f"output={tmp_path / 'runs'}", "train.steps=2",
        "start_from=shipped", "--arm", "baseline", "--arm", "all", "--seeds", "2",
        "--measure", str(measured), "--results", str(results),
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in results.iterdir()) == [
        "all-1.json", "all-2.json", "baseline-1.json", "baseline-2.json"
    ]  # fmt: skip
    found = ablation.read_results(results)
    by = {(r["arm"], r["seed"]): r for r in found}
    run = by["all", 2]
    assert run["sets"]["pairs v"]["mma@3"] == 100  # a photo and itself
    assert run["sets"]["pairs v"]["right@3"] == run["sets"]["pairs v"]["matches"] > 100
    cost = run["cost"]
    assert cost["seconds"] > 0 and cost["memory"] > 50
    # Two runs side by side are slower by the clock, not by the processor's.
    assert cost["cpu_seconds"] > cost["forward"] * 0.5
    assert run["settings"]["losses"]["wsc_margin"] == 1
    assert run["weights_sha256"] != by["all", 1]["weights_sha256"]
    records = (tmp_path / "runs/all-2/log.jsonl").read_text().splitlines()
    validated = 100 * json.loads(records[-1])["mma@3"]
    assert run["sets"]["validation"]["mma@3"] == pytest.approx(validated)
    # What is done is not done again, on another machine without the runs either.
    monkeypatch.setattr(ablation, "_train_and_measure", None)
    moved = [word.replace(str(tmp_path / "runs"), str(tmp_path / "other")) for word in command]
    again = CliRunner().invoke(app, moved)
    assert again.exit_code == 0, again.output
    assert again.output.split("table:")[0] == done.output.split("table:")[0]
    other = CliRunner().invoke(app, [*moved, "pairs.night=0.1"])
    assert isinstance(other.exception, SamfeatError)
    assert "pairs.night: 0.35 then, 0.1 now" in str(other.exception)
    # Keys that came later have their defaults in results that were there before.
    earlier = json.loads((results / "all-2.json").read_text())
    del earlier["settings"]["pairs"]["taught_edges"], earlier["settings"]["posed"]
    (results / "all-2.json").write_text(json.dumps(earlier))
    again = CliRunner().invoke(app, moved)
    assert again.exit_code == 0, again.output
    (results / "all-1.json").write_text("{}")
    with pytest.raises(SamfeatError, match=r"all-1\.json: is no result"):
        ablation.read_results(results)


def test_gains_are_over_the_baseline_of_the_same_seed() -> None:
    def result(arm: str, seed: int, value: float) -> dict[str, object]:
        return {"arm": arm, "seed": seed, "sets": {"night": {"mma@3": value}}}

    results = [
        result("baseline", 1, 50), result("baseline", 2, 40), result("all", 1, 52),
        result("all", 2, 41), result("all", 3, 90), result("+WSC", 3, 90),
    ]  # fmt: skip
    lines = ablation_tables.gains(results, "mma@3").splitlines()
    assert lines[2:] == [
        "| baseline | 2 | 45.0 (40.0 to 50.0) |", "| all | 2 | +1.5 (+1.0 to +2.0) |"
    ]  # fmt: skip


def test_the_recipe_decides_which_parts_a_start_keeps() -> None:
    def parts(**network: bool) -> list[bool]:
        recipe = Recipe(output=Path("x"), start_from=Path(SHIPPED))
        recipe.network = NetworkOptions(**network)
        model = trainer._first_weights(recipe)
        shipped = SAMFeat.from_pretrained(device="cpu").state_dict()
        kept = model.state_dict()
        assert all(torch.equal(kept[name], shipped[name]) for name in kept if name in shipped)
        # A part that the start lacks adds nothing at first.
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        start = SAMFeat.from_pretrained(device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(model(image).descriptors, start(image).descriptors)
        return [model.edge_attention is not None, model.context is not None]

    config = SAMFeat.from_pretrained(device="cpu").config
    assert parts() == [config["edge_attention"], config.get("context", False)]
    assert parts(edge_attention=True, context=False) == [True, False]
    assert parts(edge_attention=False, context=True) == [False, True]


def test_recipes_are_checked_before_the_first_step(photo_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: [1, 2\n")
    cases: list[tuple[Path, list[str], tuple[str, ...]]] = [
        (tmp_path / "absent.yaml", [], ("no such",)),
        (broken, [], ()),
        (RECIPE, [], ("data.images",)),
        (RECIPE, ["data.images=x", "train.stepz=3"], ("stepz",)),
        (RECIPE, ["data.images=x", "train.steps=many"], ("steps",)),
        (RECIPE, ["data.images=x", "train.steps=0"], ("train.steps", "0")),
        (RECIPE, ["data.images=x", "train.schedule=steep"], ("train.schedule", "steep")),
        (RECIPE, ["data.images=x", "train.precision=half"], ("train.precision", "half")),
        (RECIPE, ["data.images=x", "homographies.zoom=[1.2,0.7]"], ("homographies.zoom", "1.2")),
        (RECIPE, ["data.images=x", "posed.scale=0.5"], ("posed.scale", "0.5")),
        (RECIPE, ["data.images=x", "data.mix.homographies=-1"], ("data.mix.homographies",)),
        (RECIPE, ["data.images=x", "losses.detection=1", "data.depth=y"], ("data.model",)),
        (RECIPE, ["data.images=x", "pairs.crop=100"], ("pairs.crop", "100")),
        (RECIPE, ["data.model=x"], ("data.images",)),
        (CONFIGS / "samfeat.yaml", ["data.images=x"], ("losses.asrd",)),
    ]
    for path, extra, words in cases:
        with refused() as caught:
            read_recipe(path, extra)
        assert path.name in str(caught.value)
        assert all(word in str(caught.value) for word in words)
    with refused("nowhere"):
        train(read_recipe(RECIPE, overrides(tmp_path / "nowhere", tmp_path / "out", 2)))


def test_a_loss_that_is_not_a_number_stops_the_run(photo_folder: Path, tmp_path: Path) -> None:
    arguments = [*overrides(photo_folder, tmp_path / "run", 3), "losses.edge=.nan"]
    with refused(problem="not a number"):
        train(read_recipe(RECIPE, arguments))
    saved = torch.load(tmp_path / "run" / "nan-batch.pt", weights_only=True)
    assert saved["image0"].shape == (2, 3, 64, 64)
