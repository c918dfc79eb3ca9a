from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import street_run
import typer
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.commands import report as command
from samfeat_hloc.errors import SamfeatError
from samfeat_hloc.report.contents import ReportOptions
from samfeat_hloc.report.gather import gather, worst_first
from samfeat_hloc.report.match_pictures import choose_pictures
from samfeat_hloc.report.page import page_content, render, write_report
from samfeat_hloc.report.photos import encode, relative
from samfeat_hloc.report.scene import camera_size, choose_points, places, upright_frame

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset and a run, with names that would be markup."""
    return street_run.build(tmp_path_factory.mktemp("street"), hostile=True)


@pytest.fixture(scope="module")
def page(street: tuple[Path, Path]) -> Path:
    return write_report(gather(street[1]), street[1] / "report.html")


def island(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# ---- the data ----


def test_points_are_chosen_fairly() -> None:
    assert choose_points(5, [], 10).tolist() == [0, 1, 2, 3, 4]
    wanted = [np.arange(100, 110), np.arange(500, 900)]
    rows = choose_points(1000, wanted, 200)
    assert len(rows) == 200 and (np.diff(rows) > 0).all()
    assert set(range(100, 110)) <= set(rows.tolist())  # few inliers are all kept
    many = choose_points(1000, [np.arange(900)], 20)
    assert len(many) == 20
    assert choose_points(1000, wanted, 200).tolist() == rows.tolist()


def test_the_frame_is_upright_and_ignores_outliers(street: tuple[Path, Path]) -> None:
    map_model = read_model(street[1] / "map")
    images = list(map_model.images.values())
    frame = upright_frame([image.pose for image in images])
    np.testing.assert_allclose(frame.rotation[2], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(frame.rotation @ frame.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame.rotation) == pytest.approx(1)
    pose = map_model.images["db/00003.jpg"].pose
    row = frame.poses([pose, None], [(0.5, 0.4)] * 2)
    np.testing.assert_allclose(row[0, :3], frame.points(pose.centre)[0])
    np.testing.assert_allclose(row[0, 3:12], [1, 0, 0, 0, 0, -1, 0, 1, 0], atol=1e-6)
    assert np.isnan(row[1]).all()
    points = np.vstack([frame.points(map_model.xyz), [[1e6, 0, 0]]])
    cameras = frame.points([image.pose.centre for image in images])
    seen = [np.append(image.points, len(points) - 1) for image in images]
    (place,) = places(points, seen, cameras)
    assert place.radius < 60 and len(place.cameras) == 20
    assert (place.low <= cameras.min(axis=0)).all() and (cameras.max(axis=0) <= place.high).all()
    assert camera_size(cameras, place.radius) == pytest.approx(min(2.0, 0.03 * place.radius))
    assert camera_size(cameras[:1], place.radius) == pytest.approx(0.03 * place.radius)


def test_places_are_what_cameras_see_together() -> None:
    rng = np.random.default_rng(0)
    near = rng.uniform(-5, 5, (300, 3))
    away = np.array([1000, 0, 0])
    points = np.vstack([near, near[:200] + away])
    seen = [rng.permutation(300)[:80] for _ in range(6)]
    seen += [300 + rng.permutation(200)[:80] for _ in range(4)]
    centres = np.vstack([rng.uniform(-8, 8, (6, 3)), rng.uniform(-8, 8, (4, 3)) + away])
    seen[0] = np.append(seen[0], 300)  # a wrong match joins nothing
    centres[5] = [0, 9000, 0]  # a camera far off does not count
    found = places(points, seen, centres)
    assert [place.cameras.tolist() for place in found] == [[0, 1, 2, 3, 4], [6, 7, 8, 9]]
    for place, middle in zip(found, (0, 1000), strict=True):
        assert place.radius < 20 and abs((place.low + place.high)[0] / 2 - middle) < 5
    # the two sides of a street are one, though nobody sees both
    away[:] = [0, 6, 0]
    beside = places(np.vstack([near, near[:200] + away]), seen[1:5] + seen[6:],
                    np.vstack([centres[1:5], centres[1:5] + away]))  # fmt: skip
    assert [place.cameras.tolist() for place in beside] == [[0, 1, 2, 3, 4, 5, 6, 7]]
    # a map without points is one place of all its cameras that have a pose
    (place,) = places(np.zeros((0, 3)), [np.zeros(0, np.int32)] * 10, centres, np.arange(5))
    assert place.cameras.tolist() == [0, 1, 2, 3, 4] and place.radius < 20


def test_pictures_go_to_the_worst_and_to_some_others(street: tuple[Path, Path]) -> None:
    data = gather(street[1], options=ReportOptions(max_pictures=4))
    order = worst_first(
        [query.diagnosis for query in data.queries], [query.result for query in data.queries]
    )
    failed = [data.queries[i].diagnosis.failed for i in order]
    assert failed == sorted(failed, reverse=True)
    assert choose_pictures(order, 100) == order and choose_pictures(order, 0) == []
    chosen = choose_pictures(order, 4)
    assert chosen[:2] == order[:2] and len(set(chosen)) == 4
    assert {i for i, query in enumerate(data.queries) if query.picture} == set(chosen)
    assert all(query.thumbnail for query in data.queries)
    assert any("4 of 12 queries have a picture" in note for note in data.notes)


def test_matches_and_inliers_of_a_picture(street: tuple[Path, Path]) -> None:
    data = gather(street[1])
    query = next(query for query in data.queries if not query.diagnosis.failed)
    picture = query.picture
    assert picture is not None
    best = int(np.argmax(query.support))
    assert picture.db_name == query.result.retrieved[best][0]
    # in this street every match of an inlier's keypoint goes to the inlier's point
    assert picture.inliers.sum() == query.support[best] > 20
    assert (np.diff(picture.inliers.astype(int)) <= 0).all()  # inliers first
    assert picture.num_matches == len(picture.matches) == query.result.retrieved[best][1]
    # photos of the same height: a match moves along x only
    assert abs(np.diff(picture.matches[:, [1, 3]].astype(int), axis=1)).max() < 4
    assert query.thumbnail is not None and len(query.thumbnail.jpeg) < 12_000
    assert Image.open(io.BytesIO(query.thumbnail.jpeg)).size == (160, 120)


def test_photos() -> None:
    image = np.zeros((30, 4000, 3), dtype=np.uint8)
    photo = encode(image, 200, 80)
    assert photo.size == (4000, 30)
    assert Image.open(io.BytesIO(photo.jpeg)).size == (200, 2)
    xy = relative(np.array([[0, 0], [4000, 30], [2000, -5]]), photo.size)
    assert xy.dtype == np.uint16 and xy.tolist() == [[0, 0], [65535, 65535], [32768, 0]]


def test_fewer_points_are_said_so(street: tuple[Path, Path]) -> None:
    data = gather(street[1], options=ReportOptions(max_points=500))
    assert len(data.scene.points) == 500 and data.scene.num_points == 6000
    assert any("500 of the map's 6,000 points" in note for note in data.notes)
    for query in data.queries:  # what is drawn as an inlier is one
        assert (query.points < 500).all()


# ---- the page as text ----


def test_names_cannot_become_markup(street: tuple[Path, Path], page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    content = island(text)
    assert set(street_run.HOSTILE) <= {query["name"] for query in content["queries"]}
    raw = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert raw is not None and not set("<>&") & set(raw[1])
    assert "window.hacked=1<" not in text.replace(raw[1], "")
    assert text.count("<script") == 2 and "http://www.w3.org/2000/svg" in text
    outside = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace(raw[1], "")))
    assert outside == {"http://www.w3.org"}  # SVG's name, which is no address to load from
    for forbidden in ("innerHTML", "document.write", "eval("):
        assert forbidden not in text
    data = gather(street[1])
    titled = render(dataclasses.replace(data, title="<script>$x</script>&"))
    assert "<title>&lt;script&gt;$x&lt;/script&gt;&amp;" in titled


def test_without_dataset_features_or_summary(street: tuple[Path, Path], tmp_path: Path) -> None:
    outputs = tmp_path / "bare"
    shutil.copytree(street[1], outputs)
    for name in ("summary.json", "features.h5", "matches-query.h5"):
        (outputs / name).unlink()
    data = gather(outputs)
    assert data.evaluation is None and all(query.thumbnail is None for query in data.queries)
    assert len(data.notes) == 3
    content = page_content(data)
    assert content["accuracy"] is None and content["curves"] is None
    given = gather(outputs, street[0])
    assert given.evaluation is not None and given.queries[0].thumbnail is not None
    assert given.queries[0].picture is None


def test_figures_on_the_page(page: Path) -> None:
    content = island(page.read_text(encoding="utf-8"))
    accuracy = content["accuracy"]
    assert accuracy["columns"][3:8] == ["0.01 m, 0.1°", "0.05 m, 0.25°", "0.25 m, 2°",
                                        "0.5 m, 5°", "5 m, 10°"]  # fmt: skip
    assert [row[0] for row in accuracy["rows"]] == ["day", "night"]
    assert base64.b64decode(content["curves"]).lstrip().startswith(b"<?xml")
    names = [record["name"] for record in content["records"]]
    assert names[0] == "run" and "poses.txt" in names and names[-1] == "this report"
    assert content["queries"][3]["reason"] == "wrong although many inliers"


@pytest.mark.parametrize(
    ("break_it", "subject", "problem"),
    [
        (lambda o: shutil.rmtree(o / "map"), "map", "no map"),
        (lambda o: (o / "localization.json").unlink(), "localization.json", "no such"),
        (lambda o: (o / "localization.json").write_text("{"), "localization.json", "log"),
        (lambda o: (o / "summary.json").write_text("[]"), "summary.json", "summary"),
        (lambda o: (o / "features.h5").write_text("x"), "features.h5", "HDF5"),
        (lambda o: (o / "map" / "cameras.bin").write_bytes(b"x"), "cameras.bin", "damaged"),
        (
            lambda o: street_run.write_map(
                shutil.rmtree(o / "map") or o / "map", np.zeros((9, 3)),
                [f"db/{i:05d}.jpg" for i in range(20)], [street_run.pose_at(i) for i in range(20)],
            ),
            "localization.json", "points",
        ),
    ],
)  # fmt: skip
def test_broken_runs(
    street: tuple[Path, Path], tmp_path: Path, break_it: Any, subject: str, problem: str
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(street[1], outputs)
    break_it(outputs)
    with refused(subject, problem):
        gather(outputs)


def test_command(street: tuple[Path, Path], tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)
    output = tmp_path / "new" / "r.html"
    arguments = [str(street[1]), "--dataset", str(street[0]), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "12 queries" in result.stdout and output.is_file()
    result = CliRunner().invoke(app, [str(tmp_path / "none")])
    assert isinstance(result.exception, SamfeatError)


# ---- the page in a browser ----


def start_browser(profile: Path, *flags: str) -> Any:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next((found for name in names if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver")
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start_browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def colours(browser: Any) -> int:
    """Number of different colours that the 3-D view shows."""
    canvas = browser.find_element("id", "scene")
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    picture = Image.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB")
    return len(picture.getcolors(maxcolors=1 << 24) or [])


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.1)


def test_page_in_a_browser(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    until(lambda: colours(browser) > 100)  # not blank: points of many colours
    assert errors(browser) == []
    script = browser.execute_script
    assert script("return document.querySelectorAll('#queries tbody tr').length") == 12
    assert script("return document.querySelectorAll('#accuracy tbody tr').length") == 2
    assert script("const c = document.getElementById('curves'); return c.naturalWidth") > 100

    # a click on a query in the view shows it
    content = island(page.read_text(encoding="utf-8"))
    script(
        "samfeatReport.viewer.show('truth', false); samfeatReport.viewer.show('database', false)"
    )
    script("document.getElementById('scene').scrollIntoView({ block: 'center' })")
    row = 9
    spot = script("samfeatReport.viewer.above(); return samfeatReport.viewer.at(arguments[0])", row)
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = browser.find_element("id", "scene")
    size = canvas.size
    ActionChains(browser).move_to_element_with_offset(
        canvas, round(spot[0] - size["width"] / 2), round(spot[1] - size["height"] / 2)
    ).click().perform()
    shown = browser.find_element("css selector", "#detail h3").text
    assert shown == content["queries"][row]["name"]
    until(lambda: "inliers (solid" in browser.find_element("css selector", ".match .caption").text)

    # a click on a row does too, and the keyboard goes on from there
    line = browser.find_element("css selector", '#queries tr[data-row="3"]')
    line.click()
    assert "wrong although many inliers" in browser.find_element("id", "detail").text
    before = browser.find_element("css selector", "#detail h3").text
    line.send_keys("\ue015")  # arrow down
    assert browser.find_element("css selector", "#detail h3").text != before

    # through its camera, by day and with a name that is markup
    script("samfeatReport.select(6)")
    assert browser.find_element("css selector", "#detail h3").text == street_run.HOSTILE[0]
    browser.find_element("id", "through").click()
    until(lambda: colours(browser) > 2000)  # the photo is in the view
    assert (
        script("return window.hacked === undefined && document.querySelectorAll('script').length")
        == 2
    )

    # drag and wheel change the view
    first = canvas.screenshot_as_png
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(
        80, 30
    ).release().perform()
    until(lambda: canvas.screenshot_as_png != first)

    # the filter keeps failed queries
    browser.find_element("css selector", "#filters input[type=checkbox]").click()
    visible = script(
        "return [...document.querySelectorAll('#queries tbody tr')].filter((r) => !r.hidden).length"
    )
    assert visible == sum(query["failed"] for query in content["queries"]) == 8
    assert errors(browser) == []

    requested = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
        and message["params"]["documentURL"].startswith("file:")  # not the browser's first tab
    ]
    assert requested and all(url.startswith(("file:", "data:", "blob:")) for url in requested)


def test_page_without_webgl(page: Path, tmp_path: Path) -> None:
    browser = start_browser(tmp_path / "profile", "--disable-3d-apis")
    try:
        browser.get(page.as_uri())
        assert browser.find_element("id", "no-webgl").is_displayed()
        assert browser.find_element("css selector", "#detail h3").text
        browser.find_element("css selector", '#queries tr[data-row="3"]').click()
        assert "wrong although many inliers" in browser.find_element("id", "detail").text
        assert not [e for e in errors(browser) if "WebGL" not in e]
    finally:
        browser.quit()


def test_a_larger_run_opens_quickly(browser: Any, tmp_path: Path) -> None:
    _, outputs = street_run.build(tmp_path, num_queries=200, num_points=100_000, num_db=120)
    started = time.monotonic()
    options = ReportOptions(max_points=50_000, max_pictures=10)
    page = write_report(gather(outputs, options=options), tmp_path / "r.html")
    assert time.monotonic() - started < 60
    browser.get(page.as_uri())
    until(lambda: colours(browser) > 100)
    timing = browser.execute_script(
        "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd"
    )
    assert timing < 15_000  # milliseconds, on a busy machine; 0.5 s when it is idle
    assert errors(browser) == []
