"""X-CLR on the icons set: 315,773 real icons of 183 drawing styles, the graph is the similarity of their captions.

Command:   python -m xsample_jax.main --config=configs/icons.py --workdir=runs/icons/xclr
               (make data/icons first: docs/notes/icons.md)
Variants:  :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  one GPU or TPU chip; a few CPU cores for short runs.
Hours:     --config.epochs=3 (1,815 steps) took 0.44 on two CPU cores; 10 epochs not measured
Expected:  after 3 epochs KL 1.2 nats, and on split val of the emoji set 27.2 % subgroup kNN and 57.1 % R@1 (one run;
           drawings of emoji are among the icons: docs/notes/icons.md)

The recipe of quickstart.py, which was chosen on drawings of the same size.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

QUICKSTART = pathlib.Path(__file__).parent / "quickstart.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(QUICKSTART)
    config.name = "icons_xclr"
    config.data.source, config.data.path = "records", "data/icons"
    config.data.cache = "decoded"  # 2.2 GB
    config.batch_size = 512  # [default]
    config.steps, config.epochs = None, 10  # [default] about 3.1 M images seen
    config.eval.suite = "none"  # no labels in this set; tools.evaluate probes the checkpoints on other sets
    config.checkpoint.update(every=1000, metric=None)
    return smoke(config) if small else config
