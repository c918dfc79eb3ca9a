"""``python -m samfeat_hloc.hloc MODULE ...``: a command line of hloc, with SAMFeat registered.

For example::

    python -m samfeat_hloc.hloc extract_features --conf samfeat_aachen --image_dir photos \\
        --export_dir outputs

``python -m hloc.extract_features`` runs a second copy of that module, which nothing can be added
to. So here the module is imported, as anyone would, and then the block under its
``if __name__ == "__main__"`` is run where the module's own names are.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from types import CodeType

from .errors import SamfeatError
from .hloc_plugin import NOT_INSTALLED, compat, register


def run(
    module_name: str,
    arguments: Sequence[str],
    *,
    weights: str | None = None,
    official_weights: bool = False,
    lightglue: str | None = None,
) -> None:
    """Run the command line of one of hloc's modules in this process.

    Arguments:
        module_name: such as ``extract_features``, ``pipelines.Aachen_v1_1.pipeline``; a leading
            ``hloc.`` does no harm.
        arguments: what follows on its command line.
        weights: checkpoint for SAMFeat's extractor; None for the shipped one.
        official_weights: whether ``weights`` is a file of the paper's public release.
        lightglue: checkpoint of LightGlue for the matcher samfeat+lightglue.

    Raises:
        SamfeatError: no hloc, no such module, or one without a command line.
    """
    if not register(quiet=True):
        raise SamfeatError("hloc", NOT_INSTALLED)
    full_name = "hloc." + module_name.removeprefix("hloc.")
    try:
        spec = importlib.util.find_spec(full_name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise SamfeatError(
            module_name, "hloc has no such module", f"choose from {', '.join(module_names())}"
        )
    code = main_block(full_name)
    if code is None:
        raise SamfeatError(
            module_name, "has no command line", f"choose from {', '.join(module_names())}"
        )
    module = importlib.import_module(full_name)
    from .hloc_plugin import configurations

    if weights is not None:
        confs = importlib.import_module("hloc.extract_features").confs
        confs.update(configurations.extractors(weights=weights, official_weights=official_weights))
    if lightglue is not None:
        confs = importlib.import_module("hloc.match_features").confs
        confs[configurations.LIGHTGLUE] = configurations.lightglue(lightglue)
    saved = sys.argv
    sys.argv = [spec.origin, *arguments]
    try:
        with compat.command_line(module):
            exec(code, vars(module))
    finally:
        sys.argv = saved


def main_block(full_name: str) -> CodeType | None:
    """The code under a module's top-level ``if __name__ == "__main__"``, None where it has none."""
    spec = importlib.util.find_spec(full_name)
    loader = spec.loader if spec is not None else None
    get_source = getattr(loader, "get_source", None)
    source = get_source(full_name) if get_source is not None else None
    if spec is None or source is None:
        return None
    tree = ast.parse(source, filename=spec.origin or full_name)
    body = [
        statement for node in tree.body if _asks_for_main(node) for statement in node.body
    ]  # fmt: skip
    if not body:
        return None
    block = ast.Module(body=body, type_ignores=[])
    return compile(block, filename=spec.origin or full_name, mode="exec")


def _asks_for_main(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare):
        return False
    sides = [node.test.left, *node.test.comparators]
    return any(isinstance(s, ast.Name) and s.id == "__name__" for s in sides) and any(
        isinstance(s, ast.Constant) and s.value == "__main__" for s in sides
    )


def module_names() -> list[str]:
    """hloc's modules that have a command line, without those of its pipelines."""
    package = importlib.util.find_spec("hloc")
    folders = (package.submodule_search_locations if package is not None else None) or []
    names = (m.name for m in pkgutil.iter_modules(folders) if not m.ispkg)
    return [name for name in names if main_block(f"hloc.{name}") is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m samfeat_hloc.hloc",
        description="Run a command line of hloc with SAMFeat registered.",
        epilog="MODULE --help shows hloc's own options.",
    )
    parser.add_argument("--weights", help="checkpoint for SAMFeat's extractor (default: shipped)")
    parser.add_argument(
        "--official-weights",
        action="store_true",
        help="--weights is a file of the paper's public release",
    )
    parser.add_argument("--lightglue", help="checkpoint for the matcher samfeat+lightglue")
    parser.add_argument("module", metavar="MODULE", help="such as extract_features")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    try:
        run(
            options.module,
            options.arguments,
            weights=options.weights,
            official_weights=options.official_weights,
            lightglue=options.lightglue,
        )
    except SamfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
