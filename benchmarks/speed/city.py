"""A city of any size with the names, intrinsics and pairs of Aachen Day-Night v1.1.

Its geometry is made up so that queries can be localized in it: a query's keypoints are seen where
points of the map are, by database images that are retrieved for it.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import h5py
import numpy as np
import pycolmap

from samfeat_hloc.datasets.queries import Query, read_queries
from samfeat_hloc.files import provenance
from samfeat_hloc.files.feature_readers import FeatureReader, pair_name
from samfeat_hloc.files.h5store import Group, SegmentWriter
from samfeat_hloc.files.pair_lists import read_pairs, unique_pairs

COLMAP_MODELS = {0: "SIMPLE_PINHOLE", 1: "PINHOLE", 2: "SIMPLE_RADIAL", 3: "RADIAL", 4: "OPENCV"}
QUERY_CAMERA = "SIMPLE_RADIAL 1600 1200 1450 800 600 -0.03"  # the metadata lacks those by day
SEEN_TOGETHER = 4  # keypoints of a query that a retrieved image sees
WRONG = 3  # of its matches with that image, beside them


def write_city(aachen: Path, work: Path, size: float) -> None:
    """The lists and the reference model (cameras and made-up poses) of a city."""
    listed = read_pairs(aachen / "pairs-query-netvlad50.txt")
    with sqlite3.connect(
        f"file:{aachen / 'database_v1_1.db'}?mode=ro&immutable=1", uri=True
    ) as database:
        cameras = {
            name: (COLMAP_MODELS[model], width, height, np.frombuffer(params).tolist())
            for name, model, width, height, params in database.execute(
                "SELECT name, model, width, height, params FROM images "
                "JOIN cameras ON images.camera_id = cameras.camera_id"
            )
        }
    queries = list(dict.fromkeys(query for query, _ in listed))
    if size < 1:
        kept = set(queries[: max(1, round(len(queries) * size))])
        listed = [pair for pair in listed if pair[0] in kept]
        queries = [query for query in queries if query in kept]
    everything = [name for name in cameras if not name.startswith("query/")]
    images = list(dict.fromkeys(name for _, name in listed)) if size < 1 else everything
    kept_images = set(images)
    listed_db = read_pairs(aachen / "image_pairs_to_match_v1_1.txt")
    of_database = unique_pairs([p for p in listed_db if kept_images.issuperset(p)])
    copies = max(1, round(size))
    prefixes = ["", *(f"copy{i}/" for i in range(1, copies))]
    _write_pairs(work / "pairs-query.txt", listed, prefixes)
    _write_pairs(work / "pairs-db.txt", of_database, prefixes)
    (work / "queries.txt").write_text(
        "".join(f"{prefix}{query} {QUERY_CAMERA}\n" for prefix in prefixes for query in queries)
    )
    (work / "images.txt").write_text("".join(f"{p}{i}\n" for p in prefixes for i in images))
    model = work / "reference"
    model.mkdir()
    with (model / "cameras.txt").open("w") as stream:
        for number, name in enumerate(images, 1):
            kind, width, height, params = cameras[name]
            stream.write(f"{number} {kind} {width} {height} {' '.join(map(repr, params))}\n")
    with (model / "images.txt").open("w") as stream:
        for copy, prefix in enumerate(prefixes):
            for number, name in enumerate(images, 1):
                stream.write(
                    f"{copy * len(images) + number} 1 0 0 0 {-number} 0 0 {number} {prefix}{name}\n"
                    "\n"
                )
    (model / "points3D.txt").write_text("")


def _write_pairs(path: Path, listed: list[tuple[str, str]], prefixes: list[str]) -> None:
    with path.open("w") as stream:
        for prefix in prefixes:
            stream.writelines(f"{prefix}{a} {prefix}{b}\n" for a, b in listed)


def queries_of(work: Path) -> list[Query]:
    """The queries of a city with their intrinsics."""
    return read_queries(work / "queries.txt", "day")


def write_map(work: Path, features: Path, keypoints: int) -> None:
    """A map of the city, and the queries' matches with it: ``map``, ``matches-map.h5``.

    Every query stands at the origin of the world, so its keypoints' points lie on their rays. Each
    image that is retrieved for it sees SEEN_TOGETHER of them (with keypoints that no other query
    has taken; none, once all are), and WRONG more of its matches go to keypoints at random. The
    keypoints of database images are moved to where their points are seen: localization asks for it.
    """
    random = np.random.default_rng(1)
    listed = read_pairs(work / "pairs-query.txt")
    reference = pycolmap.Reconstruction(str(work / "reference"))
    number = {image.name: image_id for image_id, image in reference.images.items()}
    seen = {name: np.full(keypoints, -1, dtype=np.int64) for name in number}
    taken = dict.fromkeys(number, 0)
    tracks: dict[int, list[tuple[int, int]]] = {}  # (image id, keypoint) by point id
    cameras = {query.name: query.camera.to_pycolmap() for query in queries_of(work)}
    first = {name: 1 + keypoints * i for i, name in enumerate(cameras)}  # point ids
    with SegmentWriter(work / "matches-map.h5", provenance.made_by("matches", {}, {})) as writer:
        for query, name in listed:
            matches = np.full(keypoints, -1, dtype=np.int32)
            wrong = random.choice(keypoints, WRONG, replace=False)
            matches[wrong] = random.choice(keypoints, WRONG, replace=False)
            start, taken[name] = taken[name], min(taken[name] + SEEN_TOGETHER, keypoints)
            own = np.arange(start, taken[name])
            rows = random.choice(keypoints, len(own), replace=False)
            matches[rows] = own
            seen[name][own] = first[query] + rows
            for row, keypoint in zip(rows.tolist(), own.tolist(), strict=True):
                tracks.setdefault(first[query] + row, []).append((number[name], keypoint))
            writer.add({pair_name(query, name): Group({"matches0": matches})})
        writer.finish()

    model = work / "map"
    model.mkdir()
    reference.write_binary(str(model))  # its images and points are written anew
    for part in ("rigs.bin", "frames.bin"):  # which have the reference's poses
        (model / part).unlink(missing_ok=True)
    places: dict[int, np.ndarray] = {}  # of the points, by id
    with FeatureReader(features) as read, (model / "points3D.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(tracks)))
        for query, camera in cameras.items():
            rays = np.asarray(camera.cam_from_img(read.keypoints(query)), dtype=float)
            depth = random.uniform(4, 40, (keypoints, 1))
            for row, (x, y, z) in enumerate((np.c_[rays, np.ones(keypoints)] * depth).tolist()):
                track = tracks.get(first[query] + row)
                if track is not None:
                    places[first[query] + row] = np.array([x, y, z])
                    stream.write(struct.pack("<Q3d3BdQ", first[query] + row, x, y, z, 0, 0, 0, 1.0,
                                             len(track)))  # fmt: skip
                    stream.write(np.array(track, dtype="<u4").tobytes())
    with (model / "images.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(seen)))
        for name, points in seen.items():
            image = reference.images[number[name]]
            stream.write(struct.pack("<I7dI", image.image_id, 1, 0, 0, 0, 0, 0, 0, image.camera_id))
            stream.write(name.encode() + b"\0" + struct.pack("<Q", keypoints))
            observed = np.zeros(keypoints, dtype=[("xy", "<f8", (2,)), ("point", "<i8")])
            observed["point"] = points
            stream.write(observed.tobytes())
    with h5py.File(features, "r+") as file:
        for name, points in seen.items():
            own = np.flatnonzero(points >= 0)
            if len(own):
                camera = reference.cameras[reference.images[number[name]].camera_id]
                in_camera = np.array([places[point] for point in points[own].tolist()])
                stored = file[name]["keypoints"][()]
                stored[own] = np.asarray(camera.img_from_cam(in_camera)) - 0.5
                file[name]["keypoints"][...] = stored
