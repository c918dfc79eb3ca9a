"""Pictures of keypoints and matches: written, of the right counts, readable without colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import typer
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.commands import visualization
from samfeat_hloc.commands.measured_features import extract_options
from samfeat_hloc.evaluation.matching import CachedFeatures
from samfeat_hloc.feature.checkpoints import write_checkpoint
from samfeat_hloc.feature.network import SAMFeat
from samfeat_hloc.pictures.pairs import RIGHT, WRONG, guidance_maps, matches_figure


def test_right_and_wrong_differ_in_colour_and_line() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    keypoints = np.array([[5.0, 5.0], [20.0, 30.0], [50.0, 10.0]])
    moved = keypoints + np.array([[0, 0], [1, 0], [-30, 20]])
    features = (CachedFeatures(keypoints, np.eye(3)), CachedFeatures(moved, np.eye(3)))
    figure = matches_figure((image, image), features, "two right, one wrong", np.eye(3))
    drawn = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert sorted(drawn) == sorted([(RIGHT, "-"), (RIGHT, "-"), (WRONG, ":")])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["1 wrong, over 3 pixels", "2 right, within 3 pixels"]

    few = matches_figure((image, image), features, "", most=2)
    assert [text.get_text() for text in few.legends[0].get_texts()] == ["3 matches (2 shown)"]


def test_commands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8), (0, 0), 1.5)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    model = SAMFeat().eval()
    write_checkpoint(tmp_path / "w.safetensors", model.state_dict(), model.config, {})
    app = typer.Typer()
    visualization.register(app)

    def run(*arguments: object) -> None:
        result = CliRunner().invoke(app, ["viz", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    weights = ("--weights", tmp_path / "w.safetensors")
    run("keypoints", tmp_path / "a.png", "--output", tmp_path / "k.png", *weights)
    np.savetxt(tmp_path / "H", np.eye(3))
    pair = ("matches", tmp_path / "a.png", tmp_path / "b.png")
    run(*pair, "--output", tmp_path / "m.svg", "--homography", tmp_path / "H", *weights)
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "m.svg").read_text()
    with refused("m.jpg", ".png"):
        run(*pair, "--output", tmp_path / "m.jpg", *weights)

    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("a.png", "b.png"):
            file[f"{name}/keypoints"] = rng.uniform(0, 80, (5, 2))
            file[f"{name}/descriptors"] = np.eye(5)
            file[f"{name}/image_size"] = np.array([130, 90] if name == "a.png" else [90, 130])
    with refused("a.png", mend="--images"):
        run(*pair, "--output", tmp_path / "f.png", "--features", tmp_path / "f.h5")
    with refused("b.png", ("130 x 90", "(90, 130)")):
        run(*pair, "--output", tmp_path / "f.png", "--features", tmp_path / "f.h5",
            "--images", tmp_path)  # fmt: skip
    edges, attention = guidance_maps(model, image, extract_options(64, None, False))
    assert edges.shape == attention.shape == (23, 33)
    assert 0 <= edges.min() <= edges.max() <= 1
