"""Draws docs/images/scenes.webp: training pairs of generated house fronts, and times them.

    python docs/images/scenes.py [PHOTOS]

The walls are the folder's photos, or without one pictures of the demo's city. Each row is two
pairs: the first view, the second under a sun of its own, the second by the lamps of the scene.
Corners of the first view are green where the second shows them, red where it does not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from samfeat_hloc.scenes import DAY, build_city, correspond, illuminate, plan_shots, render
from samfeat_hloc.training.pairs import PairOptions
from samfeat_hloc.training.photos import LONGEST, PhotoFolder, PhotoSet
from samfeat_hloc.training.posed_views import PosedOptions
from samfeat_hloc.training.scene_pairs import PHOTOS, SceneSource, picture

SIDE, ROWS, SEED = 192, 3, 7
GREEN, RED = (60, 220, 90), (240, 50, 50)

torch.set_num_threads(1)
cv2.setNumThreads(1)
if len(sys.argv) > 1:
    photos = PhotoFolder.open(Path(sys.argv[1]))
else:
    city = illuminate(build_city(SEED), DAY)
    shots = plan_shots(SEED, 24, 1, (LONGEST, 360))
    canvases = np.zeros((len(shots), LONGEST, LONGEST, 3), np.uint8)
    canvases[:, :360] = [render(city, shot.camera, shot.pose).image for shot in shots]
    sizes = torch.tensor([[LONGEST, 360]]).expand(len(shots), 2)
    photos = PhotoSet(torch.from_numpy(canvases).permute(0, 3, 1, 2), sizes)


def drawn(seed: int) -> np.ndarray:
    """A pair by day, and its second view by night, uint8 (SIDE, 3 * SIDE, 3)."""
    rng = np.random.default_rng((SEED, seed))
    canvases, sizes = photos.read(rng.integers(len(photos), size=PHOTOS).tolist())
    walls = [
        np.ascontiguousarray(canvas[:, :high, :wide].permute(1, 2, 0).numpy())
        for canvas, (wide, high) in zip(canvases, sizes.tolist(), strict=True)
    ]
    pair = picture(walls, rng, SIDE, PosedOptions())
    night = pair.lit[1] ** 2.2 * pair.lamplight
    night = (night / night.mean() * 0.12).clip(0, 1) ** (1 / 2.2)
    first, second, dark = ((image * 255).astype(np.uint8) for image in (*pair.lit, night))
    grey = cv2.cvtColor(first, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, 150, 0.02, 6)
    corners = np.zeros((0, 2)) if corners is None else corners.reshape(-1, 2).astype(np.float64)
    found = correspond(*pair.views, corners)
    there = found.keypoints.clip(-1, SIDE)
    shown = found.visible & ((there >= 0) & (there <= SIDE - 1)).all(1)
    for (x, y), color in zip(corners.round().astype(int).tolist(), shown, strict=True):
        cv2.circle(first, (x, y), 2, GREEN if color else RED, -1, cv2.LINE_AA)
    return np.hstack([first, second, dark])


tiles = [drawn(seed) for seed in range(2 * ROWS)]
whole = np.vstack([np.hstack(tiles[2 * row : 2 * row + 2]) for row in range(ROWS)])
path = Path(__file__).with_suffix(".webp")
cv2.imwrite(str(path), whole[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 80])
print(f"{path.name}: {whole.shape[1]} x {whole.shape[0]}, {path.stat().st_size // 1024} KB")

source = SceneSource(photos)
for side in (128, 256):
    options, seconds = PairOptions(crop=side), []
    for seed in range(3):
        began = time.process_time()
        source.batch(16, options, torch.Generator().manual_seed(seed))
        seconds.append((time.process_time() - began) / 16)
    middle = float(np.median(seconds))
    print(
        f"{side} px: {middle:.3f} s of a core a pair ({min(seconds):.3f} to {max(seconds):.3f}), "
        f"{2 / middle:.0f} images a second"
    )
