"""CWCL, arXiv 2309.14580, eqs. 4, 6

Loss:      image->text: T = rowsum((1 + cos(e_i, e_k)) / 2); text->image: T = 1 on the own pair; sum of both; tau 0.07
Command:   python -m xsample_jax.main --config=configs/objectives/cwcl.py \\
               --workdir=runs/objectives/cwcl
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
    config.name = "cwcl"
    config.objective.preset = "cwcl"
    return smoke(config) if small else config
