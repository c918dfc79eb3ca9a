"""The exported network, run by onnxruntime, against PyTorch's."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from refusals import refused

from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.feature.onnx_export import OPSET, DenseMaps, export_onnx

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def network() -> SAMFeat:
    return SAMFeat.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def exported(network: SAMFeat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"needs {module}")
    return export_onnx(network, tmp_path_factory.mktemp("onnx") / "samfeat.onnx")


def test_the_maps_are_pytorchs_at_any_size(network: SAMFeat, exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported))
    assert [entry.name for entry in session.get_inputs()] == ["image"]
    assert [entry.name for entry in session.get_outputs()] == ["keypoint_logits", "descriptors"]
    torch.manual_seed(0)
    for batch, height, width in ((1, 64, 80), (3, 96, 56), (2, 136, 208)):
        image = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            expected = DenseMaps(network)(image)
        found = session.run(None, {"image": image.numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4)
        assert found[1].shape == (batch, 128, height // 4, width // 4)


def test_the_file_says_what_it_is(network: SAMFeat, exported: Path) -> None:
    import onnx

    model = onnx.load(str(exported))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["weights_sha256"] == network.weights_sha256
    assert "RGB in [0, 1]" in said["image"] and "bilinearly" in said["descriptors"]
    assert [path.name for path in exported.parent.iterdir()] == ["samfeat.onnx"]


def test_the_documented_lines_extract_what_extract_does(
    network: SAMFeat, exported: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "onnx.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    photo = cv2.imread(str(shared / "reference" / "samfeat_official" / "image.png"))[:203, :310]
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    (tmp_path / "samfeat.onnx").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {}
    exec(code[1], values)
    expected = network.extract(tmp_path / "photo.jpg", subpixel=False, precision="float32")
    places = expected["keypoints"].numpy().astype(int)
    rows = {tuple(place): row for row, place in enumerate(places.tolist())}
    found = [tuple(place) for place in values["keypoints"].tolist()]
    assert len(found) > 500
    common = [(i, rows[place]) for i, place in enumerate(found) if place in rows]
    # some peaks are as high as their neighbour up to the last digit
    assert len(common) > 0.995 * max(len(found), len(rows))
    mine, theirs = np.array(common).T
    cosines = (values["sampled"][:, mine] * expected["descriptors"].numpy()[:, theirs]).sum(axis=0)
    assert cosines.min() > 0.999


def test_without_onnx(network: SAMFeat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxscript":
            raise ImportError("no module", name=name)
        return imported(name, *args, **kwargs)

    pytest.importorskip("onnx", reason="needs onnx")
    monkeypatch.setattr(builtins, "__import__", without)
    with refused("samfeat export onnx", "onnxscript", "pip install"):
        export_onnx(network, tmp_path / "samfeat.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(
    network: SAMFeat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no operator\nfor this")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with refused("samfeat export onnx", "no operator for this"):
        export_onnx(network, tmp_path / "samfeat.onnx")
    monkeypatch.setattr(torch, "__version__", "2.4.1")
    with pytest.raises(SamfeatError, match=r"2\.4\.1"):
        export_onnx(network, tmp_path / "samfeat.onnx")
    assert not list(tmp_path.iterdir())
