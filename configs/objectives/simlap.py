"""SimLAP, arXiv 2410.18200

Loss:      decoupled softmax of cosines behind a learned gate of (class of i, a second class)
Command:   python -m xsample_jax.main --config=configs/objectives/simlap.py \\
               --workdir=runs/objectives/simlap
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
    config.name = "simlap"
    config.objective.preset = "simlap"
    return smoke(config) if small else config
