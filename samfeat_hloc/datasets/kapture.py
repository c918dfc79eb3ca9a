"""What other tools leave in kapture's folders, as hloc's files: features, matches, pairs, poses.

::

    DIR/sensors/sensors.txt             id, name, camera, MODEL, width, height, params...
    DIR/sensors/rigs.txt                optional: rig id, sensor id, qw, qx, qy, qz, tx, ty, tz
    DIR/sensors/records_camera.txt      timestamp, sensor id, image name
    DIR/sensors/trajectories.txt        timestamp, sensor or rig id, qw, ..., tz; world to sensor
    DIR/reconstruction/keypoints/<type>/keypoints.txt        type, dtype, values a keypoint
    DIR/reconstruction/keypoints/<type>/<image>.kpt          these values, x and y first
    DIR/reconstruction/descriptors/<type>/descriptors.txt, <image>.desc         likewise
    DIR/reconstruction/matches/<type>/<image>.overlapping/<image>.matches
                                        float64 triples: keypoint, keypoint, score

Without a folder for the type, as kapture 1.0 has it, the files lie one folder up. Keypoints are
taken as they are: kapture does not say whether the first pixel's centre is (0, 0); tools differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..colmap.cameras import Camera, parse_camera
from ..colmap.poses import Pose
from ..colmap.rig_config import Frame, RigCamera
from ..errors import SamfeatError
from ..files.feature_readers import pair_name
from ..files.images import check_name
from ..files.textlines import in_line, parse_number, read_text

_SUFFIX = {"keypoints": ".kpt", "descriptors": ".desc"}


@dataclass(frozen=True)
class Kapture:
    """Images of a kapture folder: intrinsics where they are known, and poses where there are.

    Attributes:
        root: the folder.
        cameras: by image name; only of images whose camera model COLMAP has.
        poses: world to camera by image name.
    """

    root: Path
    images: list[str]
    cameras: dict[str, Camera]
    poses: dict[str, Pose]


def read_kapture(root: Path) -> Kapture:
    """Read sensors, records and trajectories.

    Raises:
        SamfeatError: with file and line: no records, malformed lines, an unknown sensor.
    """
    sensors = root / "sensors"
    records = sensors / "records_camera.txt"
    cameras = _cameras(sensors)
    rigs = _rigs(sensors)
    placed: dict[tuple[str, str], Pose] = {}
    if (sensors / "trajectories.txt").is_file():
        for number, values in _rows(sensors / "trajectories.txt", 9):
            pose = _pose(values[2:], f"{sensors / 'trajectories.txt'}:{number}")
            placed[values[0], values[1]] = pose
            for sensor, from_rig in rigs.get(values[1], {}).items():
                placed[values[0], sensor] = from_rig @ pose
    found = Kapture(root, [], {}, {})
    for time, sensor, name in _records(records):
        found.images.append(name)
        if sensor in cameras:
            found.cameras[name] = cameras[sensor]
        if (time, sensor) in placed:
            found.poses[name] = placed[time, sensor]
    if not found.images:
        raise SamfeatError(records, "no images in it", "check the folder")
    return found


def read_frames(root: Path) -> list[Frame]:
    """The frames of several photos: those of one time, by the cameras of one rig.

    Raises:
        SamfeatError: with file and line: no records, malformed lines.
    """
    sensors = root / "sensors"
    cameras, rigs = _cameras(sensors), _rigs(sensors)
    rig_of = {sensor: rig for rig, members in rigs.items() for sensor in members}
    found: dict[tuple[str, str], Frame] = {}
    for time, sensor, name in _records(sensors / "records_camera.txt"):
        if sensor not in rig_of:
            continue
        camera = cameras.get(sensor)
        rig_camera = RigCamera(
            "",
            rigs[rig_of[sensor]][sensor],
            None if camera is None else camera.model,
            () if camera is None else camera.params,
        )
        frame = found.setdefault((time, rig_of[sensor]), Frame(time, []))
        frame.photos.append((rig_camera, name))
    return [frame for frame in found.values() if len(frame.photos) > 1]


def _cameras(sensors: Path) -> dict[str, Camera]:
    """Intrinsics by sensor; only of camera models that COLMAP has."""
    cameras: dict[str, Camera] = {}
    for number, values in _rows(sensors / "sensors.txt", 3):
        if values[2] != "camera":
            continue
        try:
            cameras[values[0]] = parse_camera(
                [values[3], *(_whole(value) for value in values[4:6]), *values[6:]]
            )
        except (ValueError, IndexError) as error:
            if values[3:4] == ["UNKNOWN_CAMERA"]:
                continue
            raise SamfeatError(f"{sensors / 'sensors.txt'}:{number}", error) from None
    return cameras


def _rigs(sensors: Path) -> dict[str, dict[str, Pose]]:
    """By rig and sensor the sensor's pose in the rig."""
    rigs: dict[str, dict[str, Pose]] = {}
    if (sensors / "rigs.txt").is_file():
        for number, values in _rows(sensors / "rigs.txt", 9):
            pose = _pose(values[2:], f"{sensors / 'rigs.txt'}:{number}")
            rigs.setdefault(values[0], {})[values[1]] = pose
    return rigs


def _records(path: Path) -> Iterator[tuple[str, str, str]]:
    """Time, sensor and name of each image."""
    for number, (time, sensor, name, *_) in _rows(path, 3):
        with in_line(path, number):
            check_name(name)
        yield time, sensor, name


def write_features(content: Kapture, output: Path) -> int:
    """Write keypoints and descriptors in hloc's format; how many images have them.

    Raises:
        SamfeatError: no keypoints, descriptors of another number than their keypoints, or a file
            of another length than it has to have.
    """
    written = 0
    folders = {kind: _folder(content.root, kind) for kind in _SUFFIX}
    if folders["keypoints"] is None:
        where = content.root / "reconstruction" / "keypoints"
        raise SamfeatError(where, "no keypoints there", "check the folder")
    with h5py.File(output, "w") as file:
        for name in content.images:
            arrays = {
                kind: _array(folder, name, kind)
                for kind, folder in folders.items()
                if folder is not None
            }
            keypoints, descriptors = arrays["keypoints"], arrays.get("descriptors")
            if keypoints is None:
                continue
            if descriptors is not None and len(descriptors) != len(keypoints):
                raise SamfeatError(
                    content.root,
                    f"{name} has {len(keypoints)} keypoints and {len(descriptors)} descriptors",
                    "extract it again",
                )
            group = file.create_group(name)
            group["keypoints"] = keypoints[:, :2].astype(np.float32)
            if descriptors is not None:
                group["descriptors"] = descriptors.T
            if name in content.cameras:
                camera = content.cameras[name]
                group["image_size"] = np.array([camera.width, camera.height])
            written += 1
    return written


def write_matches(content: Kapture, output: Path) -> list[tuple[str, str]]:
    """Write the matches in hloc's format; their pairs, sorted.

    Raises:
        SamfeatError: a file of another length than whole matches, or one of an image without
            keypoints or beyond them.
    """
    folder = _folder(content.root, "matches")
    keypoints = _folder(content.root, "keypoints")
    pairs = []
    if folder is None or keypoints is None:
        return []
    with h5py.File(output, "w") as file:
        for path in sorted(folder.rglob("*.matches")):
            names = path.relative_to(folder).as_posix().removesuffix(".matches")
            first, _, second = names.partition(".overlapping/")
            points = _array(keypoints, first, "keypoints")
            others = _array(keypoints, second, "keypoints")
            data = np.fromfile(path, dtype=np.float64)
            if points is None or others is None or len(data) % 3:
                raise SamfeatError(path, "not matches of images with keypoints", "match again")
            rows = data.reshape(-1, 3)
            matches0 = np.full(len(points), -1, dtype=np.int32)
            scores = np.zeros(len(points), dtype=np.float16)
            index = rows[:, 0].astype(int)
            for name, found, count in (
                (first, index, len(points)),
                (second, rows[:, 1].astype(int), len(others)),
            ):
                if len(found) and not 0 <= found.min() <= found.max() < count:
                    raise SamfeatError(
                        path, f"it names keypoints that {name} has not", "match again"
                    )
            matches0[index], scores[index] = rows[:, 1].astype(np.int32), rows[:, 2]
            group = file.create_group(pair_name(first, second))
            group["matches0"], group["matching_scores0"] = matches0, scores
            pairs.append((first, second))
    return pairs


def _folder(root: Path, kind: str) -> Path | None:
    """Where the files of a kind lie: the only type of it."""
    base = root / "reconstruction" / kind
    if not base.is_dir():
        return None
    if (base / f"{kind}.txt").is_file():
        return base
    types = [p for p in base.iterdir() if p.is_dir() and p.suffix != ".overlapping"]
    if kind == "matches" and any(base.glob("*.overlapping")):
        return base
    if len(types) > 1:
        names = ", ".join(sorted(path.name for path in types))
        raise SamfeatError(base, f"there are several types ({names})", "leave one there")
    return types[0] if types else None


def _array(folder: Path, name: str, kind: str) -> np.ndarray | None:
    """(N, values) of an image; None where it has no file."""
    path = folder / f"{name}{_SUFFIX[kind]}"
    if not path.is_file():
        return None
    head = folder / f"{kind}.txt"
    for number, values in _rows(head, 3):
        try:
            dtype, size = np.dtype(values[1].removeprefix("np.")), int(values[2])
            data = np.fromfile(path, dtype=dtype)
            return data.reshape(-1, size)
        except TypeError:
            raise SamfeatError(f"{head}:{number}", f"unknown type '{values[1]}'") from None
        except ValueError:
            raise SamfeatError(
                path, f"not {values[2]} values of {values[1]} each", "extract it again"
            ) from None
    raise SamfeatError(head, "it says nothing", "write 'type, dtype, values'")


def _rows(path: Path, least: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        values = [value.strip() for value in line.split(",")]
        if len(values) < least:
            raise SamfeatError(
                f"{path}:{number}", f"{len(values)} values where {least} are needed", "check it"
            )
        yield number, values


def _pose(values: list[str], where: str) -> Pose:
    try:
        found = np.array([parse_number(value) for value in values[:7]])
        norm = float(np.linalg.norm(found[:4]))
        if abs(norm - 1) > 1e-2:
            raise ValueError(f"the quaternion has length {norm:.6g} instead of 1")
    except ValueError as error:
        raise SamfeatError(where, error, "write 'qw, qx, qy, qz, tx, ty, tz'") from None
    return Pose(found[:4] / norm, found[4:])


def _whole(value: str) -> str:
    """``320`` of ``320.0``, as kapture writes sizes."""
    return value.removesuffix(".0")
