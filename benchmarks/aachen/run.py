"""``samfeat run``, from a clone: the Aachen Day-Night v1.1 benchmark, or a dataset in its layout.

python benchmarks/aachen/run.py DATASET --outputs DIR
python benchmarks/aachen/run.py --demo
"""

import sys

from samfeat_hloc.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
