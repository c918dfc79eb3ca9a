"""The sources of pairs beside homographies: their formats, their mixture, one step on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import posed_city
import pytest
import torch
from refusals import refused

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.geometry.homographies import transform
from samfeat_hloc.teachers.cache import Taught
from samfeat_hloc.training import synthetic_pairs
from samfeat_hloc.training.megadepth import MegadepthSource
from samfeat_hloc.training.mtldesc import MtldescSource
from samfeat_hloc.training.pairs import PairBatch, PairOptions, PairSource
from samfeat_hloc.training.posed_pairs import PosedSource
from samfeat_hloc.training.recipe import LossOptions
from samfeat_hloc.training.sources import MixedSource, batches_ahead
from samfeat_hloc.training.synthetic_pairs import SyntheticSource
from samfeat_hloc.training.trainer import batch_losses

OPTIONS = PairOptions(crop=64, points=48, keypoints=32, night=0.5)
SIZE, SHIFT, POINTS = 80, np.array((6, -4)), 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def megadepth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene in D2-Net's layout; the second folder of images has no depth maps."""
    root = tmp_path_factory.mktemp("megadepth")
    scene = root / "Undistorted_SfM" / "0007"
    posed_city.write_model(scene / "sparse-txt", scene / "images")
    depths = root / "phoenix/S6/zl548/MegaDepth_v1/0007/dense0/depths"
    depths.mkdir(parents=True)
    for image in posed_city.scene().images:
        assert image.depth is not None
        with h5py.File(depths / f"{Path(image.name).stem}.h5", "w") as file:
            file["depth"] = image.depth()
    (root / "Undistorted_SfM" / "0008" / "images").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def mtldesc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs: the second photo is the first, moved by SHIFT; the last has no SAM file."""
    root = tmp_path_factory.mktemp("mtldesc")
    for part in ("image", "keypoint", "despoint", "sam"):
        (root / part).mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        noise = rng.integers(0, 256, (SIZE + 20, SIZE + 20)).astype(np.uint8)
        noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
        noise = cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
        first = noise[10 : 10 + SIZE, 10 : 10 + SIZE]
        x, y = 10 - SHIFT
        second = noise[y : y + SIZE, x : x + SIZE]
        cv2.imwrite(str(root / f"image/{number:07}.jpg"), np.hstack([first, second]),
                    [cv2.IMWRITE_JPEG_QUALITY, 98])  # fmt: skip
        xy0 = rng.integers(0, SIZE, (POINTS, 2))
        xy1 = xy0 + SHIFT
        valid = ((xy1 >= 0) & (xy1 < SIZE)).all(1)
        np.savez(
            root / f"keypoint/{number:07}.npz",
            points_0=xy0[:20, ::-1],
            points_1=xy1[valid][:17, ::-1],
        )
        scaled = [(2 * xy / (SIZE - 1) - 1)[:, None].astype(np.float32) for xy in (xy0, xy1)]
        np.savez(
            root / f"despoint/{number:07}.npz", desp_point1=scaled[0], desp_point2=scaled[1],
            valid_mask=valid, not_search_mask=np.eye(POINTS, dtype=bool),
        )  # fmt: skip
        if number < 4:
            category = np.c_[xy0, xy0[:, 0] // 20]
            edge = np.zeros((SIZE, SIZE), np.uint8)
            edge[30] = 255
            np.savez(
                root / f"sam/{number:07}.npz", SAM_out_cat=category, SAM_out_warped_cat=category,
                SAM_feature=rng.normal(size=(1, 16, 20, 20)).astype(np.float32),
                SAM_feature_warped=rng.normal(size=(1, 16, 20, 20)).astype(np.float32),
                SAM_edge=edge, SAM_edge_warped=edge,
            )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def sources(megadepth: Path, mtldesc: Path) -> dict[str, Callable[[], PairSource]]:
    model = megadepth / "Undistorted_SfM" / "0007"
    return {
        "map": lambda: PosedSource.open(model / "sparse-txt", model / "images"),
        "megadepth": lambda: MegadepthSource.open(megadepth, least_depth_bytes=0),
        "mtldesc": lambda: MtldescSource.open(mtldesc, homographies=0),
        "mtldesc under homographies": lambda: MtldescSource.open(mtldesc, homographies=1),
        "synthetic": lambda: SyntheticSource(PosedSource([posed_city.scene()])),
    }


@pytest.mark.parametrize(
    "name", ["map", "megadepth", "mtldesc", "mtldesc under homographies", "synthetic"]
)
def test_one_step_on_each_source(name: str, sources: dict[str, Callable[[], PairSource]]) -> None:
    source = sources[name]()
    batch = source.batch(2, OPTIONS, generator(3))
    assert batch.image0.shape == batch.image1.shape == (2, 3, 64, 64)
    assert 0 <= float(batch.image1.min()) <= float(batch.image1.max()) < 1.001
    assert batch.points0.shape == batch.points1.shape == (2, 48, 2)
    assert batch.too_close.shape == (2, 48, 48)
    assert batch.valid.sum() > 8
    assert float(batch.labels0.sum()) > 0
    torch.manual_seed(0)
    model = SAMFeat()
    losses = batch_losses(
        model(torch.cat([batch.image0, batch.image1]) * 2 - 1), batch, LossOptions()
    )
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    again = sources[name]().batch(2, OPTIONS, generator(3))
    assert torch.equal(batch.image1, again.image1)
    assert torch.equal(batch.points1, again.points1)


def test_mtldescs_points_labels_and_sams_files(
    mtldesc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = MtldescSource.open(mtldesc, homographies=0)
    assert "4 of 5 pairs" in caplog.text
    batch = source.batch(24, replace(OPTIONS, night=0.0), generator(1))
    valid = batch.valid > 0
    # descriptor points move by SHIFT and by the two cuts' corners, alike for all of a pair
    moved = batch.points1 - batch.points0
    for row in range(24):
        spread = moved[row][valid[row]]
        assert len(spread) > 5
        assert float((spread - spread[0]).abs().max()) < 1e-3
    grid = (
        (2 * batch.points0[:, :, None] + 1) / 64 - 1,
        (2 * batch.points1[:, :, None] + 1) / 64 - 1,
    )
    grey = [
        torch.nn.functional.grid_sample(i.mean(1, keepdim=True), g, align_corners=False)[:, 0, :, 0]
        for i, g in zip((batch.image0, batch.image1), grid, strict=True)
    ]
    enough = [r for r in range(24) if valid[r].sum() > 12]
    similar = [np.corrcoef(grey[0][r][valid[r]], grey[1][r][valid[r]])[0, 1] for r in enough]
    assert np.median(similar) > 0.7
    # labels are whole pixels: detection is taught everywhere, a place within the pixel nowhere
    assert set(batch.labels0.unique().tolist()) == {0.0, 1.0}
    assert float(batch.valid0.min()) == 1
    assert float(batch.present.max()) == 0
    # four of five pairs have SAM's files
    assert 0.4 < float(batch.taught.mean()) < 1
    assert batch.teacher0 is not None
    assert batch.teacher0.shape == (24, 16, 8, 8)
    taught = batch.taught > 0
    assert bool((batch.groups0[~taught] == -1).all())
    assert torch.equal(batch.groups0, batch.groups1)
    assert bool((batch.groups0[taught] >= 0)[valid[taught]].all())
    rows = batch.edges0[taught].sum(2)
    assert bool(((rows > 40).sum(1) == 1).any()), "the line that SAM's file has"
    enlarged = source.batch(2, PairOptions(crop=160, points=48, keypoints=32), generator(1))
    spread = (enlarged.points1 - enlarged.points0)[0][enlarged.valid[0] > 0]
    torch.testing.assert_close(spread, torch.tensor(2.0 * SHIFT).expand_as(spread).float())


def test_half_of_mtldescs_batches_are_homographies(mtldesc: Path) -> None:
    source = MtldescSource.open(mtldesc)
    batches = [source.batch(3, OPTIONS, generator(seed)) for seed in range(24)]
    moved = [batch for batch in batches if batch.matrix01 is not None]
    assert 6 <= len(moved) <= 18
    batch = moved[0]
    there = transform(batch.matrix01, batch.points0)
    error = (there - batch.points1).norm(dim=-1)[batch.valid > 0]
    assert float(error.max()) < 1e-3
    assert max(float(batch.taught.sum()) for batch in moved) > 0
    assert max(float(batch.labels0.sum()) for batch in moved) > 4


def test_megadepths_scenes(megadepth: Path, tmp_path: Path) -> None:
    class Teacher:
        def __contains__(self, name: object) -> bool:
            return name == "0007/images/0001.png"

        def read(self, name: str) -> Taught:
            content = posed_city.scene().images[1]
            assert content.taught is not None
            return content.taught()

    source = MegadepthSource.open(megadepth, teacher=Teacher(), least_depth_bytes=0)
    (scene,) = source._posed.scenes
    assert [image.taught is not None for image in scene.images] == [False, True, *[False] * 4]
    with refused("0008/sparse", "no such"):
        MegadepthSource.open(megadepth, scenes=["0008"])
    with refused(problem="2 scenes"):  # all files are too small
        MegadepthSource.open(megadepth, least_depth_bytes=10_000_000)
    (tmp_path / "scene_info").mkdir()
    with refused("Undistorted_SfM", "no such"):
        MegadepthSource.open(tmp_path)


def test_damaged_releases_are_refused_when_opened(mtldesc: Path, tmp_path: Path) -> None:
    with refused("image", "no such"):
        MtldescSource.open(tmp_path)
    for part in ("image", "keypoint", "despoint"):
        (tmp_path / part).mkdir()
    with refused("image", ".jpg"):
        MtldescSource.open(tmp_path)
    name = "0000000"
    for part, ending in (("image", "jpg"), ("keypoint", "npz")):
        data = (mtldesc / part / f"{name}.{ending}").read_bytes()
        (tmp_path / part / f"{name}.{ending}").write_bytes(data)
    with refused(f"despoint/{name}.npz", "1 of 1"):
        MtldescSource.open(tmp_path)
    np.savez(tmp_path / "despoint" / name, desp_point1=np.array([{}], dtype=object))
    with refused(f"despoint/{name}.npz", "desp_point1"):
        MtldescSource.open(tmp_path)
    (tmp_path / "despoint" / f"{name}.npz").write_bytes(b"PK\x03\x04")
    with refused(f"despoint/{name}.npz", ".npz"):
        MtldescSource.open(tmp_path)
    (tmp_path / "despoint" / f"{name}.npz").write_bytes(
        (mtldesc / "despoint" / f"{name}.npz").read_bytes()
    )
    assert MtldescSource.open(tmp_path).names == [name]
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam" / f"{name}.npy").write_bytes(b"")
    with refused("sam", ".npz", ".npy"):
        MtldescSource.open(tmp_path)


def test_synthetic_scenes_are_asked_for_sensibly(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("synthetic scenes", ("0", "pictures")):
        SyntheticSource.open(0, 0)
    asked = []

    def make(seed: int, *_: object, **__: object) -> object:
        asked.append(seed)
        return posed_city.scene()

    monkeypatch.setattr(synthetic_pairs, "make_scene", make)
    SyntheticSource.open(3, 5)
    assert asked == [5, 6, 7]
    with refused(problem="overlap"):
        synthetic_pairs.scene_of(posed_city.views()[:1])


@dataclass
class Counting:
    """A source whose batches say which source made them, from which state."""

    number: int
    fail: bool = False

    def batch(self, count: int, options: PairOptions, generator: torch.Generator) -> PairBatch:
        if self.fail:
            raise SamfeatError("photo.jpg", "broken")
        drawn = torch.rand((count,), generator=generator)
        return drawn + self.number  # type: ignore[return-value]


def test_sources_mix_by_weight() -> None:
    mixed = MixedSource([(Counting(0), 3), (Counting(10), 1), (Counting(20), 0)])
    values = [float(mixed.batch(1, OPTIONS, generator(seed))[0]) for seed in range(400)]
    shares = [np.mean([value // 10 == k for value in values]) for k in range(3)]
    assert shares[0] == pytest.approx(0.75, abs=0.06)
    assert shares[2] == 0
    assert values[7] == float(mixed.batch(1, OPTIONS, generator(7))[0])
    for weights in ([], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]):
        with refused(str(weights), "above 0"):
            MixedSource([(Counting(0), weight) for weight in weights])


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_made_ahead_are_the_same(ahead: int) -> None:
    source = PosedSource([posed_city.scene()])
    options = PairOptions(crop=32, points=16, keypoints=16)
    made = batches_ahead(source, 1, options, (generator(s) for s in range(4)), ahead=ahead)
    for seed, batch in enumerate(made):
        expected = source.batch(1, options, generator(seed))
        assert torch.equal(batch.image0, expected.image0)
        assert torch.equal(batch.points1, expected.points1)
    assert seed == 3
    broken = batches_ahead(Counting(0, fail=True), 1, options, [generator()], ahead=ahead)
    with refused("photo.jpg", "broken"):
        next(broken)
