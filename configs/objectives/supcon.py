"""SupCon (out), arXiv 2004.11362, eq. 2

Loss:      mean over i+ of -log e^{s(i, i+)/tau} / sum over k != i of e^{s(i, k)/tau}; i+: same class; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/supcon.py \\
               --workdir=runs/objectives/supcon
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
    config.name = "supcon"
    config.objective.preset = "supcon"
    return smoke(config) if small else config
