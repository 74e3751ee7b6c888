"""SimCLR, arXiv 2002.05709, eq. 1

Loss:      NT-Xent: -log e^{s(i, i+)/tau} / sum over k != i of e^{s(i, k)/tau}; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/simclr.py \\
               --workdir=runs/objectives/simclr
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
    config.name = "simclr"
    config.objective.preset = "simclr"
    return smoke(config) if small else config
