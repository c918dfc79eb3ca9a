"""The package without its clone: a wheel is built and installed, and does the whole product."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("samfeat_hloc", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md",
           "LICENSE")  # fmt: skip


def call(folder: Path, *command: object, path: Path | None = None) -> str:
    """Run a command in a folder where there is no clone; what it prints."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *(str(word) for word in command)],
        cwd=folder, capture_output=True, text=True,
        env={**kept, **({} if path is None else {"PYTHONPATH": str(path)})},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed from its wheel; what it needs is in this Python."""
    pytest.importorskip("setuptools", minversion="77")
    root = tmp_path_factory.mktemp("wheel")
    sources = root / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, sources / name, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, sources / name)
    call(root, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "-w", root, sources)  # fmt: skip
    shutil.rmtree(sources)
    (wheel,) = root.glob("*.whl")
    call(root, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", root / "site",
         wheel)  # fmt: skip
    return root / "site"


def test_the_product_without_a_clone(installed: Path, tmp_path: Path) -> None:
    def samfeat(*arguments: object) -> str:
        return call(tmp_path, installed / "bin" / "samfeat", *arguments, path=installed)

    ask = "import samfeat_hloc; print(samfeat_hloc.__file__)"
    assert call(tmp_path, "-c", ask, path=installed).startswith(str(installed))
    demo = tmp_path / "demo"
    size = ("--num-db", 8, "--num-queries", 1, "--size", 320, 240, "--preset", "samfeat_fast")
    assert "all 2 queries, checked" in samfeat("demo", "--outputs", demo, *size)

    photos = demo / "demo-dataset" / "images_upright"
    samfeat(
        "train", "--recipe", "homographies", f"data.images={photos}",
        f"data.validation={photos / 'query'}", "output=run",
        "train.steps=4", "train.batch=1", "train.validate_every=4", "pairs.crop=64",
        "pairs.points=32", "pairs.keypoints=32",
    )  # fmt: skip
    assert (tmp_path / "run" / "samfeat.safetensors").is_file()

    samfeat("map", "build", demo, "--output", "demo.map")
    queries = demo / "demo-dataset" / "queries"
    name, *camera = (queries / "day_time_queries_with_intrinsics.txt").read_text().split()
    text = samfeat("localize", photos / name, "--map", "demo.map", "--camera", " ".join(camera))
    assert "camera centre: " in text
