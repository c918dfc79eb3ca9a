"""Compatibility patches for hloc with versions of pycolmap that it was not written for.

Nothing of either package is changed on disk, and pycolmap not at all: in the hloc modules concerned
the name ``pycolmap`` stands for a view of it in which a few names are answered differently.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from . import HLOC_ADDRESS

logger = logging.getLogger("hloc.samfeat")  # shown where hloc's own messages are


class ModuleView(ModuleType):
    """A module as another one sees it: ``answers`` first, everything else as it is."""

    def __init__(self, module: ModuleType, answers: dict[str, Any]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(answers, _viewed=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_viewed"], name)


def mend(module: ModuleType) -> None:
    """Patch one of hloc's modules for the pycolmap that it imported."""
    pycolmap = getattr(module, "pycolmap", None)
    if pycolmap is None or isinstance(pycolmap, ModuleView):
        return
    version = getattr(sys.modules.get("hloc"), "__version__", "1.5")
    if is_outdated(version):
        logger.warning("%s", outdated(version, pycolmap.__version__))
    elif module.__name__ == "hloc.triangulation":
        answers = {"TwoViewGeometry": calibrated_two_view_geometry(pycolmap)}
        module.pycolmap = ModuleView(pycolmap, answers)  # type: ignore[attr-defined]


def is_outdated(hloc_version: str) -> bool:
    """Whether this hloc (v1.4 or older) was written for the interface of pycolmap 0.x."""
    numbers = [int(part) for part in hloc_version.split(".")[:2] if part.isdigit()]
    return numbers < [1, 5]


def outdated(hloc_version: str, pycolmap_version: str) -> str:
    """What to tell of such an hloc."""
    return (
        f"hloc {hloc_version} cannot map or localize with pycolmap {pycolmap_version}; upgrade it:"
        f' pip install --upgrade "hloc @ {HLOC_ADDRESS}"'
    )


def calibrated_two_view_geometry(pycolmap: ModuleType) -> Callable[..., Any]:
    """``pycolmap.TwoViewGeometry`` that says CALIBRATED of matches given without a configuration.

    hloc writes its verified matches without saying of what kind their geometry is (UNDEFINED), and
    triangulation in pycolmap 4 passes over such pairs: the map comes out empty, without a word.
    hloc verifies them against known poses and intrinsics, so CALIBRATED is what they are.
    """
    warned = False

    def two_view_geometry(*args: Any, **kwargs: Any) -> Any:
        nonlocal warned
        geometry = pycolmap.TwoViewGeometry(*args, **kwargs)
        undefined = pycolmap.TwoViewGeometryConfiguration.UNDEFINED
        if int(geometry.config) == int(undefined) and len(geometry.inlier_matches) > 0:
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            if not warned and int(pycolmap.__version__.split(".")[0]) >= 4:
                warned = True
                logger.warning(
                    "pycolmap %s ignores image pairs as this hloc writes them and would build a map"
                    " without points; samfeat_hloc marks them as calibrated, so that they count.",
                    pycolmap.__version__,
                )
        return geometry

    return two_view_geometry


@contextlib.contextmanager
def corner_origin(triangulation: Any) -> Iterator[None]:
    """hloc's verification of matches with keypoints where its cameras have them.

    hloc adds the half pixel between its origin and COLMAP's to what it writes to the database, but
    not to what it verifies against the known poses (and there alone it asks for the uncertainty).
    A few matches at the threshold, and with them points of the map, come out differently.
    """
    original = triangulation.get_keypoints

    def get_keypoints(path: Any, name: str, return_uncertainty: bool = False) -> Any:
        if not return_uncertainty:
            return original(path, name)
        keypoints, uncertainty = original(path, name, return_uncertainty=True)
        return keypoints + 0.5, uncertainty

    triangulation.get_keypoints = get_keypoints
    try:
        yield
    finally:
        triangulation.get_keypoints = original


class TriangulationParser(argparse.ArgumentParser):
    """A parser for the command line of hloc's triangulation, as that module reads its result.

    It reads ``mapper_options``, which it never declares, and passes ``reference_sfm_model`` on
    to a function that knows it as ``reference_model``; so on its own it always fails.
    """

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        if "--mapper_options" not in self._option_string_actions:
            self.add_argument("--mapper_options", nargs="+", default=[], metavar="KEY=VALUE")
        options = super().parse_args(*args, **kwargs)
        if hasattr(options, "reference_sfm_model"):
            options.reference_model = options.__dict__.pop("reference_sfm_model")
        return options


@contextlib.contextmanager
def command_line(module: ModuleType) -> Iterator[None]:
    """Mends that only a module's command line needs, for as long as it runs."""
    if module.__name__ != "hloc.triangulation" or not hasattr(module, "argparse"):
        yield
        return
    original = module.argparse
    module.argparse = ModuleView(original, {"ArgumentParser": TriangulationParser})  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.argparse = original  # type: ignore[attr-defined]
