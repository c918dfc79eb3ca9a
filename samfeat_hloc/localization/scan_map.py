"""A map of laser scans: every keypoint of the database that a query is matched with, at the place
that the scan has for its pixel. No two images share a point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ..colmap.cameras import Camera
from ..colmap.model import ModelImage
from ..colmap.model_changes import assemble, write_model
from ..colmap.poses import Pose
from ..errors import SamfeatError
from ..files import provenance
from ..files.feature_readers import FeatureReader, MatchReader
from ..files.outputs import Output
from ..files.pair_lists import pairs_text, read_pairs
from ..progress import tqdm
from .depth_points import at_pixels

logger = logging.getLogger(__name__)

MIN_MATCHES = 20  # of a query and a database image, as hloc's pipeline of InLoc has it
_SAMPLES = 2000  # pixels that a cut-out's camera is found from


def enough_matches(
    pairs: Path, matches: Path, output: Path, *, least: int = MIN_MATCHES, overwrite: bool = False
) -> Path:
    """The pairs with so many matches; of a query without any, the one with the most, and of
    several the first.

    Raises:
        SamfeatError: a file is damaged, or `output` was made differently.
    """
    inputs = provenance.file_hashes(pairs=pairs, matches=matches)
    made_by = provenance.made_by("enough_matches", {"least": least}, inputs)
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    by_query: dict[str, list[tuple[int, str]]] = {}
    with MatchReader(matches) as reader:
        for query, name in read_pairs(pairs):
            count = len(reader.matches(query, name))
            by_query.setdefault(query, []).append((count, name))
    kept = []
    for query, found in by_query.items():
        chosen = [name for count, name in found if count >= least]
        kept += [(query, name) for name in chosen or [max(found, key=lambda one: one[0])[1]]]
    return result.write_text(pairs_text(kept))


def main(
    scan_of: Callable[[str], tuple[np.ndarray, np.ndarray]],
    pairs: Path,
    features: Path,
    matches: Path,
    output: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Make the map.

    Args:
        scan_of: of a database image its points (H, W, 3) in metres in the frame of a scanner at
            the origin, NaN where there is none, and the (4, 4) matrix from there to the world.
        pairs: list of 'query database-image' lines.
        features, matches: files in hloc's format.
        output: folder of the map (binary COLMAP model); written beside it first.

    Returns:
        `output`.

    Raises:
        SamfeatError: a scan is damaged or of another size than its image, no matched keypoint
            has a place, or `output` was made differently.
    """
    inputs = provenance.file_hashes(pairs=pairs, features=features, matches=matches)
    made_by = provenance.made_by("scan_map", {}, inputs)
    result = Output(output, made_by, overwrite=overwrite)
    if result.is_there():
        return output
    listed: dict[str, list[str]] = {}
    for query, name in read_pairs(pairs):
        listed.setdefault(name, []).append(query)
    images: list[tuple[str, Camera, ModelImage]] = []
    places: list[np.ndarray] = []
    total = 0
    with FeatureReader(features) as feature_file, MatchReader(matches) as match_file:
        for name, queries in tqdm(listed.items(), desc="scans", unit="image"):
            keypoints = feature_file.keypoints(name)
            used = np.zeros(len(keypoints), dtype=bool)
            for query in queries:
                used[match_file.matches(query, name)[:, 1]] = True
            scan, world_from_scan = scan_of(name)
            _check_size(name, feature_file.image_size(name), scan)
            at = np.flatnonzero(used)
            found = at_pixels(scan, keypoints[at] - 0.5)  # a scan's points are of pixel centres
            there = np.isfinite(found).all(axis=1)
            rows = np.full(len(keypoints), -1, dtype=np.int32)
            rows[at[there]] = np.arange(total, total + there.sum())
            total += int(there.sum())
            places.append(found[there] @ world_from_scan[:3, :3].T + world_from_scan[:3, 3])
            camera, rotation = camera_of(scan)
            turned = rotation @ world_from_scan[:3, :3].T
            pose = Pose.from_matrix(turned, -turned @ world_from_scan[:3, 3])
            images.append((name, camera, ModelImage(0, 0, name, pose, rows)))
    if not total:
        raise SamfeatError(matches, "no matched keypoint has a place in a scan", "check the scans")
    xyz = np.concatenate(places)
    model = assemble(images, xyz, np.full(xyz.shape, 128, dtype=np.uint8), np.zeros(total))
    logger.info("map: %d points of %d scans", total, len(images))
    with result.making() as work:
        return result.put(write_model(model, work / "model"))


def _check_size(name: str, size: tuple[int, int] | None, scan: np.ndarray) -> None:
    if size is not None and size != (scan.shape[1], scan.shape[0]):
        raise SamfeatError(
            name, f"it is {size[0]}x{size[1]} and its scan {scan.shape[1]}x{scan.shape[0]}",
            "take the scans of these cut-outs",
        )  # fmt: skip


def camera_of(scan: np.ndarray) -> tuple[Camera, np.ndarray]:
    """The pinhole camera at the scanner that sees a cut-out's points in their pixels.

    Pixels are ``K R d`` up to scale, for directions d from the scanner: linear in the 3x3 matrix.

    Returns:
        Intrinsics, and the (3, 3) rotation from the scan's frame to the camera.
    """
    height, width = scan.shape[:2]
    rows, columns = np.nonzero(np.isfinite(scan).all(axis=2) & (scan != 0).any(axis=2))
    some = np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLES)).astype(int)
    if len(some) < 8:
        focal = float(width)  # nothing to tell by, and nothing to be seen
        camera = Camera("PINHOLE", width, height, (focal, focal, width / 2, height / 2))
        return camera, np.eye(3)
    rows, columns = rows[some], columns[some]
    directions = scan[rows, columns]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Pixels of about unit size: the system is as well conditioned as can be.
    centre, size = np.array([width / 2, height / 2]), float(max(width, height))
    x, y = ((np.column_stack([columns, rows]) + 0.5 - centre) / size).T
    nothing = np.zeros_like(directions)
    system = np.concatenate(
        [
            np.hstack([directions, nothing, -x[:, None] * directions]),
            np.hstack([nothing, directions, -y[:, None] * directions]),
        ]
    )
    matrix = np.linalg.svd(system, full_matrices=False)[2][-1].reshape(3, 3)
    if np.median(directions @ matrix[2]) < 0:
        matrix = -matrix
    intrinsics, rotation = cv2.RQDecomp3x3(matrix)[1:3]
    signs = np.diag(np.sign(np.diag(intrinsics)))
    intrinsics, rotation = intrinsics @ signs, signs @ rotation
    intrinsics = intrinsics / intrinsics[2, 2]
    focal = intrinsics[[0, 1], [0, 1]] * size
    middle = intrinsics[:2, 2] * size + centre
    params = tuple(float(value) for value in (*focal, *middle))
    return Camera("PINHOLE", width, height, params), rotation
