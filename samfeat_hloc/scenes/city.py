"""A small city of textured rectangles: a street of facades, its ends, and what stands in it.

World frame: metres, x along the street, y across it, z up; the street's ground is z = 0. The
street runs from x = 0 to x = :data:`LENGTH`, facades stand at y = ± :data:`HALF_WIDTH`.
"""

from __future__ import annotations

import numpy as np

from .surfaces import HALF_WIDTH, LENGTH, City, Frame, Site


def build_city(seed: int = 0) -> City:
    """A city block from a seed, in flat white light (see :func:`.lighting.illuminate`)."""
    # here, not above: the buildings are laid on this module's Site
    from .buildings import lay_building
    from .street import lay_street

    rng = np.random.default_rng((seed, 1))
    site = Site(rng)
    x_axis, y_axis = np.array((1.0, 0, 0)), np.array((0, 1.0, 0))
    for side in (1, -1):
        # seen from the street, a row of houses runs right along +x (north) or -x (south)
        start = 0.0 if side > 0 else LENGTH
        place = 0.0
        while place < LENGTH - 0.1:
            wide = float(rng.uniform(7.0, 11.0))
            if LENGTH - place - wide < 5.5:
                wide = LENGTH - place
            setback = float(rng.choice((0.0, 0.0, 0.5, 1.1)))
            origin = np.array((start + side * place, side * (HALF_WIDTH + setback), 0.0))
            frame = Frame(origin, side * x_axis, -side * y_axis)
            lay_building(site, frame, wide, setback)
            place += wide
    for x, side in ((-5.0, 1), (LENGTH + 5.0, -1)):
        # the houses that close the street; seen from it, they run along ±y
        for part in range(2):
            wide = HALF_WIDTH + 4.0
            origin = np.array((x, side * (-wide + part * wide), 0.0))
            frame = Frame(origin, side * y_axis, side * x_axis)
            lay_building(site, frame, wide, 0.0)
    for side in (1, -1):
        # and two that close the lanes between the rows and the ends
        for x in (-5.0, LENGTH) if side > 0 else (0.0, LENGTH + 5.0):
            origin = np.array((x, side * (HALF_WIDTH + 4.9), 0.0))
            lay_building(site, Frame(origin, side * x_axis, -side * y_axis), 5.0, 0.0)
    lay_street(site)
    return site.finish()
