"""A pretrained ResNet-50 on ImageNet, fine-tuned with X-CLR for a few epochs (arXiv 2407.18134).

Command:   python -m xsample_jax.main --config=configs/finetune.py --workdir=runs/imagenet/finetune \\
               --config.data.path=FOLDER --config.model.init_from=resnet50.safetensors
           (torchvision's or timm's weights, supervised or self-supervised; where to get them: docs/weights.md)
Variants:  :smoke (embedded emoji, 5 small steps, from scratch: no weights are shipped)
Hardware:  TPU v5e-16 (4x4); 8 GPUs will do.
Hours:     not measured
Expected:  not measured. The paper calls the gain of a short fine-tuning worth its small cost; its epochs, rates and
           table could not be read.

[default] throughout: the recipe of imagenet.py, ten epochs, a tenth of its rate. The head is new; a checkpoint of
the run itself wins over init_from, so the same command resumes.
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

IMAGENET = pathlib.Path(__file__).parent / "imagenet.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(IMAGENET)
    config.name = "imagenet_finetune"
    config.epochs = 10
    config.model.init_from = "weights/resnet50.safetensors"
    config.model.init_family = "resnet"
    config.optimizer.learning_rate = 0.0075
    config.optimizer.warmup = 0.05
    return smoke(config) if small else config
