"""A mapping so small that it takes a second: does this hloc work with this pycolmap?

Version numbers do not tell (hloc called itself 1.5 for three years, over several incompatible
pycolmap), and the worst failure is silent, so it is tried on four cameras before sixty points.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

NUM_POINTS = 60
_WIDTH, _HEIGHT, _FOCAL = 640, 480, 500.0


@dataclass(frozen=True)
class TrialScene:
    """Files of a scene, ready for a mapping stage."""

    reference_model: Path
    image_dir: Path
    pairs: Path
    features: Path
    matches: Path


def write_scene(folder: Path) -> TrialScene:
    """Write four views of sixty random points: reference model, features, pairs, matches.

    Every keypoint i is the image of point i, so matching is the identity. The images are blank.
    """
    rng = np.random.default_rng(0)
    points = rng.uniform([-1.5, -1, 4], [1.5, 1, 6], (NUM_POINTS, 3))
    names = [f"db/{i}.png" for i in range(4)]
    centres = np.array([[-0.6, 0, 0], [-0.2, 0.1, 0], [0.2, -0.1, 0], [0.6, 0, 0]])

    scene = TrialScene(
        folder / "reference",
        folder / "images",
        folder / "pairs.txt",
        folder / "features.h5",
        folder / "matches.h5",
    )
    scene.reference_model.mkdir(parents=True)
    (scene.image_dir / "db").mkdir(parents=True)
    for name in names:
        Image.new("L", (_WIDTH, _HEIGHT)).save(scene.image_dir / name)
    camera = f"1 PINHOLE {_WIDTH} {_HEIGHT} {_FOCAL} {_FOCAL} {_WIDTH / 2} {_HEIGHT / 2}\n"
    (scene.reference_model / "cameras.txt").write_text(camera)

    image_lines = []
    with h5py.File(scene.features, "w") as features:
        for index, (name, centre) in enumerate(zip(names, centres, strict=True)):
            seen = points - centre
            xy = seen[:, :2] / seen[:, 2:] * _FOCAL + [_WIDTH / 2, _HEIGHT / 2]
            group = features.create_group(name)
            # COLMAP's origin is the corner of the pixel, the feature file's its centre.
            keypoints = group.create_dataset("keypoints", data=(xy - 0.5).astype(np.float32))
            keypoints.attrs["uncertainty"] = 1.0
            group["image_size"] = np.array([_WIDTH, _HEIGHT])
            x, y, z = -centre
            image_lines.append(f"{index + 1} 1 0 0 0 {x} {y} {z} 1 {name}")
            image_lines.append(" ".join(f"{u} {v} {i + 1}" for i, (u, v) in enumerate(xy)))
    (scene.reference_model / "images.txt").write_text("\n".join(image_lines) + "\n")

    tracks = [" ".join(f"{image + 1} {i}" for image in range(4)) for i in range(NUM_POINTS)]
    (scene.reference_model / "points3D.txt").write_text(
        "".join(
            f"{i + 1} {x} {y} {z} 128 128 128 0.5 {track}\n"
            for i, ((x, y, z), track) in enumerate(zip(points, tracks, strict=True))
        )
    )

    pairs = [(names[i], names[j]) for i in range(4) for j in range(i + 1, 4)]
    scene.pairs.write_text("".join(f"{a} {b}\n" for a, b in pairs))
    with h5py.File(scene.matches, "w") as matches:
        for a, b in pairs:
            group = matches.create_group(f"{a.replace('/', '-')}/{b.replace('/', '-')}")
            group["matches0"] = np.arange(NUM_POINTS, dtype=np.int16)
            group["matching_scores0"] = np.ones(NUM_POINTS, np.float16)
    return scene


def hloc_points(folder: Path) -> int:
    """Map the scene with hloc's triangulation; how many points came out, of ``NUM_POINTS``."""
    scene = write_scene(folder)
    with quiet():
        from hloc import triangulation

        reconstruction = triangulation.main(
            folder / "map",
            scene.reference_model,
            scene.image_dir,
            scene.pairs,
            scene.features,
            scene.matches,
        )
    return len(reconstruction.points3D)


def pycolmap_ignores_undefined(folder: Path) -> bool:
    """Whether this pycolmap's triangulation passes over pairs of undefined geometry.

    hloc (v1.5) writes such pairs; see :func:`samfeat_hloc.hloc_plugin.compat.mend`.
    """
    from ..colmap.database import write_model
    from ..colmap.library import pycolmap

    scene = write_scene(folder)
    reference = pycolmap.Reconstruction(scene.reference_model)
    database = folder / "database.db"
    with quiet(), pycolmap.Database.open(database) as db:
        write_model(db, reference)
        ids = {image.name: image_id for image_id, image in reference.images.items()}
        with h5py.File(scene.features, "r") as features:
            for name, image_id in ids.items():
                db.write_keypoints(image_id, features[name]["keypoints"][()] + 0.5)
        identity = np.repeat(np.arange(NUM_POINTS, dtype=np.uint32)[:, None], 2, axis=1)
        for line in scene.pairs.read_text().splitlines():
            a, b = (ids[name] for name in line.split())
            geometry = pycolmap.TwoViewGeometry(inlier_matches=identity)
            db.write_two_view_geometry(a, b, geometry)
    output = folder / "map"
    output.mkdir()
    with quiet():
        mapped = pycolmap.triangulate_points(reference, database, scene.image_dir, output)
    return len(mapped.points3D) == 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without hloc's and COLMAP's messages and progress bars, except errors."""
    import io

    from ..colmap.library import pycolmap

    hloc_logger = logging.getLogger("hloc")
    level, to_stderr = hloc_logger.level, pycolmap.logging.alsologtostderr
    minimum = pycolmap.logging.minloglevel
    hloc_logger.setLevel(logging.ERROR)
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hloc_logger.setLevel(level)
        pycolmap.logging.alsologtostderr = to_stderr
        pycolmap.logging.minloglevel = minimum
