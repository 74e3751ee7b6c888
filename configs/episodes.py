"""Few-shot learning on episodes of emoji: SuSana Distancia's losses and the prototypical baseline (arXiv 2305.09062).

Command:   python -m xsample_jax.main --config=configs/episodes.py --workdir=runs/episodes/susana
Variants:  :susana (the default), :prototypical, :simclr (no episodes, no labels, as a control); :smoke, also as
           ":prototypical,smoke"
Hardware:  2 CPU cores; any accelerator.
Hours:     0.1 (5 minutes) a run, on 2 cores that are busy otherwise
Expected:  56% in 5-way 1-shot for :susana, seen once (docs/plans.md); not measured for the others

Classes are concepts, of which the test split has others than the training split. An emoji is drawn in about five
styles, so an episode has one image of a concept as its support and three others as queries.
"""

from xsample_jax.config import default_config, parse_variants, smoke


def get_config(arg=""):
    objective, small = parse_variants(arg, ("susana", "prototypical", "simclr"))
    objective = objective or "susana"
    config = default_config()
    config.name = f"episodes_{objective}"
    config.objective.preset = objective
    config.views = 2 if objective == "simclr" else 1
    config.steps = 200
    config.batch_size = 128
    if objective != "simclr":
        config.data.episodes.update(way=32, shot=1, query=3)

    config.data.image_size = 48
    config.data.cache = "decoded"
    config.augment.update(size=32, crop_scale=(0.3, 1.0))

    config.model.encoder = "resnet18"
    config.model.width = 16
    config.model.stem = "imagenet"
    config.model.head.update(hidden=(256,), dim=64)

    config.optimizer.update(name="adamw", learning_rate=2e-3, weight_decay=1e-4)
    config.eval.suite = "episodes"
    config.eval.episodes.update(way=5, shot=1, query=3, count=1000)
    config.checkpoint.every = 100
    return smoke(config) if small else config
