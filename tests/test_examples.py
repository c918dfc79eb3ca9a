"""The examples run as they are written: the notebook, and the three scripts on what it leaves."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pycolmap import Rotation3d

from samfeat_hloc import Localizer
from samfeat_hloc.files.images import read_image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the notebook's cells leave; the tests run in the folder that it wrote to."""
    document = json.loads((EXAMPLES / "localize.ipynb").read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setenv("MPLBACKEND", "agg")
        for index, cell in enumerate(document["cells"]):
            if cell["cell_type"] == "code":
                assert not cell["outputs"], "the notebook is kept without its outputs"
                exec(compile("".join(cell["source"]), f"cell {index}", "exec"), names)
        yield names


def test_the_notebook_localizes_a_photo(notebook: dict[str, Any]) -> None:
    assert len(notebook["found"].matches) > 200
    assert len(notebook["cameras"]) == 12 and len(notebook["points"]) > 1000
    assert notebook["answer"].pose is not None and notebook["away"] < 0.5


def test_match(
    notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(notebook[name]) for name in ("first", "second")]
    monkeypatch.setattr(sys, "argv", ["match.py", *pair])
    runpy.run_path(str(EXAMPLES / "match.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"{len(notebook['found'].matches)} matches")
    assert int(said[1].split()[0]) > 100 and "agree" in said[1]


def test_train(
    notebook: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = notebook["city"].image_dir
    few = [
        f"data.validation={images / 'query'}", "train.steps=2", "train.batch=2", "train.warmup=1",
        "train.log_every=1", "pairs.crop=64", "pairs.points=32", "pairs.keypoints=32",
    ]  # fmt: skip
    arguments = [str(images / "db"), str(tmp_path / "mine"), *few]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    runpy.run_path(str(EXAMPLES / "train.py"), run_name="__main__")
    weights = tmp_path / "mine" / "samfeat.safetensors"
    assert weights.is_file() and str(weights) in capsys.readouterr().out
    lines = (tmp_path / "mine" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2


def test_messages_of_ros(notebook: dict[str, Any]) -> None:
    """What the node does with messages, given as plain objects: ROS is in no package index."""
    node = runpy.run_path(str(EXAMPLES / "ros_node.py"))
    photo = read_image(notebook["new_photo"])
    height, width = photo.shape[:2]
    answer = notebook["answer"]
    focal = answer.camera.to_pycolmap().mean_focal_length()
    k = [focal, 0, width / 2 - 0.5, 0, focal, height / 2 - 0.5, 0, 0, 1]
    info = SimpleNamespace(
        k=k, d=[0.0] * 5, width=width, height=height, distortion_model="plumb_bob"
    )
    camera = node["camera_of"](info)
    assert camera.params == (focal, focal, width / 2, height / 2)
    info.d = [0.1, -0.2, 0.01, 0.02, 0.0]
    assert node["camera_of"](info).params[4:] == (0.1, -0.2, 0.01, 0.02)
    with pytest.raises(ValueError, match="rectify"):
        info.d = [0.1, 0, 0, 0, 0.5]
        node["camera_of"](info)
    # rows of a message may be longer than the image
    rows = np.pad(photo[..., ::-1].reshape(height, -1), ((0, 0), (0, 7)))
    message = SimpleNamespace(
        encoding="bgr8", data=rows.tobytes(), step=rows.shape[1], width=width, height=height
    )
    assert (node["pixels_of"](message) == photo).all()
    message.encoding, message.step = "mono8", width
    message.data = photo[..., 0].tobytes()
    assert (node["pixels_of"](message) == photo[..., 0]).all()
    localizer = Localizer.load(notebook["saved_map"])
    found = localizer.localize(photo, camera)
    pose = SimpleNamespace(position=SimpleNamespace(), orientation=SimpleNamespace())
    node["fill"](pose, found.pose)
    at = np.array([pose.position.x, pose.position.y, pose.position.z])
    assert np.allclose(at, found.pose.centre)
    turned = Rotation3d([getattr(pose.orientation, axis) for axis in "xyzw"])
    assert np.allclose(turned.matrix(), found.pose.rotation.T)


def test_service(notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMFEAT_MAP", str(notebook["saved_map"]))
    service = TestClient(runpy.run_path(str(EXAMPLES / "service.py"))["app"])

    def post(content: bytes, **query: float) -> Any:
        return service.post("/localize", files={"photo": ("new.jpg", content)}, params=query)

    photo = notebook["new_photo"].read_bytes()
    answer = post(photo)
    assert answer.status_code == 200
    assert answer.json()["localized"]
    tvec = notebook["answer"].pose.tvec
    assert np.linalg.norm(np.array(answer.json()["tvec"]) - tvec) < 0.05
    known = post(photo, focal=400.0).json()
    assert known["camera"]["params"][0] == 400 and known["focal_deviation"] is None
    refused = post(b"no photo")
    assert refused.status_code == 422 and refused.json()["detail"]
