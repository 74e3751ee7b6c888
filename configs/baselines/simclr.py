"""SimCLR (arXiv 2002.05709) under exactly the recipe of X-CLR: only the objective differs.

Command:   python -m xsample_jax.main --config=configs/baselines/simclr.py --workdir=runs/imagenet/simclr \\
               --config.data.path=FOLDER
Variants:  :cc3m, :cc12m (the recipes of configs/cc3m.py and cc12m.py instead of imagenet.py); :smoke
Hardware:  that of the recipe: TPU v5e-16 (4x4); v5e-64 (8x8) for cc12m.
Hours:     that of the recipe: 2.9 on 16 chips, at 0.2 of the peak (docs/notes/recipe.md: computed, not measured)
Expected:  ImageNet linear probe 63.4 (SimCLR's row in table 1 of arXiv 2407.18134, as quoted in its reviews); the
           authors' repository says 64.5 for 100 epochs at batch 4096. Not reproduced by us yet.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

CONFIGS = pathlib.Path(__file__).parent.parent


def get_config(arg=""):
    data, small = parse_variants(arg, ("cc3m", "cc12m"))
    data = data or "imagenet"
    config = read_config_file(CONFIGS / f"{data}.py")
    config.name = f"{data}_simclr"
    config.objective.preset = "simclr"
    config.objective.graph = None
    config.objective.target_temperature = None  # a one-hot target has none
    config.objective.temperature = 0.1  # SimCLR's for ImageNet, and X-CLR's
    return smoke(config) if small else config
