"""`:smoke` of every config: the same code path on the embedded data, small enough for seconds on a laptop."""

import ml_collections


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks `config` in place and returns it.

    Kept: objective, graph, views, augmentation, encoder family, stem, head kind, optimiser, schedule and precision,
    for these are what a smoke run should execute. Changed: the data (embedded emoji), every size, the run's length,
    and evaluation, which is off.
    """
    config.name = f"{config.name}_smoke"
    config.steps, config.epochs = 5, None
    config.batch_size = 16
    config.data.update(source="emoji", path=None, split="train", fingerprint=None, mix=(), cache="none")
    config.data.update(image_size=32, threads=2, prefetch=2)
    config.augment.size = 32
    config.model.encoder = "vit_ti" if config.model.encoder.startswith("vit") else "resnet18"
    config.model.width = 8
    config.model.patch_size = 8
    config.model.update(init_from=None, init_family=None)
    config.model.head.update(hidden=(32,) * len(config.model.head.hidden), dim=16)
    config.model.text.update(layers=min(config.model.text.layers, 1), width=32, heads=2, length=16)
    config.mesh.topology = None
    config.checkpoint.update(every=2, metric=None, resume_from=None)
    config.eval.update(suite="none", split="test", train_split="train", every=None, batch_size=64)
    config.log.update(every=1, profile=(), wandb=None)
    return config
