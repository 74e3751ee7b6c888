"""CLIP, arXiv 2103.00020, fig. 3

Loss:      mean of image->text and text->image cross-entropy to the own pair; tau learned from 0.07
Command:   python -m xsample_jax.main --config=configs/objectives/clip.py \\
               --workdir=runs/objectives/clip
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
    config.name = "clip"
    config.objective.preset = "clip"
    config.model.text.layers = 2  # the text tower reads tokens
    config.model.text.width = 64  # about as many products as this small image encoder
    return smoke(config) if small else config
