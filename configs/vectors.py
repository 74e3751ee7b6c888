"""X-CLR on vectors in the place of images: features of audio, rows of a table, fingerprints of molecules.

Command:   python -m xsample_jax.tools.prepare --source=vectors --path=sounds.npz --splits=train=0.9,test=0.1 \\
               --out=data/sounds
           python -m xsample_jax.tools.embed --data=data/sounds
           python -m xsample_jax.main --config=configs/vectors.py --config.data.path=data/sounds \\
               --config.data.image_size=512 --workdir=runs/sounds
Variants:  :xclr (the default), :simclr, :supcon; :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  a CPU.
Hours:     not measured; minutes for 100,000 vectors on 2 CPU cores
Expected:  not measured: it is a recipe for data of your own (docs/vectors.md)
"""

from xsample_jax.config import default_config, parse_variant_groups, smoke

OBJECTIVES = ("xclr", "simclr", "supcon")


def get_config(arg=""):
    (objective,), small = parse_variant_groups(arg, (OBJECTIVES,))
    objective = objective or "xclr"

    config = default_config()
    config.name = f"vectors_{objective}"
    config.objective.preset = objective
    config.epochs = 30
    config.batch_size = 256

    config.data.source, config.data.path = "vectors", "data/vectors"
    config.data.image_size = 512  # the width of the vectors: `prepare` says it
    config.augment.noise = 0.1
    config.augment.dropout = 0.3

    config.model.encoder = "mlp2"
    config.model.width = 512
    config.model.head.hidden = (512,)
    config.model.head.dim = 64

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4

    config.eval.suite = "none"  # "probe" where the records have labels
    if small:
        config.augment.update(noise=0.0, dropout=0.0)  # the embedded set has images
        return smoke(config)
    return config
