"""Draws docs/images/matches.jpg: a day and a night photo of the demo's city, and their matches.

    python docs/images/matches.py

The city is generated, so it is known where the other photo shows a keypoint: lines are green
where a match is within 3 pixels of that, red where it is not or the place is not shown at all.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from samfeat_hloc import ExtractOptions, match
from samfeat_hloc.scenes import (
    DAY,
    NIGHT,
    build_city,
    correspond,
    day_exposure,
    illuminate,
    night_exposure,
    photograph,
    plan_shots,
    render,
)

SIZE = (800, 600)
SEED = 3
LINES = 160
GREEN, RED = (60, 200, 90), (230, 60, 60)

city = build_city(SEED)
shots = plan_shots(SEED, 40, 1, SIZE)
views = [render(illuminate(city, light, SEED), shot.camera, shot.pose)
         for light, shot in ((DAY, shots[8]), (NIGHT, shots[10]))]  # fmt: skip
rng = np.random.default_rng(SEED)
photos = [photograph(views[0].image, day_exposure(rng), rng),
          photograph(views[1].image, night_exposure(rng), rng)]  # fmt: skip
found = match(*photos, preset=ExtractOptions(resize=1024, max_keypoints=2048))
truth = correspond(views[0], views[1], found.matched0.astype(np.float64))
error = np.linalg.norm(truth.keypoints - found.matched1, axis=1)
right = truth.visible & (error <= 3)
print(f"{len(right)} matches, {right.sum()} within 3 pixels ({100 * right.mean():.0f}%)")

gap = 12
canvas = np.full((SIZE[1], 2 * SIZE[0] + gap, 3), 255, np.uint8)
canvas[:, : SIZE[0]], canvas[:, SIZE[0] + gap :] = photos
for index in rng.permutation(len(right))[:LINES]:
    start = found.matched0[index]
    end = found.matched1[index] + np.array([SIZE[0] + gap, 0])
    points = [tuple(int(16 * v) for v in point) for point in (start, end)]
    color = GREEN if right[index] else RED
    cv2.line(canvas, *points, color, 1, cv2.LINE_AA, shift=4)
    for point in points:
        cv2.circle(canvas, point, 3 * 16, color, -1, cv2.LINE_AA, shift=4)
output = Path(__file__).with_suffix(".jpg")
cv2.imwrite(str(output), canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
