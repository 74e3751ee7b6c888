"""SwALIP, arXiv 2305.08675

Loss:      image<->text cross-entropy to the Sinkhorn-balanced cosines (eps 0.05) of the swapped pair; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/swalip.py \\
               --workdir=runs/objectives/swalip
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
    config.name = "swalip"
    config.objective.preset = "swalip"
    return smoke(config) if small else config
