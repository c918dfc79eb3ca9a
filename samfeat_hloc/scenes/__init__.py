"""A synthetic city with exact geometry, and the demo dataset photographed in it.

``city = illuminate(build_city(seed), DAY)`` is a city under some light; ``render(city, camera,
pose)`` photographs it with depth and surface ids; ``correspond(view0, view1, keypoints)`` carries
points from one view to another; ``write_demo(folder)`` writes a whole localization dataset.
"""

from .city import build_city
from .demo import Shot, plan_shots, write_demo
from .lighting import (
    DAY,
    NIGHT,
    day_exposure,
    illuminate,
    light_in,
    night_exposure,
    photograph,
)
from .render import Rendering, TrueCorrespondences, correspond, lift, look_at, project, render
from .surfaces import City

__all__ = [
    "DAY",
    "NIGHT",
    "City",
    "Rendering",
    "Shot",
    "TrueCorrespondences",
    "build_city",
    "correspond",
    "day_exposure",
    "illuminate",
    "lift",
    "light_in",
    "look_at",
    "night_exposure",
    "photograph",
    "plan_shots",
    "project",
    "render",
    "write_demo",
]
