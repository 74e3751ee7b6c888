"""SigLIP, arXiv 2303.15343, eq. 1

Loss:      -1/B sum over pairs of log sigmoid(y (s/tau + b)), y = +-1; tau from 0.1 and b from -10 learned
Command:   python -m xsample_jax.main --config=configs/objectives/siglip.py \\
               --workdir=runs/objectives/siglip
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
    config.name = "siglip"
    config.objective.preset = "siglip"
    return smoke(config) if small else config
