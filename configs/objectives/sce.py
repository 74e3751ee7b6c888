"""SCE, arXiv 2111.14585, eq. 5

Loss:      T = 0.5 own key + 0.5 softmax of the EMA encoder's similarities to the queue / 0.05; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/sce.py \\
               --workdir=runs/objectives/sce
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
    config.name = "sce"
    config.objective.preset = "sce"
    return smoke(config) if small else config
