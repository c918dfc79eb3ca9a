"""``python -m samfeat_hloc.gluefactory NAME``: where a configuration of glue-factory is."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import SamfeatError

PREFIX = "samfeat+lightglue_"


def configurations() -> dict[str, Path]:
    """The configurations by what they train on."""
    paths = sorted(Path(__file__).parent.glob(f"{PREFIX}*.yaml"))
    return {path.stem.removeprefix(PREFIX): path for path in paths}


def main(arguments: list[str]) -> int:
    """Print a configuration's path, for glue-factory's ``--conf``; returns the exit code."""
    known = configurations()
    if len(arguments) == 1 and arguments[0] in known:
        print(known[arguments[0]])
        return 0
    given = " ".join(arguments) or "python -m samfeat_hloc.gluefactory"
    choose = f"give one of {', '.join(known)}"
    print(f"error: {SamfeatError(given, 'names no configuration', choose)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
