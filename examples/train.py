"""Train SAMFeat on your own photos, on from the weights of the package; no labels, no teacher.

python examples/train.py photos/ runs/mine
python examples/train.py photos/ runs/mine train.steps=5000 train.batch=16

photos/ holds 25 or more: each 25th is held back to validate on. The result is taken by every
command as --weights runs/mine/samfeat.safetensors.
"""

import sys
from pathlib import Path

from samfeat_hloc.training.recipe import read_recipe
from samfeat_hloc.training.trainer import train

photos, output, *changes = sys.argv[1:]
recipe = read_recipe(
    Path("homographies"),
    [
        f"data.images={photos}",
        f"output={output}",
        "start_from=shipped",  # "start_from=null" begins with random weights; so does the recipe
        "train.learning_rate=0.0003",  # smaller than from random weights, as configs/adapt.yaml's
        *changes,
    ],
)
print(f"weights: {train(recipe)}")
