"""SupCon (arXiv 2004.11362) under exactly the ImageNet recipe of X-CLR: only the objective differs.

Command:   python -m xsample_jax.main --config=configs/baselines/supcon.py --workdir=runs/imagenet/supcon \\
               --config.data.path=FOLDER
Variants:  :smoke (embedded emoji, class = concept)
Hardware:  TPU v5e-16 (4x4) or 8 GPUs.
Hours:     2.9 on 16 chips, at 0.2 of the peak (docs/notes/recipe.md: computed, not measured)
Expected:  ImageNet linear probe 74.3 (SupCon's row in table 1 of arXiv 2407.18134, as quoted in its reviews); SupCon's
           own paper has 78.7 with a longer and larger recipe. Not reproduced by us yet.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

IMAGENET = pathlib.Path(__file__).parent.parent / "imagenet.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(IMAGENET)
    config.name = "imagenet_supcon"
    config.objective.preset = "supcon"
    config.objective.graph = None
    config.objective.target_temperature = None  # the target is uniform over the class
    config.objective.temperature = 0.1  # SupCon's, and X-CLR's
    return smoke(config) if small else config
