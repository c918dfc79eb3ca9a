"""The training recipes that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from ..errors import SamfeatError

_PACKAGE = Path(__file__).resolve().parents[1]


def recipes() -> dict[str, Path]:
    """The recipes by name: those of configs/, which an installed package has within itself."""
    installed, clone = _PACKAGE / "configs", _PACKAGE.parent / "configs"
    folder = installed if installed.is_dir() else clone
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(recipe: Path) -> Path:
    """The file of a recipe that is given by its name or is a file.

    Raises:
        SamfeatError: it is neither.
    """
    if recipe.is_file():
        return recipe
    known = recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    raise SamfeatError(recipe, "no such recipe", f"choose from {', '.join(known)}, or give a file")
