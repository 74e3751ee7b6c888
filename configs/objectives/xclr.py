"""X-CLR, arXiv 2407.18134

Loss:      T = softmax over k != i of cos(e_i, e_k) / tau_s, e frozen captions; S = z_i.z_k / tau; tau = tau_s = 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/xclr.py \\
               --workdir=runs/objectives/xclr
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
    config.name = "xclr"
    config.objective.preset = "xclr"
    return smoke(config) if small else config
