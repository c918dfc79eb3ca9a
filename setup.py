"""Puts the recipes of configs/ into the package; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """A clone, also one installed with -e, reads configs/ itself (samfeat_hloc.training)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "samfeat_hloc" / "configs"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree("configs", folder)


setup(cmdclass={"build_py": BuildWithRecipes})
