"""X-CLR and SimCLR by encoder: does a soft target help small networks, large ones, other kinds?

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/encoder.py \\
               --out=runs/encoder --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      24 of 5 to 20 minutes on 2 CPU cores (not measured)

ResNets are those of quickstart.py, a quarter as wide as usual; the ViT looks at 16 patches of 8 pixels.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
ENCODERS = ("resnet18", "resnet34", "resnet50", "vit_ti")


def get_grid(arg=""):
    _, small = parse_variants(arg)
    tags = ("xclr", "simclr")
    bases = {tag: f"{CONFIGS}/quickstart.py:{tag}" + (",smoke" if small else "") for tag in tags}
    seeds = SEEDS[:1] if small else SEEDS
    encoders = [(name, 8) for name in ENCODERS]
    return grid(bases, {("model.encoder", "model.patch_size"): encoders, "seed": seeds})
