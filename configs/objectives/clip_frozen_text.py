"""the baseline of X-CLR that sees the same text

Loss:      CLIP whose text side is a learned linear map of the frozen caption embedding
Command:   python -m xsample_jax.main --config=configs/objectives/clip_frozen_text.py \\
               --workdir=runs/objectives/clip_frozen_text
Variants:  :smoke (5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     0.03 (2 minutes) on 2 CPU cores
Expected:  docs/results.md; the same encoder, data, augmentation and steps as configs/quickstart.py
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

QUICKSTART = pathlib.Path(__file__).parent.parent / "quickstart.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(QUICKSTART)
    config.name = "clip_frozen_text"
    config.objective.preset = "clip_frozen_text"
    return smoke(config) if small else config
