"""Frames of videos, and pairs of images that come one after the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from refusals import error_line, refused
from typer.testing import CliRunner

from samfeat_hloc.cli import app
from samfeat_hloc.colmap.model import read_model
from samfeat_hloc.files.image_folders import list_images
from samfeat_hloc.files.images import read_image
from samfeat_hloc.files.pair_lists import read_pairs
from samfeat_hloc.localization import sequences, video_frames
from samfeat_hloc.localization.sequences import in_sequences, natural_order, neighbours
from samfeat_hloc.pipelines import reconstruct
from samfeat_hloc.pipelines.reconstruct import ReconstructOptions

TOWN = Path(__file__).resolve().parents[2] / "shared" / "data" / "town" / "images_upright" / "db"
SIZE = (320, 240)
STEP = 4  # pixels from frame to frame
FPS = 10


def write_video(path: Path, frames: list[np.ndarray], fps: float = FPS) -> Path:
    """BGR frames of one size in Motion JPEG."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def panorama(width: int = 900) -> np.ndarray:
    """A picture with corners all over."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIZE[1] // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(picture, (width, SIZE[1]), interpolation=cv2.INTER_CUBIC)


def panned(count: int, blurred: int = 2) -> list[np.ndarray]:
    """A camera that pans by `STEP` pixels a frame; every frame but each `blurred`-th is blurred."""
    whole = panorama(SIZE[0] + STEP * count)
    frames = [whole[:, STEP * i : STEP * i + SIZE[0]] for i in range(count)]
    return [f if i % blurred == 0 else cv2.GaussianBlur(f, (0, 0), 2) for i, f in enumerate(frames)]


def numbered(frames: list[np.ndarray]) -> Iterator[tuple[int, float, np.ndarray]]:
    return ((i, i / FPS, frame) for i, frame in enumerate(frames))


def test_the_order_of_names_is_that_of_their_numbers() -> None:
    names = ["b/1.jpg", "a/10.jpg", "a/2.jpg", "a/1.jpg", "a/b2/1.jpg", "x.jpg", "a/02.jpg"]
    assert natural_order(names) == [
        "a/1.jpg", "a/02.jpg", "a/2.jpg", "a/10.jpg", "a/b2/1.jpg", "b/1.jpg", "x.jpg"
    ]  # fmt: skip
    assert in_sequences(names) == [
        ["a/1.jpg", "a/02.jpg", "a/2.jpg", "a/10.jpg"], ["a/b2/1.jpg"], ["b/1.jpg"], ["x.jpg"]
    ]  # fmt: skip
    assert natural_order(["²3", "3", "x٣"]) == ["3", "x٣", "²3"]


def test_neighbours_overlap_quadratically() -> None:
    names = [str(i) for i in range(40)]
    pairs = neighbours(names, 5)
    assert [int(b) for a, b in pairs if a == "0"] == [1, 2, 3, 4, 5, 8, 16]
    assert [int(b) for a, b in pairs if a == "30"] == [31, 32, 33, 34, 35, 38]
    assert [b for a, b in pairs if a == "39"] == []
    assert len(set(pairs)) == len(pairs)
    assert neighbours(["a"], 5) == []


@pytest.fixture
def way(tmp_path: Path) -> tuple[list[str], Path]:
    """40 frames of a way that ends where it began, with their global descriptors."""
    names = [f"frame{i}.jpg" for i in range(40)]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    centres = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    with h5py.File(tmp_path / "global.h5", "w") as file:
        for name, angle in zip(names, angles, strict=True):
            vector = np.exp(8 * (np.cos(angle - centres) - 1)).astype(np.float32)
            file[f"{name}/global_descriptor"] = vector / np.linalg.norm(vector)
    return names, tmp_path / "global.h5"


def test_a_loop_is_closed_by_what_looks_alike(way: tuple[list[str], Path], tmp_path: Path) -> None:
    names, descriptors = way
    output = tmp_path / "pairs.txt"
    again = {"overlap": 2, "descriptors": descriptors, "num_retrieved": 3}
    pairs = read_pairs(sequences.main(names[::-1], output, **again))  # type: ignore[arg-type]
    near = neighbours(names, 2)
    assert pairs[: len(near)] == near
    loops = {frozenset(pair) for pair in pairs[len(near) :]}
    assert len(loops) == len(pairs) - len(near)
    assert frozenset(("frame0.jpg", "frame39.jpg")) in loops
    away = [abs(int(a[5:-4]) - int(b[5:-4])) for a, b in pairs[len(near) :]]
    assert min(away) == 5  # more than twice the overlap
    # no more than 3 of each image's own, and those that others chose
    assert sum(name == "frame20.jpg" for name, _ in pairs[len(near) :]) <= 3
    without = read_pairs(sequences.main(names, tmp_path / "no.txt", overlap=2))
    assert without == near
    written = output.stat().st_mtime_ns
    sequences.main(names[::-1], output, **again)  # type: ignore[arg-type]
    assert output.stat().st_mtime_ns == written
    with refused("pairs.txt", "overlap", "--overwrite"):
        sequences.main(names[::-1], output, overlap=3, descriptors=descriptors, num_retrieved=3)


def test_sequences_that_cannot_be_paired(way: tuple[list[str], Path], tmp_path: Path) -> None:
    names, descriptors = way
    output = tmp_path / "pairs.txt"
    with refused("overlap", "0"):
        sequences.main(names, output, overlap=0)
    with refused("pairs.txt", "no two images"):
        sequences.main(names[:1], output)
    with refused("pairs.txt", "folder of its own"):
        sequences.main(["a/1.jpg", "b/1.jpg"], output)
    with refused("global.h5", "other.jpg"):
        sequences.main([*names, "other.jpg"], output, descriptors=descriptors)
    assert not output.exists()


def test_sharp_frames_are_taken_where_the_picture_has_moved() -> None:
    frames = panned(60, blurred=3)
    chosen = [number for number, _, _ in video_frames.choose(numbered(frames), motion=0.1)]
    # 0.1 of 320 pixels are 8 frames of 4 pixels; each is of the second half of its stretch
    assert all(number % 3 == 0 for number in chosen)
    assert 7 <= len(chosen) <= 8
    assert min(np.diff(chosen)) >= 4 and max(np.diff(chosen)) <= 12
    often = list(video_frames.choose(numbered(frames), motion=0.05))
    assert len(often) > 1.5 * len(chosen)


def test_a_camera_that_shakes_does_not_move() -> None:
    whole = panorama()
    shifts = np.random.default_rng(1).integers(0, 12, (80, 2))
    frames = [whole[: SIZE[1] - 12, x : x + SIZE[0]] for x, _ in shifts]
    assert len(list(video_frames.choose(numbered(frames), motion=0.1))) == 1
    # a cut shows something else at once
    other = cv2.flip(whole, -1)[: SIZE[1] - 12, : SIZE[0]]
    chosen = [n for n, _, _ in video_frames.choose(numbered([*frames, *[other] * 9]))]
    assert len(chosen) == 2 and chosen[0] < 80 <= chosen[1]
    blank = [np.zeros((240, 320, 3), np.uint8)] * 20
    assert len(list(video_frames.choose(numbered(blank)))) == 1


def test_frames_are_kept_with_their_names_and_times(tmp_path: Path) -> None:
    source = panned(40)
    video = write_video(tmp_path / "walk.avi", source)
    frames = video_frames.main(video, tmp_path / "frames")
    assert [frame.name for frame in frames] == list_images(tmp_path / "frames")
    assert video_frames.read_list(tmp_path / "frames" / "frames.txt") == frames
    for frame in frames:
        number = int(frame.name[len("frame-") : -len(".jpg")])
        assert frame.seconds == pytest.approx(number / FPS, abs=1e-3)
        picture = read_image(tmp_path / "frames" / frame.name)[..., ::-1].astype(int)
        assert np.abs(picture - source[number]).mean() < 8
    written = (tmp_path / "frames" / "frames.txt").stat().st_mtime_ns
    assert video_frames.main(video, tmp_path / "frames") == frames
    assert (tmp_path / "frames" / "frames.txt").stat().st_mtime_ns == written
    with refused("frames", "motion", "--overwrite"):
        video_frames.main(video, tmp_path / "frames", motion=0.2)
    done = CliRunner().invoke(app, ["frames", str(video), "--output", str(tmp_path / "cli")])
    assert done.exit_code == 0 and f"{len(frames)} frames" in done.stdout


def test_what_is_no_video(tmp_path: Path) -> None:
    output = tmp_path / "frames"
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    header = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    (tmp_path / "cut.mp4").write_bytes(header + bytes(4000))
    for name in ("text.mp4", "cut.mp4"):
        with refused(name, "not a video", "MP4"):
            video_frames.main(tmp_path / name, output)
    with refused("none.mp4", "no such video"):
        video_frames.main(tmp_path / "none.mp4", output)
    cv2.imwrite(str(tmp_path / "photo.jpg"), panorama())
    with refused("photo.jpg", "JPEG photo", "folder"):
        reconstruct.run(tmp_path / "photo.jpg", tmp_path / "house")
    with refused("text.mp4", "not a video"):
        reconstruct.run(tmp_path / "text.mp4", tmp_path / "house")
    assert not (tmp_path / "house").exists()
    cv2.VideoWriter(
        str(tmp_path / "empty.avi"), cv2.VideoWriter_fourcc(*"MJPG"), FPS, SIZE
    ).release()
    with refused("empty.avi", "no frame"):
        video_frames.main(tmp_path / "empty.avi", output)
    still = write_video(tmp_path / "still.avi", [panorama()[:, :320]] * 8)
    with refused("still.avi", ("hardly moves", "8 frames"), "--motion"):
        video_frames.main(still, output)
    with refused("motion", "2"):
        video_frames.main(still, output, motion=2)
    with refused("--motion 0"):
        ReconstructOptions(motion=0)
    assert not output.exists()
    command = [sys.executable, "-m", "samfeat_hloc", "frames", str(tmp_path / "cut.mp4")]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True)
    assert done.returncode == 1
    assert error_line(done.stderr, "cut.mp4", "not a video") == done.stderr.strip()


def test_a_video_that_is_cut_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = write_video(tmp_path / "walk.avi", panned(60))
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 2 // 3])
    video_frames.main(video, tmp_path / "frames")
    assert "of its 60 frames could be read" in caplog.text


@pytest.mark.skipif(not TOWN.is_dir(), reason="../shared/data/town is not there")
def test_a_video_is_reconstructed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seven photos of a fountain, each for half a second, the first blurred at its beginning."""
    photos = [cv2.imread(str(path)) for path in sorted(TOWN.glob("fountain*"))]
    photos = [cv2.resize(p, (640, 426), interpolation=cv2.INTER_AREA) for p in photos]
    frames = [photo for photo in photos for _ in range(5)]
    frames[0] = cv2.GaussianBlur(frames[0], (0, 0), 5)
    video = write_video(tmp_path / "walk.avi", frames)
    options = ReconstructOptions(preset="samfeat_fast", pairing="sequence", overlap=2)
    with caplog.at_level("INFO"):
        done = reconstruct.run(video, tmp_path / "house", options)
    chosen = video_frames.read_list(tmp_path / "house" / "frames" / "frames.txt")
    numbers = [round(frame.seconds * FPS) for frame in chosen]
    # two of the photos differ little from the one before
    assert [number // 5 for number in numbers] == [0, 2, 4, 5, 6] and numbers[0] > 0
    assert done.num_images == done.figures.registered_images == 5
    model = read_model(done.models[0])
    assert sorted(model.images) == [frame.name for frame in chosen]
    assert len({model.camera_of(name) for name in model.images}) == 1
    names = [frame.name for frame in chosen]
    pairs = read_pairs(tmp_path / "house" / "pairs-sequence2.txt")
    assert pairs[:7] == neighbours(names, 2)
    written = (done.models[0] / "points3D.bin").stat().st_mtime_ns
    again = reconstruct.run(video, tmp_path / "house", options)
    assert (again.models[0] / "points3D.bin").stat().st_mtime_ns == written


def test_pairs_of_a_sequence_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    cv2.imwrite(str(tmp_path / "walk" / "1.jpg"), panorama())
    for number in (2, 10, 11):
        shutil.copy(tmp_path / "walk" / "1.jpg", tmp_path / "walk" / f"{number}.jpg")
    output = tmp_path / "pairs.txt"
    command = ["pairs", "sequence", "--output", str(output), "--overlap", "1"]
    result = CliRunner().invoke(app, [*command, "--images", str(tmp_path / "walk")])
    assert result.exit_code == 0, result.output
    assert read_pairs(output) == [("1.jpg", "2.jpg"), ("2.jpg", "10.jpg"), ("10.jpg", "11.jpg")]
    with refused("--images", "--list"):
        raise CliRunner().invoke(app, command).exception or AssertionError
