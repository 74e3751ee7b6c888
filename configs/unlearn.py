"""Forgetting a class, or some records, of a trained classifier on the embedded emoji (arXiv 2401.10458).

Command:   python -m xsample_jax.main --config=configs/unlearn.py:original --workdir=runs/unlearn/original
           python -m xsample_jax.main --config=configs/unlearn.py --workdir=runs/unlearn/forgotten \\
               --config.model.init_from=runs/unlearn/original --config.data.forget.classes='(1,)'
           python -m xsample_jax.main --config=configs/unlearn.py:retrained --workdir=runs/unlearn/retrained
           python -m xsample_jax.tools.report runs/unlearn/original runs/unlearn/forgotten runs/unlearn/retrained
Variants:  :original (trained on everything), :retrained (trained without what is to be forgotten); :smoke, also as
           ":retrained,smoke"
Hardware:  2 CPU cores; any accelerator.
Hours:     0.1 (5 minutes) for the three runs, on 2 cores that are busy otherwise
Expected:  docs/plans.md: a table of one seed

A class is one of the eight groups of the emoji. For records in place of a class give both variants that know of them
--config.data.forget.classes='()' --config.data.forget.ids=FILE, a text file with the id of a record on each line.
Unlearning ends by its rule: what is forgotten is no better classified than by chance (a class) or than the test
images (records).
"""

from xsample_jax.config import default_config, parse_variants, smoke

FORGET = (1,)  # people and their bodies, a fifth of the images


def get_config(arg=""):
    variant, small = parse_variants(arg, ("original", "retrained"))
    config = default_config()
    config.name = "unlearn" + (f"_{variant}" if variant else "")
    config.objective.preset = "classifier" if variant else "unlearning"
    config.views = 1
    config.steps = 400
    config.batch_size = 128

    config.data.label = "group"
    config.data.image_size = 48
    config.data.cache = "decoded"
    config.augment.update(size=32, crop_scale=(0.3, 1.0))
    if variant != "original":
        config.data.forget.classes = FORGET
        config.data.forget.share = 0.0 if variant else 0.5

    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.update(hidden=(256,), dim=64)

    config.eval.suite = "classifier"
    config.eval.baselines = ()
    config.checkpoint.every = 100
    if variant:
        config.optimizer.update(name="adamw", learning_rate=5e-3, weight_decay=1e-4)
    else:
        config.model.update(init_from="runs/unlearn/original", init_whole=True)
        config.optimizer.update(name="sgd", learning_rate=1e-3, momentum=0.9, weight_decay=0.0)
        config.optimizer.update(schedule="constant", warmup=0.0)
        config.eval.every = 10
        config.eval.stop = ({"metric": "classifier/forget_excess", "at_most": 0.0},)
        config.checkpoint.every = 10
    return smoke(config) if small else config
