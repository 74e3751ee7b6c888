"""CIFAR-100: as cifar10.py, with 100 classes, whose names say more about which images are alike.

Command:   python -m xsample_jax.main --config=configs/cifar100.py --workdir=runs/cifar100/simclr
           (the dataset as in cifar10.py, with cifar100 in its place)
Variants:  :simclr (the default), :xclr, :supcon; :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  one GPU or TPU chip.
Hours:     not measured
Expected:  not measured
"""

import pathlib

from xsample_jax.config import read_config_file

CIFAR10 = pathlib.Path(__file__).parent / "cifar10.py"


def get_config(arg=""):
    config = read_config_file(CIFAR10, arg)
    config.name = config.name.replace("cifar10", "cifar100")
    if config.data.path is not None:  # of :smoke it is
        config.data.path = "data/cifar100"
    return config
