"""Named configurations, shared by the native pipeline and by hloc's."""

from __future__ import annotations

from .extract import RELEASE_DEFAULTS, ExtractOptions

# The image at its size and enlarged: several times as many points within a pixel of their place,
# for 3.25 times the time.
MULTISCALE = (1.0, 1.5)

PRESETS: dict[str, ExtractOptions] = {
    # Aachen Day-Night as hloc's own configurations run it.
    "samfeat_aachen": ExtractOptions(resize=1024, max_keypoints=4096),
    # The most accurate one for photos of some 1,000 pixels.
    "samfeat_multiscale": ExtractOptions(resize=1024, max_keypoints=4096, scales=MULTISCALE),
    # Every image at 1600 px, smaller ones enlarged.
    "samfeat_max": ExtractOptions(resize=1600, resize_force=True, max_keypoints=4096),
    # For live localization.
    "samfeat_fast": ExtractOptions(resize=640, max_keypoints=1024),
    # The public release's extraction, for its own checkpoints.
    "samfeat_official": ExtractOptions.from_keywords({**RELEASE_DEFAULTS, "resize": 1024}),
}

# Mutual nearest neighbours farther apart than this are dropped: hloc's `distance_threshold`,
# on the distance sqrt(2 - 2 cos). None keeps all.
MATCH_DISTANCE_THRESHOLD: float | None = None
