"""``python -m samfeat_hloc``: the command line, for ``torchrun -m samfeat_hloc train ...``."""

from .cli import main

main()
