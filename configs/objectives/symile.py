"""Symile, arXiv 2411.01053

Loss:      s = sum_d a_d b_d c_d of three modalities (two views and the text), each anchors all pairs of the others
Command:   python -m xsample_jax.main --config=configs/objectives/symile.py \\
               --workdir=runs/objectives/symile
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
    config.name = "symile"
    config.objective.preset = "symile"
    return smoke(config) if small else config
