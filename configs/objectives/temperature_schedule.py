"""arXiv 2303.13664, eq. 6

Loss:      NT-Xent with tau moving between 0.1 and 1 as a cosine, 4 periods over the run
Command:   python -m xsample_jax.main --config=configs/objectives/temperature_schedule.py \\
               --workdir=runs/objectives/temperature_schedule
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
    config.name = "temperature_schedule"
    config.objective.preset = "temperature_schedule"
    return smoke(config) if small else config
