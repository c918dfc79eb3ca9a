"""Named configurations, shared by the native pipeline and by hloc's."""

from __future__ import annotations

from .options import RELEASE_DEFAULTS, ExtractOptions

# For matches across distances and, where an image is smaller than the preset's size, for exact
# places: twice the time at that size, six times at 600 pixels. Poses are no better for it.
MULTISCALE = (0.35, 0.5, 0.7, 1.0, 1.2, 1.7)

PRESETS: dict[str, ExtractOptions] = {
    # Aachen Day-Night as hloc's own configurations run it.
    "samfeat_aachen": ExtractOptions(resize=1024, max_keypoints=4096),
    # The most accurate matches.
    "samfeat_multiscale": ExtractOptions(
        resize=1024, max_keypoints=4096, scales=MULTISCALE, scales_up_to=1024
    ),
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
