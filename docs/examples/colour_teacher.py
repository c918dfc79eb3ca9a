"""A teacher of one's own: segments are areas of one of eight colours, found by k-means.

An installed package brings it by an entry point in its pyproject.toml, and
``samfeat teach --teacher colours --images PHOTOS --out cache.h5`` then takes it:

    [project.entry-points."samfeat_hloc.teachers"]
    colours = "colour_teacher:Colours"
"""

import cv2
import numpy as np

from samfeat_hloc.teachers.cache import Taught
from samfeat_hloc.teachers.maps import borders, cells_of, soft_edges, working_image
from samfeat_hloc.teachers.registry import Photo, TeacherOptions


class Colours:
    """name, config and weights_sha256 go into the cache, which is made anew when they change."""

    name, weights_sha256 = "colours", None
    config = {"colours": 8, "cell": 8}  # noqa: RUF012

    def __init__(self, options: TeacherOptions, device: str) -> None:
        """SAM2 or another network would be loaded here, from options.weights onto the device."""

    def teach(self, photos: list[Photo]) -> list[Taught]:
        """For each photo an embedding (C, h, w), groups and edges (H, W), all covering it whole."""
        return [self._teach(working_image(photo.pixels)) for photo in photos]

    def _teach(self, image: np.ndarray) -> Taught:
        lab = cv2.cvtColor(cv2.medianBlur(image, 5), cv2.COLOR_RGB2LAB).reshape(-1, 3)
        stop = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0.0)
        cv2.setRNGSeed(0)
        labels = cv2.kmeans(np.float32(lab), 8, None, stop, 1, cv2.KMEANS_PP_CENTERS)[1]
        groups = labels.reshape(image.shape[:2])
        shares = np.eye(8, dtype=np.float32)[groups]
        return Taught(cells_of(shares, 8), groups, soft_edges(borders(groups)))
