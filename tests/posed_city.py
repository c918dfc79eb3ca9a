"""Pictures of a generated city block, in memory and as a COLMAP model on disk."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from samfeat_hloc.scenes import DAY, Rendering, build_city, illuminate, plan_shots, render
from samfeat_hloc.training.posed_scene import PosedScene
from samfeat_hloc.training.synthetic_pairs import scene_of


@lru_cache
def views() -> tuple[Rendering, ...]:
    city = illuminate(build_city(0), DAY)
    shots = [shot for shot in plan_shots(0, 12, 1, (320, 240)) if shot.condition == "db"]
    return tuple(render(city, shot.camera, shot.pose) for shot in shots[:6])


@lru_cache
def scene() -> PosedScene:
    return scene_of(views())


def write_model(model: Path, images: Path, prefix: str = "") -> None:
    """The scene as a COLMAP text model with its pictures; images see points of their own order."""
    content = scene()
    model.mkdir(parents=True)
    images.mkdir(parents=True, exist_ok=True)
    cameras, photos, tracks = [], [], {}
    for number, image in enumerate(content.images, 1):
        camera = image.camera
        params = " ".join(repr(float(v)) for v in camera.params)
        cameras.append(f"{number} {camera.model} {camera.width} {camera.height} {params}\n")
        pose = " ".join(repr(float(v)) for v in (*image.pose.qvec, *image.pose.tvec))
        at = image.project(content.xyz[image.points])[0] + 0.5
        seen = []
        for row, (x, y) in zip(image.points, at, strict=True):
            tracks.setdefault(int(row), []).append(f"{number} {len(seen)}")
            seen.append(f"{float(x)!r} {float(y)!r} {row + 1}")
        photos.append(f"{number} {pose} {number} {prefix}{image.name}\n{' '.join(seen)}\n")
        path = images / f"{prefix}{image.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.ascontiguousarray(image.photo()[..., ::-1]))
    points = []
    for row, track in sorted(tracks.items()):
        place = " ".join(repr(float(v)) for v in content.xyz[row])
        points.append(f"{row + 1} {place} 9 9 9 0.1 {' '.join(track)}\n")
    (model / "cameras.txt").write_text("".join(cameras))
    (model / "images.txt").write_text("".join(photos))
    (model / "points3D.txt").write_text("".join(points))
