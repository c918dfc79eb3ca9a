"""Every recipe learns from every teacher: a few steps on tiny crops, and the loss falls."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import posed_city
import pytest
import torch
from PIL import Image

from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.teachers import dinov2, teach
from samfeat_hloc.teachers.cache import TeacherCache
from samfeat_hloc.teachers.registry import TEACHERS, TeacherOptions
from samfeat_hloc.training.recipe import read_recipe
from samfeat_hloc.training.trainer import train

CONFIGS = Path(__file__).parents[1] / "configs"
NEEDS = {
    "regions": ["skimage"],
    "labels": [],
    "dinov2": ["skimage", "timm", "torchvision"],
    "sam": ["segment_anything", "torchvision"],
    "sam+dinov2": ["segment_anything", "timm", "torchvision"],
}
STEPS = 18
SMALL = [
    "losses.asrd=1", "losses.wsc=1", "losses.edge=1", "pairs.crop=64", "pairs.points=48",
    "pairs.keypoints=32", "pairs.too_close=8", f"train.steps={STEPS}",
    "train.batch=2", "train.warmup=1", "train.log_every=1", "train.save_every=50",
    "train.validate_every=50", "train.clip=5", "train.decay=0.1", "train.learning_rate=0.0007",
]  # fmt: skip


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of a street that overlap, their model, and label maps of them."""
    root = tmp_path_factory.mktemp("city")
    posed_city.write_model(root / "model", root / "all")
    (root / "photos").mkdir()
    (root / "maps").mkdir()
    content = posed_city.scene()
    for index in content.pairs[0]:
        name = content.images[index].name
        (root / "all" / name).rename(root / "photos" / name)
        groups = posed_city.views()[index].surface % 200
        Image.fromarray(groups.astype(np.uint8)).save(root / "maps" / name)
    return root


def weights(folder: Path, names: list[str]) -> dict[str, Path]:
    """Checkpoints of the packages' own classes with random weights; SAM's encoder has one layer
    of its twelve, so that it is a matter of seconds (the whole ViT-B: tests/test_teachers.py)."""
    found = {}
    torch.manual_seed(0)
    if "segment_anything" in names:
        from segment_anything import sam_model_registry

        found["sam"] = folder / "sam.pth"
        torch.save(sam_model_registry["vit_b"]().state_dict(), found["sam"])
    if "timm" in names:
        import timm

        found["dinov2"] = folder / "dinov2.pth"
        network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
        torch.save(network.state_dict(), found["dinov2"])
    return found


def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM's ViT-B with a single layer."""
    import segment_anything

    build = importlib.import_module("segment_anything.build_sam")

    def one_layer(checkpoint: str | None = None) -> torch.nn.Module:
        return build._build_sam(768, 1, 12, [0], checkpoint)

    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", one_layer)


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def taught(
    request: pytest.FixtureRequest, city: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The cache of a teacher that has seen the photos."""
    name = request.param
    missing = [p for p in NEEDS[name] if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (pip install samfeat_hloc[train])")
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(dinov2, "MOST_CELLS", 12)
        if "segment_anything" in NEEDS[name]:
            shallow(patch)
        files = weights(folder, NEEDS[name])
        options = TeacherOptions(
            weights=files.get("sam", files.get("dinov2")), dinov2_weights=files.get("dinov2"),
            label_dir=city / "maps", points_per_side=2,
            iou_threshold=-1e9, stability_threshold=-1.0,  # random weights find no good masks
        )  # fmt: skip
        teach.main(
            city / "photos", folder / "cache.h5", teacher=name, options=options, device="cpu"
        )
    cache = TeacherCache(folder / "cache.h5")
    assert cache.teacher == name and len(cache) == 2
    return folder / "cache.h5"


@pytest.mark.parametrize("recipe", ["samfeat", "homographies", "adapt"])
def test_the_loss_falls(recipe: str, taught: Path, city: Path, tmp_path: Path) -> None:
    arguments = [
        *SMALL, f"data.images={city / 'photos'}", f"data.validation={city / 'photos'}",
        f"data.teacher={taught}", f"output={tmp_path}", "start_from=null",
    ]  # fmt: skip
    if recipe == "adapt":
        arguments += [f"data.model={city / 'model'}", "train.ema=0"]
    path = train(read_recipe(CONFIGS / f"{recipe}.yaml", arguments))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(records) == STEPS
    losses = [n for n in ("detection", "triplet", "asrd", "wsc", "edge") if n in records[0]]
    assert len(losses) == 5
    third = STEPS // 3
    first, last = (
        sum(float(np.mean([r[n] for r in part])) for n in losses)
        for part in (records[:third], records[-third:])
    )
    assert last < first
    assert np.mean([r["asrd"] for r in records]) > 0
    assert TeacherCache(taught).teacher in SAMFeat.from_pretrained(path).metadata["teacher"]
