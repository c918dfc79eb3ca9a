"""The package's version, which every layer may record."""

__version__ = "0.1.0"
LEAST_PYCOLMAP = (3, 13)  # as in pyproject.toml
