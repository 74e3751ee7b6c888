"""spectral contrastive loss, arXiv 2106.04156, eq. 6

Loss:      -2 <z, z'> + mean over other pairs of <z_i, z'_k>^2
Command:   python -m xsample_jax.main --config=configs/objectives/spectral.py \\
               --workdir=runs/objectives/spectral
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
    config.name = "spectral"
    config.objective.preset = "spectral"
    return smoke(config) if small else config
