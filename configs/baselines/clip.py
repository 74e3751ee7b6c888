"""CLIP (arXiv 2103.00020) on Conceptual Captions: data, encoder and views of X-CLR, and a text tower that is trained.

Command:   python -m xsample_jax.main --config=configs/baselines/clip.py --workdir=runs/cc12m/clip \\
               --config.data.path=FOLDER       (with captions and a tokenizer; see docs/data.md)
Variants:  :cc3m (the recipe of configs/cc3m.py instead of cc12m.py); :smoke
Hardware:  TPU v5e-64 (8x8); v5e-16 (4x4) for cc3m.
Hours:     about 2.3 on 64 chips, at 0.2 of the peak (docs/notes/recipe.md: computed, not measured)
Expected:  ImageNet linear probe 0.6 points below X-CLR on CC12M, 17.2 below on CC3M (abstract of arXiv 2407.18134, v2).
           Not reproduced by us yet.

The CLIP recipe of the paper could not be read. [default]: text tower and temperature of CLIP; rates of open_clip's
command for ResNet-50 on Conceptual Captions, because LARS does not suit a transformer that is trained from scratch.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

CONFIGS = pathlib.Path(__file__).parent.parent


def get_config(arg=""):
    data, small = parse_variants(arg, ("cc3m",))
    data = data or "cc12m"
    config = read_config_file(CONFIGS / f"{data}.py")
    config.name = f"{data}_clip"
    config.objective.preset = "clip"
    config.objective.temperature = 0.07  # CLIP, initial value
    config.objective.learn_temperature = True  # CLIP
    config.objective.target_temperature = None  # a one-hot target has none
    # Two views of each image, both paired with its caption: as many encoded images a step as X-CLR has.
    config.views = 2

    config.model.text.layers = 12  # CLIP, section 2.4
    config.model.text.width = 512  # CLIP
    config.model.text.heads = 8  # CLIP
    config.model.text.length = 77  # CLIP

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3  # open_clip, ResNet-50 on Conceptual Captions
    config.optimizer.lr_scaling = "none"
    config.optimizer.weight_decay = 0.1  # open_clip, the same command
    config.optimizer.b2 = 0.98  # [default] smaller than Adam's 0.999, against loss spikes at large batches
    return smoke(config) if small else config
