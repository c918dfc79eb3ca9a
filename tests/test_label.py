"""Keypoint labels by homographic adaptation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.geometry.homographies import transform
from samfeat_hloc.training import label
from samfeat_hloc.training.detectors import SuperPointScores, load_detector
from samfeat_hloc.training.keypoint_labels import KeypointLabels
from samfeat_hloc.training.label import LabelOptions, adaptation_views, label_photo


def board(cell: int = 24, rows: int = 6, columns: int = 8) -> np.ndarray:
    """A checkerboard within a grey frame, RGB uint8."""
    squares = np.indices((rows, columns)).sum(0) % 2 * 160 + 40
    board = np.kron(squares, np.ones((cell, cell)))
    framed = np.pad(board, cell, constant_values=120).astype(np.uint8)
    return np.repeat(cv2.GaussianBlur(framed, (0, 0), 0.7)[..., None], 3, axis=2)


def crossings(cell: int = 24, rows: int = 6, columns: int = 8) -> np.ndarray:
    """The board's inner corners (N, 2) xy."""
    x, y = np.meshgrid(np.arange(1, columns), np.arange(1, rows))
    return (np.stack([x, y], -1).reshape(-1, 2) + 1) * cell - 0.5


def test_the_first_view_is_the_photo() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([200.0, 120.0])
    views = adaptation_views(size, 208, LabelOptions(views=5), generator)
    assert views.shape == (5, 3, 3)
    middle = transform(views[:1], torch.tensor([[[103.5, 103.5], [113.5, 103.5]]]))[0]
    assert torch.allclose(middle, torch.tensor([[99.5, 59.5], [109.5, 59.5]]), atol=1e-3)


def test_corners_of_a_board() -> None:
    shrink = 2  # the detector looks at half the photo's size
    photo = board(24 * shrink)
    options = LabelOptions("corners", views=10, longest=240)
    detect = load_detector("corners", None, "cpu", 300)
    keypoints, scores = label_photo(photo, detect, options, torch.Generator().manual_seed(1))
    assert (np.diff(scores) <= 0).all() and scores[-1] > 0 and scores[0] <= 1
    truth = crossings(24 * shrink)
    distance = np.linalg.norm(truth[:, None] - keypoints[None], axis=2)
    assert (distance.min(1) < 0.7 * shrink).mean() > 0.95  # all found
    lattice = keypoints + 0.5 - np.round((keypoints + 0.5) / 24 / shrink) * 24 * shrink
    assert (np.linalg.norm(lattice, axis=1) < 2.5 * shrink).mean() > 0.95  # and the frame's
    again = label_photo(photo, detect, options, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(keypoints, again[0])


def test_the_command_labels_a_folder_and_goes_on(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    Image.fromarray(board()).save(photos / "a.png")
    Image.fromarray(board(20)).save(photos / "b" / "c.png")
    output = tmp_path / "labels.h5"
    command = ["label", "--images", str(photos), "--output", str(output), "--detector", "dog",
               "--views", "4", "--resize", "128", "--max-keypoints", "50"]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    labels = KeypointLabels(output)
    assert labels.names == ["a.png", "b/c.png"]
    first = labels.read("a.png")
    assert first.image_size == board().shape[1::-1]
    assert 0 < len(first.keypoints) <= 50 and first.keypoints.shape[1] == 2
    assert (first.keypoints.max(0) < np.array(first.image_size)).all()
    Image.fromarray(board(16)).save(photos / "d.png")
    assert CliRunner().invoke(app, command).exit_code == 0
    assert KeypointLabels(output).names == ["a.png", "b/c.png", "d.png"]
    np.testing.assert_array_equal(first.keypoints, KeypointLabels(output).read("a.png").keypoints)


def test_several_devices_share_the_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(board(12 + 4 * number)).save(tmp_path / "photos" / f"{number}.png")
    options = LabelOptions("dog", views=2, longest=96)
    alone = label.main(tmp_path / "photos", tmp_path / "alone.h5", options, device="cpu")
    monkeypatch.setattr(label, "all_devices", lambda: ["cpu", "cpu"])
    both = label.main(tmp_path / "photos", tmp_path / "both.h5", options)
    one, other = KeypointLabels(alone), KeypointLabels(both)
    assert one.names == other.names == ["0.png", "1.png", "2.png"]
    for name in one.names:
        np.testing.assert_array_equal(one.read(name).keypoints, other.read(name).keypoints)


def test_checkpoints_of_detectors(tmp_path: Path) -> None:
    with refused("--detector owl", mend="superpoint"):
        load_detector("owl", None, "cpu", 10)
    with refused("--detector superpoint", "--weights"):
        load_detector("superpoint", None, "cpu", 10)
    with refused("no.pth", "no such checkpoint"):
        load_detector("superpoint", tmp_path / "no.pth", "cpu", 10)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with refused("x.pth", "conv1a.weight"):
        load_detector("superpoint", tmp_path / "x.pth", "cpu", 10)
    torch.manual_seed(0)
    state = SuperPointScores().state_dict()
    # The release's file has the descriptor head too.
    torch.save({**state, "convDa.weight": torch.zeros(1)}, tmp_path / "superpoint_v1.pth")
    detect = load_detector("superpoint", tmp_path / "superpoint_v1.pth", "cpu", 10)
    (points,) = detect(torch.rand(1, 3, 64, 64))
    assert points.shape[1] == 2 and len(points) <= 10


def test_points_reach_every_side_of_a_view_that_is_not_square() -> None:
    detect = load_detector("corners", None, "cpu", 10000)
    height, width = 96, 224
    torch.manual_seed(0)
    noise = torch.nn.functional.avg_pool2d(torch.rand(1, 3, height + 2, width + 2), 3, stride=1)
    (points,) = detect(noise)
    assert (points.min(0).values < 10).all()
    assert (points.max(0).values > torch.tensor([width - 10, height - 10])).all()
    assert (points.min(0).values > 3).all()
    assert (points.max(0).values < torch.tensor([width - 4, height - 4])).all()
    (turned,) = detect(noise.transpose(-1, -2))
    assert sorted(turned.flip(-1).round().tolist()) == sorted(points.round().tolist())


def test_detectors_of_kornia(tmp_path: Path) -> None:
    features = pytest.importorskip("kornia.feature", reason="needs kornia")
    torch.manual_seed(0)
    views = torch.rand(2, 3, 64, 64)
    torch.save({"extractor": features.DISK().state_dict()}, tmp_path / "depth-save.pth")
    found = load_detector("disk", tmp_path / "depth-save.pth", "cpu", 20)(views)
    assert len(found) == 2 and all(f.shape[1] == 2 and len(f) <= 20 for f in found)
    torch.save(features.ALIKED("aliked-n16").state_dict(), tmp_path / "aliked-n16.pth")
    found = load_detector("aliked", tmp_path / "aliked-n16.pth", "cpu", 20)(views)
    assert len(found) == 2 and all(f.shape[1] == 2 for f in found)


def test_the_shipped_network_labels() -> None:
    detect = load_detector("samfeat", None, "cpu", 50)
    view = torch.from_numpy(board()).permute(2, 0, 1)[None, :, :160, :160].float() / 255
    (points,) = detect(view)
    assert 0 < len(points) <= 50
