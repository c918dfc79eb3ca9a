"""Frames of a video to map: the sharpest ones between which the picture has moved.

::

    OUTPUT/frame-000000.jpg, frame-000031.jpg, ...   their numbers in the video, from 0
    OUTPUT/frames.txt                                name seconds, a line each
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import SamfeatError
from ..files import provenance
from ..files.outputs import Output
from ..files.signatures import signature
from ..files.textlines import data_lines, parse_number
from ..progress import tqdm

logger = logging.getLogger(__name__)

MOTION = 0.1  # of the picture's longer side
LIST = "frames.txt"
_SIDE = 640  # pixels of the longer side of the pictures that are looked at
_TRACKED = 200  # corners
_MOST_ASTRAY = 1.0  # pixels, of a corner that is followed to the next picture and back
_FEWEST = 20  # corners that tell a motion
_USUAL = 60  # frames whose sharpness a frame's is compared with
_BLURRED = 0.25
_QUALITY = 95
_CUT_OFF = 0.95  # of the frames that the header tells


@dataclass(frozen=True)
class Frame:
    """A frame of a video: its file's name and its time from the beginning, in seconds."""

    name: str
    seconds: float


def main(
    video: Path, output: Path, *, motion: float = MOTION, overwrite: bool = False
) -> list[Frame]:
    """Choose frames of a video and write them into a folder, see :func:`choose`.

    Arguments:
        video: a file that OpenCV reads (MP4, MOV, AVI, MKV, WebM). Phones' videos are turned
            upright.
        output: folder to write.
        motion: see :func:`choose`.

    Raises:
        SamfeatError: no such file, no video, one without frames or in which nothing moves, or an
            output that was made differently.
    """
    if not 0 < motion < 1:
        raise SamfeatError("motion", f"{motion} is not possible", "give a share from 0 to 1")
    _check(video)
    made_by = provenance.made_by(
        "frames", {"motion": motion}, {"video": provenance.file_hash(video)}
    )
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return read_list(output / LIST)
    frames: list[Frame] = []
    with closing(_Reader(video)) as reader, result.making() as work:
        folder = work / "frames"
        folder.mkdir()
        for number, seconds, picture in choose(reader, motion):
            name = f"frame-{number:06d}.jpg"
            coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
            (folder / name).write_bytes(coded.tobytes())
            frames.append(Frame(name, round(seconds, 3)))
        read, told = reader.read, reader.told
        if not read:
            raise SamfeatError(video, "no frame of this video can be read", "convert it to MP4")
        if len(frames) < 2:
            raise SamfeatError(
                video,
                f"the picture hardly moves in its {read} frames",
                "film while you walk, or give a smaller --motion",
            )
        lines = "".join(f"{frame.name} {frame.seconds:.3f}\n" for frame in frames)
        (folder / LIST).write_text(lines, encoding="utf-8")
        result.put(folder)
    if read < _CUT_OFF * told:
        logger.warning("%s: only %d of its %d frames could be read", video, read, told)
    logger.info("frames: %s, %d of %d frames", output, len(frames), read)
    return frames


def read_list(path: Path) -> list[Frame]:
    """The frames that :func:`main` listed.

    Raises:
        SamfeatError: no such file, or a malformed line.
    """
    frames = []
    for number, tokens in data_lines(path):
        try:
            name, seconds = tokens
            frames.append(Frame(name, parse_number(seconds)))
        except ValueError:
            raise SamfeatError(
                f"{path}:{number}", "not 'name seconds'", "choose the frames again"
            ) from None
    return frames


def choose(
    frames: Iterable[tuple[int, float, np.ndarray]], motion: float = MOTION
) -> Iterator[tuple[int, float, np.ndarray]]:
    """The sharpest frames between which the picture has moved.

    Corners are tracked from frame to frame and back (Lucas and Kanade). Where they have moved by
    ``motion`` of the longer side in the median, a frame is chosen: of those since half the motion
    the sharpest, by the variance of the Laplacian. Where half of them are lost, at a cut or a quick
    turn, the sharpest before and the sharpest after are. At the end one more is chosen, where there
    was half the motion. Frames a quarter as sharp as those before them are not taken. One frame is
    in memory at a time besides the sharpest.

    Arguments:
        frames: number, seconds, and (H, W, 3) uint8 BGR.
        motion: a share of the longer side.
    """
    tracks = _Tracks()
    usual: deque[float] = deque(maxlen=_USUAL)
    best: tuple[int, float, np.ndarray] | None = None
    sharpest = -1.0
    fresh = True  # nothing of what is seen now was chosen yet
    for frame in frames:
        grey = _small_grey(frame[2])
        sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
        usual.append(sharpness)
        moved = tracks.follow(grey)
        if moved == np.inf:
            if best is not None and sharpest >= _BLURRED * np.median(usual):
                yield best
            best, sharpest, fresh = None, -1.0, True
            tracks.begin(grey)
        if (fresh or moved >= motion / 2) and sharpness > sharpest:
            best, sharpest = frame, sharpness
        if motion <= moved < np.inf and best is not None:
            if sharpest >= _BLURRED * np.median(usual):
                yield best
            best, sharpest, fresh = None, -1.0, False
            tracks.begin(grey)
    if best is not None and sharpest >= _BLURRED * np.median(usual):
        yield best


class _Tracks:
    """Corners of a picture, followed through those after it."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._begun = self._now = np.zeros((0, 1, 2), np.float32)
        self._count = 0

    def begin(self, grey: np.ndarray) -> None:
        """Follow the corners of this picture from now on."""
        found = cv2.goodFeaturesToTrack(grey, _TRACKED, 0.01, 8)
        self._begun = self._now = (
            np.zeros((0, 1, 2), np.float32) if found is None else found.reshape(-1, 1, 2)
        )
        self._count = len(self._begun)
        self._last = grey

    def follow(self, grey: np.ndarray) -> float:
        """How far the corners have moved since the beginning, in the median, as a share of the
        longer side; infinity where half of them are lost."""
        if self._last is None or self._count < _FEWEST:  # a picture of nothing tells no motion
            self.begin(grey)
            return 0.0
        after, found, _ = cv2.calcOpticalFlowPyrLK(self._last, grey, self._now, None)
        back, again, _ = cv2.calcOpticalFlowPyrLK(grey, self._last, after, None)
        astray = np.linalg.norm((back - self._now).reshape(-1, 2), axis=1)
        kept = (found.reshape(-1) == 1) & (again.reshape(-1) == 1) & (astray < _MOST_ASTRAY)
        self._begun, self._now = self._begun[kept], after[kept]
        self._last = grey
        if len(self._now) < self._count / 2:
            return float("inf")
        shift = np.linalg.norm((self._now - self._begun).reshape(-1, 2), axis=1)
        return float(np.median(shift)) / max(grey.shape)


def _small_grey(picture: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    scale = _SIDE / max(grey.shape)
    if scale >= 1:
        return np.asarray(grey)
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _check(video: Path) -> None:
    if not video.is_file():
        raise SamfeatError(video, "no such video", "check the path")
    found = signature(video)
    if found is not None and found.photo:
        raise SamfeatError(
            video, f"{found.what}, not a video", "give the folder that the photos are in"
        )


class _Reader:
    """The frames of a video one by one, with a bar; `read` counts them, `told` is what the header
    says."""

    def __init__(self, video: Path) -> None:
        # FFmpeg prints what it thinks of a broken file; OpenCV takes the level from here
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._capture = cv2.VideoCapture(str(video))
        if not self._capture.isOpened():
            raise SamfeatError(
                video, "not a video that OpenCV reads", "convert it to MP4, for instance by ffmpeg"
            )
        self.read = 0
        self.told = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[tuple[int, float, np.ndarray]]:
        with tqdm(total=self.told or None, desc="frames", unit="frame", delay=2) as bar:
            while True:
                there, picture = self._capture.read()
                if not there:
                    return
                yield self.read, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, picture
                self.read += 1
                bar.update()

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
