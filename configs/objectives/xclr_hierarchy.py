"""X-CLR with the graph of a taxonomy (Wu and Palmer 1994)

Loss:      T = softmax over k != i of Wu-Palmer(leaf_i, leaf_k) / tau_s on a given tree
Command:   python -m xsample_jax.main --config=configs/objectives/xclr_hierarchy.py \\
               --workdir=runs/objectives/xclr_hierarchy
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
    config.name = "xclr_hierarchy"
    config.objective.preset = "xclr_hierarchy"
    return smoke(config) if small else config
