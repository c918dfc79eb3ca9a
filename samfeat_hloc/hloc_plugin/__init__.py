"""SAMFeat inside hloc: an extractor, a matcher, configurations, there as soon as hloc is imported.

hloc is never imported from here. A finder at the front of ``sys.meta_path`` waits for hloc's
modules: it provides ``hloc.extractors.samfeat`` and ``hloc.matchers.samfeat_lightglue`` and
completes the other modules as they load, so it works whichever of the two packages is imported
first, and costs those who do not use hloc nothing.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

HLOC_ADDRESS = "git+https://github.com/cvg/Hierarchical-Localization.git"
NOT_INSTALLED = (
    "hloc is not installed, so there is nothing to register SAMFeat with; it is on no package"
    f' index, install it by its git address: pip install "hloc @ {HLOC_ADDRESS}"'
    ' (or the extra: pip install "samfeat-hloc[hloc]")'
)
# hloc takes the class whose __module__ is the name that it asked for, so these files are run as
# modules of hloc.
_PROVIDED = {
    "hloc.extractors.samfeat": "samfeat.py",
    "hloc.matchers.samfeat_lightglue": "samfeat_lightglue.py",
}


def _add_extractors(module: ModuleType) -> None:
    from . import configurations, loading, vlad

    for name, conf in configurations.extractors().items():
        module.confs.setdefault(name, conf)
    if hasattr(module, "ImageDataset"):
        vlad.watch(module)
        loading.watch(module, 'take extract_features.confs["samfeat_vlad"] (--retrieval vlad)')


def _add_matchers(module: ModuleType) -> None:
    from . import configurations, foreign_matchers, loading

    for name, conf in configurations.matchers().items():
        module.confs.setdefault(name, conf)
    if hasattr(module, "match_from_paths"):
        foreign_matchers.watch(module)
        loading.watch(module, 'take match_features.confs["NN-samfeat"]')


def _mend(module: ModuleType) -> None:
    from . import compat

    compat.mend(module)


_COMPLETE: dict[str, Callable[[ModuleType], None]] = {
    "hloc.extract_features": _add_extractors,
    "hloc.match_features": _add_matchers,
    "hloc.triangulation": _mend,
    "hloc.localize_sfm": _mend,
}


def hloc_installed() -> bool:
    """Whether ``import hloc`` would find a package (a mere folder of that name does not count)."""
    if sys.modules.get("hloc") is not None:
        return True
    try:
        spec = importlib.util.find_spec("hloc")
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def register(*, quiet: bool = False) -> bool:
    """Make hloc know SAMFeat: its extractor, its configurations, and a mend for its mapping.

    ``import samfeat_hloc`` calls it with ``quiet=True``. Calling it again changes nothing.

    Arguments:
        quiet: say nothing when hloc is not installed.

    Returns:
        Whether hloc is installed, and so SAMFeat registered.
    """
    if not hloc_installed():
        if not quiet:
            warnings.warn(NOT_INSTALLED, stacklevel=2)
        return False
    if not any(isinstance(finder, _HlocFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HlocFinder())
    for name in _COMPLETE:  # what was imported before us
        if name in sys.modules:
            _complete(sys.modules[name])
    return True


def _complete(module: ModuleType) -> None:
    """Add ours to one of hloc's modules, once; hloc's users keep hloc whatever goes wrong."""
    if getattr(module, "_samfeat_registered", False):
        return
    try:
        _COMPLETE[module.__name__](module)
    except Exception as error:
        warnings.warn(
            f"SAMFeat could not be added to {module.__name__} ({type(error).__name__}: {error});"
            " hloc works on without it, `samfeat doctor` may tell why",
            stacklevel=2,
        )
    else:
        module._samfeat_registered = True  # type: ignore[attr-defined]


class _HlocFinder(MetaPathFinder):
    """Finds our modules among hloc's, and lets other finders find hloc's own modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _PROVIDED:
            return importlib.util.spec_from_file_location(
                fullname, Path(__file__).with_name(_PROVIDED[fullname])
            )
        if fullname not in _COMPLETE:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _HlocFinder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _CompletingLoader(spec.loader)
                return spec
        return None


class _CompletingLoader(Loader):
    """Loads a module as its own loader does, then completes it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:  # get_code, get_source, is_package, ...
        return getattr(self.__dict__["loader"], name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _complete(module)


__all__ = ["HLOC_ADDRESS", "hloc_installed", "register"]
