"""A feature that is easy to learn against the rest of the image: random bits, a pasted digit, a larger digit.

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes     (once; other sets: see Variants)
           python -m xsample_jax.main --config=configs/suppression.py --workdir=runs/suppression/simclr \
               --config.augment.bits=8
Variants:  what competes :bits (the default; set shapes, --config.augment.bits=K),
           :digits (--source=digits_on_images --path=data/shapes --digits=N --canvas=48, into data/digits_on_shapes_N),
           :sizes (--source=multi_digits --digit_sizes=20,N, into data/digits_20_N);
           objective :simclr (the default), :supcon, :clip_frozen_text, :xclr, :generalized_lse,
           :generalized_swd_sphere, :generalized_swd_cube, :generalized_swd_normal; one of each, as ":digits,xclr";
           :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     docs/notes/feature_suppression.md
Expected:  docs/notes/feature_suppression.md

Captions name the features that are suppressed: shape, color, texture and count of the object, or the small digit. So
clip_frozen_text and xclr are told of them, supcon has their class, and the other objectives see the views alone.
"""

from xsample_jax.config import default_config, parse_variant_groups, smoke

PRIORS = ("generalized_lse", "generalized_swd_sphere", "generalized_swd_cube", "generalized_swd_normal")
OBJECTIVES = ("simclr", "supcon", "clip_frozen_text", "xclr", *PRIORS)
# What competes -> (set, side of its images, which of its captions names the features that are suppressed).
SETS = {
    "bits": ("data/shapes", 48, "1"),
    "digits": ("data/digits_on_shapes_16", 48, "3"),
    "sizes": ("data/digits_20_80", 112, "1"),
}


def get_config(arg=""):
    (competing, objective), small = parse_variant_groups(arg, (tuple(SETS), OBJECTIVES))
    competing, objective = competing or "bits", objective or "simclr"

    config = default_config()
    config.name = f"suppression_{competing}_{objective}"
    config.objective.preset = objective
    config.steps = 200
    config.batch_size = 256
    config.views = 2

    config.data.source = "records"
    config.data.path, config.data.image_size, config.data.caption = SETS[competing]
    # Mild views: no crop leaves a digit or an object out, nothing touches colors.
    config.augment.size = 32 if competing != "sizes" else 56
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.update(flip=0.0, jitter=0.0, gray=0.0)

    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.hidden = (256,)
    config.model.head.dim = 64

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 1e-4

    config.eval.suite = "shapes"  # a linear probe for every attribute
    config.checkpoint.every = 200
    if small:
        config.data.caption = "first"  # the embedded set has other captions
        config.augment.size = 32
        return smoke(config)
    return config
