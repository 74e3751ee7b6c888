"""CLIP with frozen text: images against a linear map of the caption embeddings that X-CLR makes its graph of.

Command:   python -m xsample_jax.main --config=configs/baselines/clip_frozen_text.py \\
               --workdir=runs/cc12m/clip_frozen_text --config.data.path=FOLDER
Variants:  :cc3m (the recipe of configs/cc3m.py instead of cc12m.py); :smoke
Hardware:  TPU v5e-64 (8x8); v5e-16 (4x4) for cc3m.
Hours:     1.7 on 64 chips, at 0.2 of the peak (docs/notes/recipe.md: computed, not measured)
Expected:  no published number. It is the comparison that a reviewer of arXiv 2407.18134 asks for: the same knowledge of
           the same sentence encoder, matched image to text instead of image to image.

The recipe of X-CLR otherwise, optimizer included: the text side is one matrix.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

CONFIGS = pathlib.Path(__file__).parent.parent


def get_config(arg=""):
    data, small = parse_variants(arg, ("cc3m",))
    data = data or "cc12m"
    config = read_config_file(CONFIGS / f"{data}.py")
    config.name = f"{data}_clip_frozen_text"
    config.objective.preset = "clip_frozen_text"
    config.objective.temperature = 0.1  # as X-CLR, and fixed: LARS at this rate would throw a learned one about
    config.objective.learn_temperature = False
    config.objective.target_temperature = None  # a one-hot target has none
    config.model.text.layers = 0  # a linear map of the frozen embedding
    return smoke(config) if small else config
