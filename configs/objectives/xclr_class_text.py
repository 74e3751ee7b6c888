"""X-CLR on ImageNet, arXiv 2407.18134, appendix A.7

Loss:      T = softmax over k != i of cos(c_y(i), c_y(k)) / tau_s, c frozen class texts
Command:   python -m xsample_jax.main --config=configs/objectives/xclr_class_text.py \\
               --workdir=runs/objectives/xclr_class_text
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
    config.name = "xclr_class_text"
    config.objective.preset = "xclr_class_text"
    return smoke(config) if small else config
