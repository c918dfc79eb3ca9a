"""SAMFeat in glue-factory, and the LightGlue that comes out of it in hloc."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from refusals import error_line, refused

from samfeat_hloc import SAMFeat
from samfeat_hloc.feature.extraction import extract_tensors
from samfeat_hloc.feature.options import ExtractOptions
from samfeat_hloc.feature.stacked import extract_stacked
from samfeat_hloc.files.images import read_image
from samfeat_hloc.hloc_plugin import configurations, hloc_installed
from samfeat_hloc.hloc_plugin.lightglue_weights import EXTRACTOR, read_lightglue

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATIONS = ROOT / "samfeat_hloc" / "gluefactory"


def installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


needs_gluefactory = pytest.mark.skipif(
    not installed("gluefactory"), reason="glue-factory is not installed (on no package index)"
)
needs_lightglue = pytest.mark.skipif(
    not (hloc_installed() and installed("lightglue")),
    reason="hloc or LightGlue is not installed (they are on no package index)",
)


@pytest.fixture(scope="module")
def network() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def images(shared: Path) -> torch.Tensor:
    """Two photos (2, 3, 192, 256), the second with padding from column 208 and row 160 on."""
    paths = sorted((shared / "data/photos").glob("*.jpg"))[:2]
    stacked = np.stack([read_image(path)[-192:, :256] for path in paths])
    batch = torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255
    batch[1, :, 160:] = 0
    batch[1, :, :, 208:] = 0
    return batch


SIZES = torch.tensor([[256, 192], [208, 160]])


def test_padding_has_no_keypoints(network: SAMFeat, images: torch.Tensor) -> None:
    options = ExtractOptions(max_keypoints=100, detection_threshold=0.0)
    found = extract_stacked(network, images, options, sizes=SIZES)
    assert found.keypoints.shape == (2, 100, 2) and found.descriptors.shape == (2, 128, 100)
    for index, (width, height) in enumerate(SIZES.tolist()):
        alone = extract_tensors(network, images[index : index + 1, :, :height, :width], options)
        assert torch.equal(found.keypoints[index], alone.keypoints[0])
        assert torch.equal(found.scores[index], alone.scores[0])
        assert torch.equal(found.descriptors[index], alone.descriptors[0])
    ends = found.keypoints[1].amax(0)
    assert ends[0] < 207 and ends[1] < 159


def test_images_are_filled_up_with_described_places(network: SAMFeat, images: torch.Tensor) -> None:
    options = ExtractOptions(max_keypoints=2000, detection_threshold=0.9)
    with refused(problem="images with", mend="force_num_keypoints"):
        extract_stacked(network, images, options, sizes=SIZES)
    found = extract_stacked(network, images, options, sizes=SIZES, fill=True)
    assert found.counts.tolist() == [2000, 2000]
    for index, (width, height) in enumerate(SIZES.tolist()):
        view = images[index : index + 1, :, :height, :width]
        alone = extract_tensors(network, view, options)
        count = int(alone.counts)
        assert 0 < count < 2000
        assert torch.equal(found.keypoints[index, :count], alone.keypoints[0])
        assert (found.scores[index, :count] > 0).all() and (found.scores[index, count:] == 0).all()
        drawn = found.keypoints[index, count:]
        assert drawn.min() >= -0.5 and (drawn < torch.tensor([width, height])).all()
        assert len(drawn.unique(dim=0)) == len(drawn)
        with torch.inference_mode():
            features = network.encode(view * 2 - 1).features
            there = torch.nn.functional.normalize(network.describe_at(features, drawn), dim=1)
        assert torch.allclose(found.descriptors[index, :, count:].T, there, atol=0.05)
    layer = torch.nn.Linear(128, 1)  # as a matcher that is trained on them
    layer(found.descriptors.transpose(1, 2)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_what_cannot_be_stacked(network: SAMFeat, images: torch.Tensor) -> None:
    with refused("max_keypoints"):
        extract_stacked(network, images, ExtractOptions(max_keypoints=None), fill=True)
    with refused("scales"):
        extract_stacked(network, images, ExtractOptions(scales=(1.0, 0.5)))


@pytest.mark.parametrize("name", ["homography", "megadepth"])
def test_configurations_train_lightglue_on_samfeat(name: str) -> None:
    conf = OmegaConf.load(CONFIGURATIONS / f"samfeat+lightglue_{name}.yaml")
    assert conf.model.extractor.name == EXTRACTOR
    assert conf.model.matcher.input_dim == 128 and not conf.model.extractor.trainable
    if not installed("gluefactory"):
        return
    spec = importlib.util.find_spec("gluefactory")
    assert spec is not None and spec.origin is not None
    theirs = Path(spec.origin).parent / "configs" / f"aliked+lightglue_{name}.yaml"
    for key in ("data", "train", "benchmarks"):  # as glue-factory's own for ALIKED
        own, other = (OmegaConf.to_container(c[key]) for c in (conf, OmegaConf.load(theirs)))
        other.pop("load_features", None)
        assert own == other


def lightglue_file(path: Path, *, values: int = 128, prefix: str = "", columns: int = 2) -> dict:
    """What LightGlue of two layers has of parameters, as far as they are looked at."""
    sizes = {
        "posenc.Wr.weight": (32, columns),
        "input_proj.weight": (256, values),
        "transformers.0.self_attn.Wqkv.weight": (768, 256),
        "transformers.1.self_attn.Wqkv.weight": (768, 256),
        "log_assignment.0.final_proj.weight": (256, 256),
    }
    made = {f"{prefix}{name}": torch.zeros(size) for name, size in sizes.items()}
    torch.save(made, path)
    return made


def test_lightglues_sizes_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = lightglue_file(tmp_path / "a.tar", prefix="matcher.")
    conf = {"model": {"extractor": {"name": EXTRACTOR}}}
    torch.save(
        {"model": {**made, "extractor.net.x": torch.ones(1)}, "conf": conf},
        path := tmp_path / "b.tar",
    )
    found = read_lightglue(path)
    assert found.sizes == {"input_dim": 128, "descriptor_dim": 256, "n_layers": 2, "num_heads": 4}
    assert len(found.parameters) == 5 and not caplog.messages
    old = {
        re.sub(r"transformers\.(\d)\.self_attn", r"self_attn.\1", name.removeprefix("matcher.")): v
        for name, v in made.items()
    }
    torch.save(old, tmp_path / "old.pth")
    assert read_lightglue(tmp_path / "old.pth").parameters.keys() == found.parameters.keys()
    assert "does not say which feature" in caplog.text


def test_lightglue_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with refused("a.pth", "no such file", "glue-factory"):
        read_lightglue(path)
    made = lightglue_file(path, values=256)
    with refused("a.pth", ("256 values", "128 values"), "docs/training.md"):
        read_lightglue(path)
    lightglue_file(path, columns=4)
    with refused("a.pth", "orientations"):
        read_lightglue(path)
    torch.save(
        {"model": made, "conf": {"model": {"extractor": {"name": "extractors.aliked"}}}}, path
    )
    with refused("a.pth", "extractors.aliked", "docs/training.md"):
        read_lightglue(path)
    torch.save({"model": {"extractor.net.x": torch.ones(1)}, "conf": {}}, path)
    with refused("a.pth", "no LightGlue"):
        read_lightglue(path)
    path.write_text("hello")
    with refused("a.pth", "not a checkpoint"):
        read_lightglue(path)


def test_other_weights_other_files(tmp_path: Path) -> None:
    lightglue_file(tmp_path / "a.pth")
    lightglue_file(tmp_path / "b.pth", columns=3)
    confs = [configurations.lightglue(tmp_path / name) for name in ("a.pth", "b.pth")]
    outputs = {conf["output"] for conf in [*confs, configurations.matchers()["samfeat+lightglue"]]}
    assert len(outputs) == 3
    with refused("c.pth"):
        configurations.lightglue(tmp_path / "c.pth")


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed (on no package index)")
def test_without_weights_hloc_says_so(tmp_path: Path) -> None:
    write_features(tmp_path / "f.h5", {"a": np.zeros((4, 2)), "b": np.zeros((4, 2))})
    (tmp_path / "pairs.txt").write_text("a b\n")
    done = python(
        "samfeat_hloc.hloc", "match_features", "--conf", "samfeat+lightglue", "--pairs",
        str(tmp_path / "pairs.txt"), "--features", "f", "--export_dir", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1 and not list(tmp_path.glob("*matches*"))
    error_line(done.stderr, "samfeat+lightglue", "no weights are given", "--lightglue WEIGHTS")


def write_features(path: Path, keypoints: dict[str, np.ndarray], **more: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, xy in keypoints.items():
            file[f"{name}/keypoints"] = xy
            file[f"{name}/descriptors"] = more.get(name, np.zeros((128, len(xy)), np.float32))
            file[f"{name}/image_size"] = np.array([256, 192])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([given] if given else [])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Ten steps of glue-factory's trainer on photos: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("gluefactory")
    (folder / "photos").mkdir()
    for path in sorted((shared / "data/photos").glob("*.jpg"))[:22]:
        (folder / "photos" / path.name).symlink_to(path)
    where = python("samfeat_hloc.gluefactory", "homography")
    assert where.returncode == 0, where.stderr
    done = python(
        "gluefactory.train", str(folder / "run"), "--conf", where.stdout.strip(),
        f"data.data_dir={folder / 'photos'}", "data.image_dir=.", "data.image_list=null",
        "data.train_size=20", "data.val_size=2", "data.batch_size=2", "data.num_workers=1",
        "data.homography.patch_shape=[160,120]", "model.extractor.max_num_keypoints=64",
        "model.matcher.n_layers=2", "train.epochs=1", "train.log_every_iter=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run", done.stdout + done.stderr


@needs_gluefactory
def test_glue_factory_trains_ten_steps(trained: tuple[Path, str]) -> None:
    folder, said = trained
    losses = [float(x) for x in re.findall(r"\| it \d+\] loss \{total ([\d.E+-]+)", said)]
    assert len(losses) == 10 and np.isfinite(losses).all()
    validation = [float(x) for x in re.findall(r"\[Validation\] .*?loss/total ([\d.E+-]+)", said)]
    assert len(validation) == 2 and validation[1] < validation[0]
    assert min(float(x) for x in re.findall(r"num_matchable ([\d.E+-]+)", said)) > 0
    known = torch.load(folder / "checkpoint_best.tar", weights_only=True)["model"]
    frozen = SAMFeat.from_pretrained(device="cpu").state_dict()
    assert all(torch.equal(known[f"extractor.net.{name}"], v) for name, v in frozen.items())


@needs_gluefactory
@needs_lightglue
def test_hloc_matches_as_glue_factory_does(
    trained: tuple[Path, str], images: torch.Tensor, tmp_path: Path
) -> None:
    """The same features through hloc's matching and through glue-factory's own LightGlue."""
    from gluefactory.utils.experiments import load_experiment
    from hloc import match_features

    path = trained[0] / "checkpoint_best.tar"
    pipeline = load_experiment(path, {"extractor": {"max_num_keypoints": 100}})
    views = {f"view{i}": {"image": images[:1], "image_size": SIZES[:1]} for i in "01"}
    views["view1"]["image"] = images[:1].flip(-1)
    with torch.inference_mode():
        found: dict[str, Any] = pipeline(views)
    keypoints = {
        name: found[f"keypoints{i}"][0].numpy() - 0.5 for name, i in zip("ab", "01", strict=True)
    }
    described = {
        name: found[f"descriptors{i}"][0].numpy().T for name, i in zip("ab", "01", strict=True)
    }
    write_features(tmp_path / "f.h5", keypoints, **described)
    (tmp_path / "pairs.txt").write_text("a b\n")
    conf = configurations.lightglue(
        path, filter_threshold=0.0, depth_confidence=-1, width_confidence=-1
    )
    matches = tmp_path / "m.h5"
    match_features.main(conf, tmp_path / "pairs.txt", tmp_path / "f.h5", matches=matches)
    with torch.inference_mode():
        scores = pipeline.matcher({**views, **found})["matching_scores0"][0]
    with h5py.File(matches) as file:
        ours = file["a/b/matches0"][()]
        assert np.allclose(file["a/b/matching_scores0"][()], scores, atol=1e-3)
    likeliest = found["log_assignment"][0, :-1, :-1].argmax(1)
    theirs = torch.where(scores > 0, likeliest, -1).numpy()
    assert (ours == theirs).mean() > 0.98 and (ours >= 0).sum() > 5
