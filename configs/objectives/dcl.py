"""DCL, arXiv 2110.06848, eq. 6

Loss:      -s(i, i+)/tau + log sum over other images k of e^{s(i, k)/tau}
Command:   python -m xsample_jax.main --config=configs/objectives/dcl.py \\
               --workdir=runs/objectives/dcl
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
    config.name = "dcl"
    config.objective.preset = "dcl"
    return smoke(config) if small else config
