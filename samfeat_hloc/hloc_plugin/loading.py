"""Models of hloc that do not load, most often since their weights cannot be downloaded: told so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import SamfeatError, cause_of, in_one_line


def watch(module: ModuleType, instead: str) -> None:
    """Have one of hloc's modules say which model it could not load, and what to do.

    Arguments:
        module: ``hloc.extract_features`` or ``hloc.match_features``.
        instead: what works without a download.
    """
    load = module.dynamic_load
    if getattr(load, "_samfeat_told", False):
        return

    def told(root: ModuleType, name: str) -> Callable[[dict[str, Any]], Any]:
        model = _told(name, instead, lambda: load(root, name))
        return lambda conf: _told(name, instead, lambda: model(conf), model)

    told._samfeat_told = True  # type: ignore[attr-defined]
    module.dynamic_load = told  # type: ignore[attr-defined]


def _told(name: str, instead: str, do: Callable[[], Any], model: object = None) -> Any:
    try:
        return do()
    except SamfeatError:
        raise
    except Exception as error:
        if (cause := cause_of(error)) is not None:  # the machine's fault
            raise SamfeatError(name, cause) from error
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        if isinstance(error, ImportError):
            problem, mend = "hloc cannot import it", "install what it needs"
        elif isinstance(error, OSError):
            problem, mend = "hloc cannot load its weights", _fetch(model)
        else:
            problem, mend = "hloc cannot load it", "check its configuration and weights"
        raise SamfeatError(name, f"{problem} ({reason})", f"{mend}, or {instead}") from error


def _fetch(model: object) -> str:
    """How to come by weights that hloc downloads, from a machine that has the network."""
    from torch import hub

    addresses, options = (
        getattr(model, name, None) for name in ("checkpoint_urls", "default_conf")
    )
    name = options.get("model_name") if isinstance(options, dict) else None
    if isinstance(addresses, dict) and name in addresses:  # of NetVLAD, whose file has another name
        kind = str(getattr(model, "__module__", "")).rpartition(".")[2]
        place = Path(hub.get_dir(), kind, f"{name}{Path(addresses[name]).suffix}")
        return f"download {addresses[name]} as {place}"
    return f"download them to where hloc looks for them, below {hub.get_dir()}"
