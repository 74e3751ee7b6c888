"""Wang and Isola, arXiv 2005.10242

Loss:      mean |z - z'|^2 + the mean of log mean e^{-2 |z_i - z_k|^2} of both views
Command:   python -m xsample_jax.main --config=configs/objectives/align_uniform.py \\
               --workdir=runs/objectives/align_uniform
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
    config.name = "align_uniform"
    config.objective.preset = "align_uniform"
    return smoke(config) if small else config
