"""Pairs of near cameras, as hloc finds them, and of all images."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused
from small_city import City

from samfeat_hloc.cli import main as samfeat
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.hloc_plugin import hloc_installed
from samfeat_hloc.localization import pairs_by_rule


@pytest.mark.skipif(not hloc_installed(), reason="hloc is not installed")
@pytest.mark.parametrize("count", [1, 3])
def test_near_cameras_are_hlocs(city: City, tmp_path: Path, count: int) -> None:
    from hloc import pairs_from_poses

    pairs_from_poses.main(city.model, tmp_path / "theirs.txt", count)
    ours = pairs_by_rule.from_poses(city.model, tmp_path / "ours.txt", num_matched=count)
    assert set(read_pairs(ours)) == set(read_pairs(tmp_path / "theirs.txt"))


def test_near_cameras(city: City, tmp_path: Path) -> None:
    made = pairs_by_rule.from_poses(city.model, tmp_path / "a.txt", num_matched=2, most_angle=90)
    listed = read_pairs(made)
    poses = {name: image.pose for name, image in read_model(city.model).images.items()}
    for name, other in listed:
        assert name != other and poses[name].rotation[2] @ poses[other].rotation[2] > 0
    assert max(sum(a == name for a, _ in listed) for name in poses) == 2
    pairs_by_rule.from_poses(city.model, made, num_matched=2, most_angle=90)  # there already
    with refused(problem=("most_angle", "90")):
        pairs_by_rule.from_poses(city.model, made, num_matched=2)
    with refused(problem="cameras"):
        pairs_by_rule.from_poses(city.model, tmp_path / "b.txt", most_angle=1e-3)


def test_all_images(tmp_path: Path) -> None:
    made = pairs_by_rule.exhaustive(["a", "b", "c"], tmp_path / "all.txt")
    assert read_pairs(made) == [("a", "b"), ("a", "c"), ("b", "c")]
    made = pairs_by_rule.exhaustive(["q", "a"], tmp_path / "query.txt", others=["a", "b"])
    assert read_pairs(made) == [("q", "a"), ("q", "b"), ("a", "b")]
    with refused(problem="no two images"):
        pairs_by_rule.exhaustive(["a"], tmp_path / "none.txt")


def test_commands(city: City, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg PINHOLE\nb.jpg\n")
    listed, output = str(tmp_path / "list.txt"), str(tmp_path / "pairs.txt")
    with pytest.raises(SystemExit) as done:
        samfeat(["pairs", "exhaustive", "--list", listed, "--output", output])
    assert done.value.code == 0 and Path(output).read_text() == "a.jpg b.jpg\n"
    output = str(tmp_path / "near.txt")
    with pytest.raises(SystemExit) as done:
        samfeat(["pairs", "poses", "--reference-model", str(city.model), "--output", output])
    assert done.value.code == 0 and len(read_pairs(Path(output))) > 8
