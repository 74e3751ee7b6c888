"""What a representation keeps, on images whose factors are known: shape, color, texture, count, ground, position.

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes     (once: 30 seconds)
           python -m xsample_jax.main --config=configs/shapes.py --workdir=runs/shapes/xclr
Variants:  objective :xclr (the default), :simclr, :supcon (class = shape), :clip_frozen_text,
           :y_aware (target = count), :multi_label (labels = shape, color, texture, count);
           what the caption names :all (the default), :object (shape, color, texture, count), :shape, :ground;
           augmentation :erase_color (strong color jitter, and gray); one of each, as ":xclr,ground,erase_color";
           :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     0.08 (5 minutes) a run with evaluation, two at once on 2 shared cores
Expected:  docs/notes/shapes.md

Every run is measured by one linear probe per factor; what chance is and which pairs are alike is known exactly.
"""

from xsample_jax.config import default_config, parse_variant_groups, smoke

OBJECTIVES = ("xclr", "simclr", "supcon", "clip_frozen_text", "y_aware", "multi_label")
# What two of them read of every image: attributes of shapes, and of the embedded emoji for :smoke.
SIDE = {
    "y_aware": ({"name": "target", "attributes": ("count",)}, {"name": "target", "attributes": ("subgroup",)}),
    "multi_label": (
        {"name": "labels", "attributes": ("shape", "color", "texture", "count")},
        {"name": "labels", "attributes": ("style", "group", "subgroup")},
    ),
}
CAPTIONS = ("all", "object", "shape", "ground")  # as prepare/shapes.py writes them into the records
AUGMENTATIONS = ("erase_color",)


def get_config(arg=""):
    (objective, caption, augmentation), small = parse_variant_groups(arg, (OBJECTIVES, CAPTIONS, AUGMENTATIONS))
    objective, caption = objective or "xclr", caption or "all"

    config = default_config()
    config.name = "_".join(filter(None, ("shapes", objective, caption if caption != "all" else "", augmentation)))
    config.objective.preset = objective
    config.steps = 200  # 6 passes over the 8,000 images
    config.batch_size = 256
    config.views = 2

    config.data.source, config.data.path = "records", "data/shapes"
    config.data.image_size = 48
    config.data.caption = str(CAPTIONS.index(caption))
    config.data.side = SIDE[objective][small : small + 1] if objective in SIDE else ()
    # Mild views: neither moving nor turning erases a factor, and nothing touches colors.
    config.augment.size = 32
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.update(flip=0.0, jitter=0.0, gray=0.0)
    if augmentation == "erase_color":
        config.augment.update(jitter=1.0, jitter_strength=(0.4, 0.4, 0.8, 0.5), gray=0.3)

    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.hidden = (256,)
    config.model.head.dim = 64

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 1e-4

    config.eval.suite = "shapes"
    config.checkpoint.every = 100
    if small:
        config.data.caption = "first"  # the embedded set has other captions
        return smoke(config)
    return config
