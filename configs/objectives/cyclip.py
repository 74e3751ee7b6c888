"""CyCLIP, arXiv 2205.14459, eqs. 3, 4

Loss:      CLIP + consistency of similarities within and across modalities, 0.25 each
Command:   python -m xsample_jax.main --config=configs/objectives/cyclip.py \\
               --workdir=runs/objectives/cyclip
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
    config.name = "cyclip"
    config.objective.preset = "cyclip"
    return smoke(config) if small else config
