"""MV-InfoNCE, arXiv 2507.06979

Loss:      -log (sum over view pairs of e^{s/tau} of one image / sum over all pairs of the image's views with others)
Command:   python -m xsample_jax.main --config=configs/objectives/mv_infonce.py \\
               --workdir=runs/objectives/mv_infonce
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
    config.name = "mv_infonce"
    config.objective.preset = "mv_infonce"
    return smoke(config) if small else config
