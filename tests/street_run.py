"""The outputs of a run in a made-up street, of any size, without a network: for the report.

A facade along x, 10 m in front of cameras that look at it. The queries' poses and logs say that
some went wrong, each in a way of its own.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import h5py
import numpy as np

from samfeat_hloc.colmap.poses import Pose, write_poses
from samfeat_hloc.files.outputs import Output
from samfeat_hloc.localization.result import FALLBACK, LOCALIZED, QueryResult, write_result

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
SPACING = 4.0  # metres between database images
MOST_SEEN = 400
POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8"),
     ("a", "<u4", 2), ("b", "<u4", 2)]
)  # fmt: skip
# names that would run a script, were they markup
HOSTILE = [
    "query/day/</script><script>window.hacked=1</script>.jpg",
    'query/day/"><img/src=x/onerror=window.hacked=1>.jpg',
    "query/day/'-alert(1)-'&lt;$style.jpg",
]


def pose_at(x: float, y: float = -10.0, z: float = 1.7) -> Pose:
    """A camera that looks along +y, upright."""
    half = np.sqrt(0.5)
    facing = Pose(np.array([half, half, 0, 0]), np.zeros(3))  # x right, z down, y forward
    return Pose(facing.qvec, -facing.rotation @ np.array([x, y, z]))


def seen_from(pose: Pose, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the points in the picture, at most MOST_SEEN, and their pixels (corner origin)."""
    x = pose.centre[0]
    near = np.flatnonzero(np.abs(xyz[:, 0] - x) < 7)
    camera = xyz[near] @ pose.rotation.T + pose.tvec
    pixels = camera[:, :2] / camera[:, 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]
    inside = ((pixels >= 0) & (pixels <= [WIDTH, HEIGHT])).all(axis=1)
    near, pixels = near[inside], pixels[inside]
    some = np.linspace(0, len(near) - 1, min(len(near), MOST_SEEN)).astype(int)
    return near[some], pixels[some]


def write_map(folder: Path, xyz: np.ndarray, names: list[str], poses: list[Pose]) -> None:
    """A binary COLMAP model, as far as the package reads it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    camera = struct.pack("<QIiQQ4d", 1, 1, 1, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    (folder / "cameras.bin").write_bytes(camera)
    images = [struct.pack("<Q", len(names))]
    for number, (name, pose) in enumerate(zip(names, poses, strict=True), start=1):
        rows, pixels = seen_from(pose, xyz)
        observed = np.zeros(len(rows), dtype=[("xy", "<f8", 2), ("point", "<i8")])
        observed["xy"], observed["point"] = pixels, rows + 1
        images += [
            struct.pack("<I7dI", number, *pose.qvec, *pose.tvec, 1), name.encode() + b"\0",
            struct.pack("<Q", len(rows)), observed.tobytes(),
        ]  # fmt: skip
    (folder / "images.bin").write_bytes(b"".join(images))
    points = np.zeros(len(xyz), dtype=POINT)
    points["id"], points["xyz"], points["track"], points["error"] = (
        np.arange(1, len(xyz) + 1), xyz, 2, 0.5,
    )  # fmt: skip
    points["rgb"] = rng.integers(40, 220, (len(xyz), 3))
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(xyz)) + points.tobytes())


def build(
    root: Path,
    *,
    num_queries: int = 12,
    num_points: int = 6000,
    num_db: int = 20,
    hostile: bool = False,
    num_retrieved: int = 5,
) -> tuple[Path, Path]:
    """Write a dataset and a run on it.

    Queries 0, 10, 20, ... got none but far images, 1, 11, ... few matches, 2, 12, ... few
    inliers, 3, 13, ... a wrong place, 4, 14, ... are 0.4 m off, 5, 15, ... fell back to the first
    image; the others are right.

    Returns:
        The dataset's folder and the outputs.
    """
    rng = np.random.default_rng(0)
    dataset, outputs = root / "street", root / "outputs"
    length = num_db * SPACING
    xyz = np.column_stack(
        [rng.uniform(-6, length + 6, num_points), rng.normal(0, 0.2, num_points),
         rng.uniform(-0.5, 6, num_points)]
    )  # fmt: skip
    db_names = [f"db/{i:05d}.jpg" for i in range(num_db)]
    db_poses = [pose_at(i * SPACING) for i in range(num_db)]
    names = [f"query/{'night' if i % 2 else 'day'}/{i:05d}.jpg" for i in range(num_queries)]
    if hostile:
        names[6:12:2] = HOSTILE
    truth = [pose_at(rng.uniform(0, length - SPACING)) for _ in names]

    picture = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8), (0, 0), 9)
    encoded = cv2.imencode(".jpg", cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))[1]
    for name in [*db_names, *names]:
        path = dataset / "images_upright" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    camera = f"PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}"
    (dataset / "queries").mkdir()
    for condition in ("day", "night"):
        listed = "".join(f"{name} {camera}\n" for name in names if f"/{condition}/" in name)
        (dataset / "queries" / f"{condition}_time_queries_with_intrinsics.txt").write_text(listed)
    by_base = {Path(name).name: pose for name, pose in zip(names, truth, strict=True)}
    write_poses(dataset / "queries" / "ground_truth.txt", by_base)
    for folder in (dataset / "3D-models" / "aachen_v_1_1", outputs / "map"):
        write_map(folder, xyz, db_names, db_poses)

    results = {}
    with (
        h5py.File(outputs / "features.h5", "w") as features,
        h5py.File(outputs / "matches-query.h5", "w") as matches,
    ):
        seen_by = [seen_from(pose, xyz) for pose in db_poses]
        for name, (_, pixels) in zip(db_names, seen_by, strict=True):
            features.create_dataset(f"{name}/keypoints", data=(pixels - 0.5).astype(np.float32))
        for i, (name, true) in enumerate(zip(names, truth, strict=True)):
            kind = i % 10
            rows, pixels = seen_from(true, xyz)
            features.create_dataset(f"{name}/keypoints", data=(pixels - 0.5).astype(np.float32))
            first = int(np.clip(true.centre[0] // SPACING - 2, 0, num_db - num_retrieved))
            if kind == 0:
                first = 0 if first > num_db / 2 else num_db - num_retrieved
            retrieved = []
            for number in range(first, first + num_retrieved):
                matches0 = np.full(len(rows), -1, dtype=np.int16)
                common, mine, others = np.intersect1d(rows, seen_by[number][0], return_indices=True)
                matches0[mine] = others
                key = f"{name.replace('/', '-')}/{db_names[number].replace('/', '-')}"
                matches.create_dataset(f"{key}/matches0", data=matches0)
                retrieved.append((db_names[number], len(common)))
            centre = true.centre + rng.normal(0, 0.02, 3)
            centre[0] += {0: 25, 1: 2, 2: 2, 3: 25, 4: 0.4}.get(kind, 0)
            pose = pose_at(*centre)
            num_inliers = {0: 8, 1: 6, 2: 11, 5: 0}.get(kind, len(rows) // 2)
            results[name] = QueryResult(
                name=name,
                condition="night" if i % 2 else "day",
                pose=db_poses[first] if kind == 5 else pose,
                status=FALLBACK if kind == 5 else LOCALIZED,
                num_keypoints=len(rows),
                num_matches=sum(count for _, count in retrieved),
                num_correspondences=12 if kind in (1, 5) else len(rows),
                num_matched=12 if kind in (1, 5) else len(rows),
                retrieved=retrieved,
                inlier_keypoints=np.arange(num_inliers, dtype=np.int32),
                inlier_points=rows[:num_inliers].astype(np.int64) + 1,
            )
    made_by = {"stage": "localize", "config": {"max_error": 12}}
    write_result(results, Output(outputs / "poses.txt", made_by))
    summary = {"dataset": str(dataset), "engine": "native", "conf": "samfeat_aachen"}
    (outputs / "summary.json").write_text(json.dumps(summary))
    return dataset, outputs
