"""A generated set beside the real one (AdaInf), with weaker augmentation and real images drawn more often.

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes                        (once)
           python -m xsample_jax.main --config=configs/shapes.py:simclr --workdir=runs/hard \\
               --config.objective.generator.kind=hard                                                    (a generator)
           python -m xsample_jax.tools.generate --run=runs/hard --out=data/shapes_generated --count=160000
           python -m xsample_jax.main --config=configs/recipes/adainf.py --workdir=runs/adainf
Variants:  data :inflated (the default), :real; augmentation :weak (the default), :strong (SimCLR's); one of each, as
           ":real,strong"; :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     not measured
Expected:  not measured here. The paper (arXiv 2403.12448) finds on CIFAR-10 that inflation hardly helps with strong
           augmentation (SimCLR 91.56, inflated 91.38) and does with weak (93.42); its images are those of a diffusion
           model, much better than what a small generator makes.

As the paper's code has it: real images ten times in an epoch of both sets, crops of at least 0.2 of the area, jitter
with probability 0.4 and ranges (0.4, 0.4, 0.4, 0.1), blur 0.5, gray 0.2, SimCLR at tau 0.2, LARS, batches of 256. The
learning rate, the encoder and the number of steps are ours.
"""

from xsample_jax.config import default_config, parse_variant_groups, smoke

REAL, GENERATED, TIMES = 8_000, 160_000, 10  # images of the two sets, and how often an epoch has a real one


def real_share(real: int, generated: int, times: float) -> float:
    """Share of real images in an epoch of `generated` images and `times` copies of each of `real` images."""
    return times * real / (times * real + generated)


def get_config(arg=""):
    (data, augmentation), small = parse_variant_groups(arg, (("inflated", "real"), ("weak", "strong")))
    config = default_config()
    config.name = "_".join(filter(None, ("adainf", data, augmentation)))
    config.steps = 2000
    config.batch_size = 256
    config.views = 2

    config.data.source, config.data.path = "records", "data/shapes"
    if data != "real":
        share = 1 - real_share(REAL, GENERATED, TIMES)
        config.data.mix = ({"path": "data/shapes_generated", "share": share},)
    config.data.image_size = 48
    config.augment.update(size=32, gray=0.2, blur=0.5)
    if augmentation == "strong":
        config.augment.update(crop_scale=(0.08, 1.0), jitter=0.8, jitter_strength=(0.8, 0.8, 0.8, 0.2))
    else:
        config.augment.update(crop_scale=(0.2, 1.0), jitter=0.4, jitter_strength=(0.4, 0.4, 0.4, 0.1))

    config.objective.preset = "simclr"
    config.objective.temperature = 0.2
    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.hidden = (256,)
    config.model.head.dim = 64

    config.optimizer.name = "lars"
    config.optimizer.learning_rate = 0.3
    config.optimizer.lr_scaling = "linear"

    config.eval.suite = "shapes"
    config.checkpoint.every = 500
    return smoke(config) if small else config
