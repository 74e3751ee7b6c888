"""hard negative contrastive loss, arXiv 2010.04592, eq. 4

Loss:      negatives weighted by e^{beta s(i, k)/tau}, mean weight 1, beta 1; tau 0.5
Command:   python -m xsample_jax.main --config=configs/objectives/hcl.py \\
               --workdir=runs/objectives/hcl
Variants:  :smoke (5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     not measured; that of configs/quickstart.py
Expected:  not measured; the same encoder, data, augmentation and steps as configs/quickstart.py
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

QUICKSTART = pathlib.Path(__file__).parent.parent / "quickstart.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(QUICKSTART)
    config.name = "hcl"
    config.objective.preset = "hcl"
    return smoke(config) if small else config
