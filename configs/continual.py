"""Classes in four tasks, one after the other: COCONUT on images, rehearsal, and neither (arXiv 2310.02699).

Command:   python -m xsample_jax.main --config=configs/continual.py --workdir=runs/continual/coconut
Variants:  :coconut (the default), :coconut_ntpt (the teacher in the denominator, too), :rehearsal (the classifier on
           new and rehearsed images), :finetuning (new images only); :smoke, also as ":rehearsal,smoke"
Hardware:  2 CPU cores; any accelerator.
Hours:     0.1 (5 minutes) a run, on 2 cores that are busy otherwise
Expected:  docs/plans.md: a table of one seed

A class is one of the eight groups of the emoji, two for each task; 16 images of every earlier class are rehearsed.
The evaluation after each task asks for the test concepts of all tasks so far; forgetting is what earlier tasks have
lost since they were best.
"""

from xsample_jax.config import default_config, parse_variants, smoke

TASKS, STEPS = 4, 50


def get_config(arg=""):
    variant, small = parse_variants(arg, ("coconut", "coconut_ntpt", "rehearsal", "finetuning"))
    variant = variant or "coconut"
    config = default_config()
    config.name = f"continual_{variant}"
    config.objective.preset = variant if variant.startswith("coconut") else "classifier"
    config.views = 1
    config.steps = TASKS * STEPS
    config.batch_size = 128

    config.data.label = "group"
    config.data.tasks.update(count=TASKS, steps=STEPS, keep=0 if variant == "finetuning" else 16, share=0.25)
    config.data.image_size = 48
    config.data.cache = "decoded"
    config.augment.update(size=32, crop_scale=(0.3, 1.0))

    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.update(hidden=(256,), dim=64)

    config.optimizer.update(name="adamw", learning_rate=2e-3, weight_decay=1e-4, schedule="constant")
    config.eval.suite = "classifier"
    config.eval.baselines = ()
    config.eval.every = STEPS
    config.checkpoint.every = STEPS
    return smoke(config) if small else config
