"""control: a soft graph that says nothing

Loss:      T = softmax over k != i of the cosine of random vectors / tau_s
Command:   python -m xsample_jax.main --config=configs/objectives/xclr_random.py \\
               --workdir=runs/objectives/xclr_random
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
    config.name = "xclr_random"
    config.objective.preset = "xclr_random"
    return smoke(config) if small else config
