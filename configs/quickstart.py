"""X-CLR and its baselines on the embedded emoji set: about 6,500 drawings of about 1,300 concepts, each with a caption.

Command:   make quickstart     (X-CLR and SimCLR, then one report)
           python -m xsample_jax.main --config=configs/quickstart.py --workdir=runs/quickstart/xclr
Variants:  :xclr (the default), :simclr, :supcon (class = concept), :clip_frozen_text; :smoke, also as ":simclr,smoke"
Hardware:  2 CPU cores; any accelerator.
Hours:     0.03 (2 minutes) a run with evaluation, on 2 cores
Expected:  what pulls an image to its own frozen caption (clip_frozen_text) is ahead of SimCLR on unseen concepts by 3
           to 6 points, X-CLR by one or two on some metrics, SupCon not. Table with intervals: README.md (make results).

All variants share encoder, data, augmentation and number of steps; only the objective differs.
"""

from xsample_jax.config import default_config, parse_variants, smoke


def get_config(arg=""):
    objective, small = parse_variants(arg, ("xclr", "simclr", "supcon", "clip_frozen_text"))
    objective = objective or "xclr"

    config = default_config()
    config.name = f"quickstart_{objective}"
    config.objective.preset = objective
    config.steps = 400  # about 16 passes over the training split
    config.batch_size = 256
    config.views = 2

    config.data.source = "emoji"
    config.data.image_size = 48  # the host delivers whole drawings; views are cropped from them
    config.data.cache = "decoded"  # 60 MB
    config.augment.size = 32
    config.augment.crop_scale = (0.3, 1.0)  # a drawing is mostly one object: smaller crops show parts that say nothing

    config.model.encoder = "resnet18"
    config.model.width = 16  # a sixteenth of the products of a full ResNet-18: made for two CPU cores
    config.model.stem = "imagenet"  # the cifar stem keeps 16 times the positions and costs 9 times the time on a CPU
    config.model.head.hidden = (256,)
    config.model.head.dim = 64

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3  # the best of 2e-3, 5e-3, 1e-2 on validation concepts, for every variant
    config.optimizer.weight_decay = 1e-4

    config.eval.suite = "emoji"
    config.checkpoint.every = 100
    return smoke(config) if small else config
