from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import street_run
import typer
from typer.testing import CliRunner

from samfeat_hloc.colmap.cameras import Camera
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.commands import submission as commands
from samfeat_hloc.datasets.aachen import AachenDataset
from samfeat_hloc.evaluation.failures import (
    Reason,
    diagnose,
    diagnose_all,
    failures_table,
    read_run,
    share_in_view,
)
from samfeat_hloc.evaluation.localization_curves import cumulative, error_figure
from samfeat_hloc.files.outputs import Output
from samfeat_hloc.files.provenance import made_by
from samfeat_hloc.localization.result import write_result

CAMERA = Camera("PINHOLE", 320, 240, (300.0, 300.0, 160.0, 120.0))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return street_run.build(tmp_path_factory.mktemp("street"))


def test_every_way_to_fail_is_told_apart(street: tuple[Path, Path]) -> None:
    dataset, outputs = street
    run = read_run(outputs / "poses.txt")
    assert run is not None
    found = diagnose_all(*run, AachenDataset.open(dataset))
    assert [diagnosis.reason for diagnosis in found[:10]] == [
        Reason.RETRIEVAL, Reason.FEW_MATCHES, Reason.FEW_INLIERS, Reason.WRONG_PLACE,
        Reason.INACCURATE, Reason.FEW_MATCHES, None, None, None, None,
    ]  # fmt: skip
    assert found[4].error is not None and found[4].error[0] == pytest.approx(0.4, abs=0.1)
    assert "none of the 5 images used" in found[0].text and "m away" in found[0].text
    assert found[2].text.startswith("few inliers: 11 inliers of")
    table = failures_table(found)
    assert table.startswith("8 of 12 queries failed: 2 no image of the right place, 3 few")
    assert failures_table([diagnosis for diagnosis in found if not diagnosis.failed]) == (
        "no failed query"
    )


def test_without_truth_only_a_fallback_has_failed(street: tuple[Path, Path]) -> None:
    run = read_run(street[1] / "poses.txt")
    assert run is not None
    found = diagnose_all(*run, None)
    assert [i for i, diagnosis in enumerate(found) if diagnosis.failed] == [5]
    assert found[5].reason is Reason.FEW_MATCHES and found[5].error is None
    assert all(image.sees_the_same is None for image in found[0].retrieved)


def test_a_limit_of_choice(street: tuple[Path, Path]) -> None:
    dataset = AachenDataset.open(street[0])
    run = read_run(street[1] / "poses.txt")
    assert run is not None and dataset.ground_truth is not None
    name = dataset.query_names[2]  # the third day query is the one 0.4 m off
    query, truth = run[0].queries[name], dataset.ground_truth[name]
    assert diagnose(query, run[1], truth, CAMERA).failed
    assert not diagnose(query, run[1], truth, CAMERA, limit=(0.6, 5)).failed


def test_share_in_view(street: tuple[Path, Path]) -> None:
    map_model = read_model(street[1] / "map")
    name = "db/00005.jpg"
    own = map_model.images[name].pose
    assert share_in_view(name, map_model, own, CAMERA) == (1.0, 200)
    assert share_in_view(name, map_model, street_run.pose_at(60), CAMERA)[0] == 0
    # two metres aside: of a picture 10.7 m wide four fifths are shared
    aside = street_run.pose_at(own.centre[0] + 2)
    assert share_in_view(name, map_model, aside, CAMERA)[0] == pytest.approx(0.81, abs=0.06)
    # from behind the facade the same points are in the picture, but seen from the other side
    behind = street_run.pose_at(own.centre[0], y=10)
    turned = np.diag([-1.0, 1, -1]) @ behind.rotation
    assert np.linalg.det(turned) == pytest.approx(1)
    half_turn = type(own)(np.array([0, 0, math.sqrt(0.5), -math.sqrt(0.5)]), np.zeros(3))
    backward = type(own)(half_turn.qvec, -half_turn.rotation @ behind.centre)
    in_camera = map_model.xyz @ backward.rotation.T + backward.tvec
    assert np.median(in_camera[:, 2]) > 0  # it looks at the facade
    assert share_in_view(name, map_model, backward, CAMERA)[0] == 0


def test_cumulative_by_hand() -> None:
    values, shares = cumulative([3.0, 1.0, math.inf, 2.0])
    assert values.tolist() == [1, 2, 3] and shares.tolist() == [0.25, 0.5, 0.75]
    values, shares = cumulative([math.inf])
    assert len(values) == len(shares) == 0
    axes = error_figure({"day": [(0.02, 0.1), (30.0, 0.1), (0.3, math.inf)]}).axes
    x, y = axes[0].get_lines()[0].get_data()
    assert y[-1] == pytest.approx(200 / 3) and x[-1] == 10  # 30 m is beyond the picture
    assert axes[1].get_lines()[0].get_data()[1][-1] == pytest.approx(200 / 3)


def test_queries_that_the_poses_lack_have_failed_on_every_line(
    street: tuple[Path, Path], tmp_path: Path
) -> None:
    """Once "6 of 12 have no pose", and then "no failed query"."""
    run = read_run(street[1] / "poses.txt")
    assert run is not None
    opened = AachenDataset.open(street[0])
    found = diagnose_all(*run, opened)
    good = {d.name: run[0].queries[d.name] for d in found if not d.failed}
    write_result(good, Output(tmp_path / "poses.txt", made_by("localization", {}, {})))
    (tmp_path / "map").symlink_to(street[1] / "map")
    app = typer.Typer()
    commands.register(app)
    output = tmp_path / "figures.json"
    result = CliRunner().invoke(
        app, ["eval", "localization", str(tmp_path), "--dataset", str(street[0]),
              "--output", str(output)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lost = len(opened.queries) - len(good)
    assert f"no pose for {lost} of {len(opened.queries)}" in result.stdout
    assert f"{lost} of {len(opened.queries)} queries failed: {lost} no pose" in result.stdout
    assert "no failed query" not in result.stdout
    assert len(json.loads(output.read_text())["failures"]) == lost


def test_command(street: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, outputs = street
    app = typer.Typer()
    commands.register(app)
    figures, plot = tmp_path / "figures.json", tmp_path / "curves.png"
    arguments = ["eval", "localization", str(outputs), "--dataset", str(dataset)]
    result = CliRunner().invoke(app, [*arguments, "--output", str(figures), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "wrong although many inliers" in result.stdout
    content = json.loads(figures.read_text())
    assert len(content["failures"]) == 8 and content["failures"][0]["reason"]
    assert content["configuration"]["dataset"] == str(dataset)
    assert content["versions"]["pycolmap"] and content["machine"]["processors"]
    assert plot.read_bytes().startswith(b"\x89PNG")

    alone = tmp_path / "poses.txt"  # without its log and map
    alone.write_bytes((outputs / "poses.txt").read_bytes())
    result = CliRunner().invoke(
        app, ["eval", "localization", str(alone), "--dataset", str(dataset)]
    )
    assert "8 queries failed; for the reasons" in result.stdout
