"""What is left out is counted: "N of M", wherever a loop passes something over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.model import find_model
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.evaluation import hpatches, photo_pairs, reconstruction
from samfeat_hloc.files import provenance
from samfeat_hloc.files.h5arrays import InUse
from samfeat_hloc.files.h5store import Group, SegmentWriter
from samfeat_hloc.hloc_plugin.files import hdf5_file
from samfeat_hloc.maps.sources import sources_in

MADE_BY = provenance.made_by("trial", {}, {})


def noise(path: Path, width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_photo_pairs_say_of_how_many_photos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    side = photo_pairs.SMALLEST_SIDE
    for i in range(2):
        noise(tmp_path / "photos" / f"{i}.png", side + 60, side + 40)
    noise(tmp_path / "photos" / "small.png", side - 2, side + 40)
    with caplog.at_level("WARNING"):
        photo_pairs.make_pairs(tmp_path / "photos", tmp_path / "pairs", count=3)
    assert "of 3 photos asked for 2 are used" in caplog.text and "1 are smaller" in caplog.text


def test_homographies_that_are_passed_over_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "v_place"
    for number in (1, 2):
        noise(folder / f"{number}.ppm", 64, 48)
    for name in ("H_1_2", "H_1_3", "H_1_4.txt"):
        folder.joinpath(name).write_text("1 0 0\n0 1 0\n0 0 1\n")
    with caplog.at_level("WARNING"):
        assert len(hpatches.read_pairs(tmp_path, skip_incomplete=True)) == 1
    assert "1 of 3 homographies lack an image" in caplog.text and "H_1_3" in caplog.text
    assert "H_1_4.txt" in caplog.text


@pytest.mark.parametrize("parts", [("cameras", "images"), ("points3D",)])
def test_a_model_that_lacks_a_file_is_not_passed_over(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    """The next model was once taken for it, without a word."""
    model = tmp_path / "sparse" / "1"
    model.mkdir(parents=True)
    pycolmap.Reconstruction().write(str(model))
    broken = tmp_path / "sparse" / "0"
    broken.mkdir()
    for path in model.iterdir():
        if path.stem in parts:
            shutil.copy(path, broken)
    for read in (sources_in, reconstruction.find_models):
        with refused(broken, "lacks"):
            read(tmp_path)
    with refused(broken, "lacks"):
        find_model(tmp_path / "sparse")


def test_which_of_several_models_a_map_is_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    h5py.File(tmp_path / "global-descriptors.h5", "w").close()
    for number in ("0", "1"):
        (tmp_path / "sparse" / number).mkdir(parents=True)
        pycolmap.Reconstruction().write(str(tmp_path / "sparse" / number))
    assert sources_in(tmp_path, 1).model == tmp_path / "sparse" / "1"
    assert not caplog.text
    assert sources_in(tmp_path).model == tmp_path / "sparse" / "0"
    assert "2 models" in caplog.text and "--model" in caplog.text
    with refused("--model 2", "not in", "0, 1"):
        sources_in(tmp_path, 2)


@pytest.mark.parametrize(
    "useless", [("--images", "photos"), ("--preset", "samfeat_fast"), ("--camera", "PINHOLE 1 1")]
)
def test_options_that_decide_nothing_are_refused(tmp_path: Path, useless: tuple[str, str]) -> None:
    """They were ignored without a word: the outputs' features and model were taken."""
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    pycolmap.Reconstruction().write(str(tmp_path / "sparse" / "0"))
    command = ["map", "build", str(tmp_path), "--output", str(tmp_path / "a.map"), *useless]
    with refused(useless[0], "already"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def segment(output: Path) -> Path:
    with SegmentWriter(output, MADE_BY) as writer:
        writer.add({"a.jpg": Group({"keypoints": np.zeros((3, 2), np.float32)})})
        writer.flush()
    (path,) = Path(f"{output}.parts").iterdir()
    return path


def test_a_damaged_segment_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = segment(tmp_path / "out.h5")
    path.write_bytes(path.read_bytes()[:200])
    with caplog.at_level("WARNING"), SegmentWriter(tmp_path / "out.h5", MADE_BY) as writer:
        assert not writer.done
    assert str(path) in caplog.text and not path.exists()


def test_a_good_segment_is_kept_where_the_machine_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of files it could not be opened, and was removed as damaged."""
    path = segment(tmp_path / "out.h5")
    real = h5py.File

    def no_files(name: object, *arguments: object, **options: object) -> object:
        if str(name) == str(path):
            raise OSError(24, "Too many open files")
        return real(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", no_files)
    with pytest.raises(SamfeatError) as caught:
        SegmentWriter(tmp_path / "out.h5", MADE_BY).__enter__()
    assert "open files" in str(caught.value) and path.exists()


def test_what_hloc_has_half_made_is_kept_while_another_run_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, half = tmp_path / "features.h5", tmp_path / ".features.h5.hloc"
    with h5py.File(half, "w") as file:
        file.attrs[provenance.ATTRIBUTE] = json.dumps(MADE_BY)

    def in_use(path: Path) -> None:
        raise InUse(path, "another program has it open for writing", "wait")

    monkeypatch.setattr(provenance, "read_hdf5", in_use)
    with pytest.raises(InUse):
        hdf5_file(output, MADE_BY, False, lambda path: None)
    assert half.exists()
